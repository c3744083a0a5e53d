from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.errors import ConfigError
from retrieval.evaluation.suites import DataSet, Suite, read_suite

SUITE = """
name = "small"
about = "two sources"

[defaults]
metric = "MRR@10"
licence = "CC BY 4.0"

[[data]]
name = "scifact"
source = "beir:scifact"
archive_checksum = "md5:5f7d1de60b170fc8027bb7898e2efca1"
documents = 5183
licence = "CC BY-NC 2.0"
reference = { "BM25 (a paper)" = 0.665 }

[[data]]
name = "needle-256"
source = "hf:dwzhu/LongEmbed"
revision = "6e346642246bfb4928c560ee08640dc84d074e8c"
title = "drop"
hub.corpus = { subset = "needle", split = "corpus", where = { context_length = 256 } }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, "utf-8")
    return path


def data_set(name: str = "a", source: str = "folder:a", **others: str | None) -> DataSet:
    return DataSet(name=name, source=source, **others)  # type: ignore[arg-type]


def test_a_suite_is_read_with_its_defaults(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, SUITE))
    assert (suite.name, suite.about) == ("small", "two sources")
    scifact, needle = suite.data
    assert (scifact.kind, scifact.place, scifact.documents) == ("beir", "scifact", 5183)
    assert scifact.reference == {"BM25 (a paper)": 0.665}
    assert [each.metric for each in suite.data] == ["MRR@10", "MRR@10"]
    assert [each.licence for each in suite.data] == ["CC BY-NC 2.0", "CC BY 4.0"]
    assert (needle.kind, needle.place, needle.title) == ("hf", "dwzhu/LongEmbed", "drop")
    assert needle.hub.corpus.where == {"context_length": 256}
    assert needle.hub.queries.subset == "queries", "the other tables keep their defaults"


def test_a_beir_source_has_an_address_of_its_own_and_parts_share_it() -> None:
    base = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/"
    assert data_set(source="beir:scifact").archive_url == f"{base}scifact.zip"
    assert data_set(source="beir:cqadupstack/tex").archive_url == f"{base}cqadupstack.zip"
    mirror = data_set(source="beir:scifact", url="https://example.org/s.zip")
    assert mirror.archive_url == "https://example.org/s.zip"
    assert data_set(source="folder:x").archive_url is None


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("documents = 5183", "document = 1", "data set scifact: unknown key 'document'.*'doc"),
        ("documents = 5183", "documents = 0", "data set scifact: documents is 0"),
        ("documents = 5183", 'documents = "many"', "data set scifact: documents: .*integer"),
        ('"MRR@10"', '"MRR"', "data set scifact: unknown metrics: 'MRR'"),
        ('name = "scifact"', "", "data set 1: name: Field required"),
        ('name = "scifact"', 'name = "../x"', r"data set \.\./x: name is .*folder's name"),
        ('name = "scifact"', 'name = "needle-256"', "of the same name: needle-256"),
        ("beir:scifact", "bier:scifact", "source is 'bier:scifact', expected beir:NAME"),
        ("beir:scifact", "beir:", "source is 'beir:', expected"),
        ("beir:scifact", "beir:../x", "expected beir:NAME or beir:NAME/PART"),
        ("beir:scifact", "hf:x/scifact", "hf:x/scifact has no revision"),
        ("beir:scifact", "folder:x", "archive_checksum is for sources of the kind beir:"),
        ("md5:5f7d", "md5:zzzz", "archive_checksum is 'md5:zzzz.*expected md5: or sha256:"),
        ("documents = 5183", 'checksum = "md5:5f7d1de60b170fc8027bb7898e2efca1"', "sha256:"),
        ('"drop"', '"none"', "data set needle-256: title: .*'join' or 'drop'"),
        ("where", "were", "data set needle-256: unknown key 'hub.corpus.were'.*where"),
        ("about", "abuot", "unknown key 'abuot'.*'about'"),
        ("[[data]]", "[data]", "Cannot (mutate|overwrite|declare)"),
        ("[defaults]", "[[defaults]]", r"expected a table \[defaults\]"),
    ],
)
def test_what_can_not_be_read_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in SUITE
    path = write(tmp_path, SUITE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=problem) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [('name = "x"', "no data sets"), ('name = "x"\ndata = 3', r"tables \[\[data\]\]")],
)
def test_a_suite_without_data_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_suite(write(tmp_path, text))
    with pytest.raises(ConfigError, match="no such recipe"):
        read_suite(tmp_path / "absent.toml")


def grouped() -> Suite:
    groups = {"a": None, "b1": "b", "b2": "b", "c": None}
    return Suite(name="s", data=tuple(data_set(name, group=g) for name, g in groups.items()))


def test_data_sets_are_chosen_by_name_or_group_in_the_suite_s_order() -> None:
    suite = grouped()
    assert [each.name for each in suite.choose(["c", "b"]).data] == ["b1", "b2", "c"]
    assert suite.choose([]) == suite
    with pytest.raises(ConfigError, match="s has no data set 'b3'; the nearest known one is 'b"):
        suite.choose(["b3"])


def test_a_group_counts_as_one_in_the_mean() -> None:
    suite = grouped()
    figures = {"a": 0.2, "b1": 0.4, "b2": 0.8, "c": 0.7}
    assert suite.mean(figures) == pytest.approx((0.2 + 0.6 + 0.7) / 3)
    assert suite.mean({"b1": 0.4, "c": 0.7}) == pytest.approx(0.55)
    with pytest.raises(ConfigError, match="no data set 'd'"):
        suite.mean({"d": 1.0})
    with pytest.raises(ConfigError, match="no figures"):
        suite.mean({})


def test_a_name_is_a_data_set_s_or_a_group_s() -> None:
    with pytest.raises(ConfigError, match="of a data set and of a group: b"):
        Suite(name="s", data=(data_set("b"), data_set("c", group="b")))


def test_a_suite_takes_data_sets_from_another(tmp_path: Path) -> None:
    write(tmp_path, SUITE)
    other = tmp_path / "other.toml"
    own = '[[data]]\nname = "x"\nsource = "folder:x"\n'
    other.write_text(f'name = "o"\nbase = "suite.toml"\nonly = ["scifact"]\n{own}')
    scifact, x = read_suite(other).data
    assert scifact == read_suite(tmp_path / "suite.toml").data[0]
    assert x.name == "x"
    other.write_text('name = "o"\nbase = "suite.toml"\nonly = ["nothing"]')
    with pytest.raises(ConfigError, match="small has no data set 'nothing'"):
        read_suite(other)
    other.write_text(f'name = "o"\nonly = ["scifact"]\n{own}')
    with pytest.raises(ConfigError, match="expected a file as base"):
        read_suite(other)


SUITES = sorted((Path(__file__).parents[2] / "eval" / "suites").glob("*.toml"))


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("beir", 19),
        ("beir-15", 15),
        ("beir-14", 14),
        ("beir-13", 13),
        ("nanobeir", 13),
        ("modernbert-paper", 4),
        ("longembed", 6),
        ("code-search-net", 6),
        ("coir", 10),
    ],
)
def test_a_shipped_suite_has_as_many_data_sets_as_its_name_says(name: str, counted: int) -> None:
    path = next(each for each in SUITES if each.stem == name)
    assert len({each.group or each.name for each in read_suite(path).data}) == counted


def test_shipped_suites_say_where_data_come_from_and_agree() -> None:
    assert len(SUITES) >= 14
    known: dict[str, DataSet] = {}
    for path in SUITES:
        suite = read_suite(path)
        assert suite.name == path.stem
        assert suite.about
        for each in suite.data:
            is_alone = known.setdefault(each.name, each) == each
            assert is_alone or (each.kind == "folder" and each.checksum), "one folder for two"
            assert each.kind != "beir" or each.archive_checksum
            assert each.kind != "folder" or each.obtain
            assert each.kind in ("packages", "folder") or each.documents
