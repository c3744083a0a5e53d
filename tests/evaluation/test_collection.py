from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.corpus import read_queries
from retrieval.errors import DuplicateIdError, InputError
from retrieval.evaluation import (
    read_collection,
    read_qrels,
    read_run,
    read_suite,
    read_systems,
    write_run,
)
from retrieval.files import BadLines
from retrieval.records import Document, Hit, Query

WriteBeir = Callable[..., Path]


def test_a_beir_folder_is_read_with_the_judged_queries_only(write_beir: WriteBeir) -> None:
    collection = read_collection(write_beir())
    assert (collection.name, collection.split) == ("tiny", "test")
    assert collection.queries == (
        Query("q1", "quick brown"),
        Query("q2", "lazy dogs"),
        Query("q4", "brown honey bears"),
    )
    assert collection.qrels == {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}, "q4": {"d3": 1}}
    documents = list(collection.documents())
    assert documents[0] == Document("d1", "the quick brown fox", "Fox")
    assert [document.id for document in documents] == ["d1", "d2", "d3", "q1"]


def test_paths_may_be_strings(write_beir: WriteBeir, tmp_path: Path) -> None:
    folder = write_beir()
    collection = read_collection(str(folder))
    assert collection.path == folder
    assert read_qrels(str(folder / "qrels" / "test.tsv")) == collection.qrels
    assert len(list(read_queries(str(folder / "queries.jsonl")))) >= len(collection.queries)
    run = {"q1": [Hit("d1", 1.0)]}
    write_run(str(tmp_path / "run.trec"), run, "bm25")
    assert read_run(str(tmp_path / "run.trec")) == run
    systems = tmp_path / "systems.toml"
    systems.write_text('[[system]]\nname = "words"\nkind = "bm25"\n')
    assert [each.name for each in read_systems(str(systems))] == ["words"]
    suite = Path(__file__).parents[2] / "eval/suites/beir.toml"
    assert read_suite(str(suite)) == read_suite(suite)


def test_gzipped_files_read_the_same(write_beir: WriteBeir) -> None:
    folder = write_beir()
    plain = read_collection(folder)
    documents = list(plain.documents())
    for name in ("corpus", "queries"):
        path = folder / f"{name}.jsonl"
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = read_collection(folder)
    assert packed == plain
    assert list(packed.documents()) == documents


@pytest.mark.parametrize(
    ("name", "split"), [("scifact", "test"), ("nfcorpus-lc", "dev"), ("cosqa", "dev")]
)
def test_collections_are_read_as_beir_reads_them(shared_data: Path, name: str, split: str) -> None:
    loader = pytest.importorskip("beir.datasets.data_loader")
    corpus, queries, qrels = loader.GenericDataLoader(str(shared_data / name)).load(split)
    collection = read_collection(shared_data / name, split)
    assert collection.qrels == qrels
    assert {query.id: query.text for query in collection.queries} == queries
    ours = {each.id: (each.title, each.text) for each in collection.documents()}
    assert ours == {each: (entry["title"] or "", entry["text"]) for each, entry in corpus.items()}


def test_the_test_split_is_the_default(write_beir: WriteBeir) -> None:
    line = "q1\td1\t1\n"
    folder = write_beir(name="a", dev=line, test=line, train=line)
    assert read_collection(folder).split == "test"


def test_the_only_split_is_taken_and_logged(
    write_beir: WriteBeir, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert read_collection(write_beir(dev="q1\td1\t1\n")).split == "dev"
    assert "evaluating on 'dev', the only split" in caplog.text


@pytest.mark.parametrize("asked", [None, "test", "../qrels/dev"])
def test_a_missing_split_lists_those_that_there_are(
    write_beir: WriteBeir, asked: str | None
) -> None:
    folder = write_beir(dev="q1\td1\t1\n", train="q1\td1\t1\n")
    with pytest.raises(InputError, match=r"no split .*; there are: dev, train"):
        read_collection(folder, asked)


def test_an_explicit_split_is_never_replaced_by_the_only_one(write_beir: WriteBeir) -> None:
    with pytest.raises(InputError, match="no split 'test'; there are: dev"):
        read_collection(write_beir(dev="q1\td1\t1\n"), "test")


def test_a_folder_of_another_layout_is_an_error(write_beir: WriteBeir, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*qrels/SPLIT.tsv"):
        read_collection(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no queries.jsonl"):
        read_collection(tmp_path)
    folder = write_beir()
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match=r"no judgements in qrels"):
        read_collection(folder)


def test_a_folder_without_a_corpus_is_not_taken_for_text_files(write_beir: WriteBeir) -> None:
    folder = write_beir()
    collection = read_collection(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"no corpus\.jsonl"):
        list(collection.documents())


def test_missing_queries_are_named_in_a_warning_and_strict_fails(
    write_beir: WriteBeir, caplog: pytest.LogCaptureFixture
) -> None:
    lines = "".join(f"gone{number:02d}\td1\t1\n" for number in range(12))
    folder = write_beir(test="q1\td1\t1\n" + lines)
    with caplog.at_level(logging.WARNING):
        collection = read_collection(folder)
    assert "12 judged queries have no text and score 0: 'gone00', 'gone01'" in caplog.text
    assert "'gone09', ..." in caplog.text
    assert "gone10" not in caplog.text
    assert collection.missing_queries == [f"gone{number:02d}" for number in range(12)]
    assert [query.id for query in collection.queries] == ["q1"]
    assert len(collection.qrels) == 13
    with pytest.raises(InputError, match="12 judged queries have no text"):
        read_collection(folder, strict=True)


def test_missing_documents_are_named_in_a_warning_and_strict_fails(
    write_beir: WriteBeir, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_beir(test="q1\td1\t1\nq1\tgone\t1\nq2\tgone\t0\nq2\tlost\t1\n")
    collection = read_collection(folder)
    with caplog.at_level(logging.WARNING):
        assert collection.check_documents({"d1", "d2"}) == ["gone", "lost"]
    assert "2 judged documents are not in the corpus or index: 'gone', 'lost'" in caplog.text
    assert collection.qrels["q1"] == {"d1": 1, "gone": 1}
    with pytest.raises(InputError, match="2 judged documents are not in"):
        read_collection(folder, strict=True).check_documents({"d1", "d2"})


def test_nothing_is_reported_where_nothing_is_missing(
    write_beir: WriteBeir, caplog: pytest.LogCaptureFixture
) -> None:
    collection = read_collection(write_beir(), strict=True)
    assert collection.check_documents({document.id for document in collection.documents()}) == []
    assert not caplog.records


def test_judgements_of_other_queries_only_are_an_error(write_beir: WriteBeir) -> None:
    with pytest.raises(InputError, match="judges no query of"):
        read_collection(write_beir(test="other\td1\t1\n"))


def test_bad_lines_of_all_files_are_skipped_and_counted(write_beir: WriteBeir) -> None:
    folder = write_beir()
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"):
        path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(InputError, match=r"test.tsv:6: expected 3 columns"):
        read_collection(folder)
    bad_lines = BadLines(skip=True)
    collection = read_collection(folder, bad_lines=bad_lines)
    assert bad_lines.count == 2
    assert len(list(collection.documents())) == 4
    assert bad_lines.count == 3


def test_a_query_id_that_comes_twice_is_named(write_beir: WriteBeir) -> None:
    twice = [{"_id": "q1", "text": "a"}, {"_id": "q1", "text": "b"}]
    with pytest.raises(DuplicateIdError, match=r"queries.jsonl:2: the id 'q1'"):
        read_collection(write_beir(queries=twice))


def test_the_fingerprint_tells_contents_not_order(write_beir: WriteBeir) -> None:
    lines = ["q1\td1\t1\n", "q2\td2\t1\n", "q1\td2\t0\n"]
    first = read_collection(write_beir(name="a", test="".join(lines)))
    turned = read_collection(write_beir(name="b", test="".join(reversed(lines))))
    other = read_collection(write_beir(name="c", test="".join(lines[:2])))
    assert first.fingerprint == turned.fingerprint
    assert first.fingerprint != other.fingerprint


def test_titles_are_joined_or_dropped(write_beir: WriteBeir) -> None:
    folder = write_beir()
    joined = list(read_collection(folder).documents())
    dropped = list(read_collection(folder, title="drop").documents())
    assert joined[0].contents == "Fox the quick brown fox"
    assert dropped[0] == Document("d1", "the quick brown fox")
    assert [each.id for each in dropped] == [each.id for each in joined]
