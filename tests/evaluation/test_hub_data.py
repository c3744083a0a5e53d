"""Data sets in the hub's layout, read by `datasets` from a folder of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import DownloadError, InputError
from retrieval.evaluation import read_collection
from retrieval.evaluation.data_sets import locate, prepare
from retrieval.evaluation.hub_layout import HubJudgements, HubLayout, HubPairs, HubTexts
from retrieval.evaluation.suites import DataSet
from retrieval.records import Document, Query

pytest.importorskip("datasets", reason="needs the extra train")

Tables = dict[str, dict[str, list[dict[str, Any]]]]
"""Rows by subset and split."""

TABLES: Tables = {
    "corpus": {
        "corpus": [
            {"_id": "d1", "title": "Fox", "text": "the quick brown fox"},
            {"_id": "d2", "title": "", "text": "lazy\tdogs\nsleep é"},
        ]
    },
    "queries": {"queries": [{"_id": 1, "text": "fox?"}, {"_id": 2, "text": "dogs?"}]},
    "default": {
        "train": [{"query-id": 1, "corpus-id": "d2", "score": 1}],
        "test": [
            {"query-id": 1, "corpus-id": "d1", "score": 2.0},
            {"query-id": 2, "corpus-id": "d2", "score": 1.0},
        ],
    },
}

Make = Callable[..., DataSet]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes tables as a data set of the hub has them, and gives a data set that names them."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def write(tables: Tables = TABLES, **settings: Any) -> DataSet:
        repository = tmp_path / "repository"
        lines = ["---", "configs:"]
        for subset, splits in tables.items():
            lines += [f"- config_name: {subset}", "  data_files:"]
            for split, rows in splits.items():
                path = repository / subset / f"{split}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
                lines += [f"  - split: {split}", f"    path: {subset}/{split}.jsonl"]
        (repository / "README.md").write_text("\n".join([*lines, "---", ""]), "utf-8")
        source = f"hf:{repository}"
        return DataSet(**{"name": "tiny", "source": source, "revision": "abc", **settings})

    return write


def test_three_tables_become_a_beir_folder(make: Make, tmp_path: Path) -> None:
    data_set = make()
    path = prepare(data_set, tmp_path / "data")
    assert path == tmp_path / "data" / "tiny" == locate(data_set, tmp_path / "data")
    collection = read_collection(path, "test")
    assert list(collection.documents()) == [
        Document("d1", "the quick brown fox", "Fox"),
        Document("d2", "lazy\tdogs\nsleep é"),
    ]
    assert collection.queries == (Query("1", "fox?"), Query("2", "dogs?"))
    assert collection.qrels == {"1": {"d1": 2}, "2": {"d2": 1}}


def test_a_second_call_opens_no_table(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = make()
    first = prepare(data_set, tmp_path / "data")
    monkeypatch.delattr("datasets.load_dataset")
    assert prepare(data_set, tmp_path / "data") == first


def test_rows_are_chosen_by_values_and_columns_have_any_name(make: Make, tmp_path: Path) -> None:
    lengths = (256, 512)
    tables: Tables = {
        "needle": {
            "corpus": [{"doc_id": f"d{n}", "text": str(n), "length": n} for n in lengths],
            "queries": [{"qid": f"q{n}", "question": "?", "length": n} for n in lengths],
            "qrels": [{"qid": f"q{n}", "doc_id": f"d{n}", "length": n} for n in lengths],
        }
    }
    where: dict[str, str | int] = {"length": 512}
    # `datasets` wants the same columns in every split of a subset.
    layout = HubLayout(
        corpus=HubTexts(file="needle/corpus.jsonl", id="doc_id", where=where),
        queries=HubTexts(file="needle/queries.jsonl", id="qid", text="question", where=where),
        judgements=HubJudgements(
            file="needle/qrels.jsonl", query="qid", document="doc_id", where=where
        ),
    )
    collection = read_collection(prepare(make(tables, hub=layout), tmp_path / "data"))
    assert list(collection.documents()) == [Document("d512", "512")]
    assert collection.queries == (Query("q512", "?"),)
    assert collection.qrels == {"q512": {"d512": 1}}


def test_pairs_are_documents_queries_and_judgements(make: Make, tmp_path: Path) -> None:
    rows = [{"nl": ["read", "a", "file"], "code": "open()"}, {"nl": ["write"], "code": "f.write()"}]
    layout = HubLayout(pairs=HubPairs(query="nl", document="code"))
    data_set = make({"default": {"test": rows}}, hub=layout)
    collection = read_collection(prepare(data_set, tmp_path / "data"))
    assert list(collection.documents()) == [Document("0", "open()"), Document("1", "f.write()")]
    assert collection.queries == (Query("q:0", "read a file"), Query("q:1", "write"))
    assert collection.qrels == {"q:0": {"0": 1}, "q:1": {"1": 1}}


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        (HubLayout(corpus=HubTexts(subset="nothing")), r"\(nothing\) at abc can't be fetched"),
        (HubLayout(judgements=HubJudgements(subset="default", split="dev")), "can't be fetched"),
    ],
)
def test_a_missing_subset_or_split_is_an_error(
    make: Make, tmp_path: Path, layout: HubLayout, problem: str
) -> None:
    with pytest.raises(DownloadError, match=problem):
        prepare(make(hub=layout), tmp_path / "data")


def test_a_split_that_can_not_be_guessed_lists_those_that_there_are(
    make: Make, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=r"no split 'dev'; there are: train, test"):
        prepare(make(split="dev"), tmp_path / "data")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"query": 1, "corpus-id": "d1", "score": 1}, r"row 0: no column 'query-id'; there are"),
        ({"query-id": 1, "corpus-id": "d1", "score": 0.5}, "row 0: expected a whole number .* 0.5"),
    ],
)
def test_what_can_not_be_used_is_named_and_nothing_is_kept(
    make: Make, tmp_path: Path, row: dict[str, Any], problem: str
) -> None:
    tables = {**TABLES, "default": {"test": [row]}}
    with pytest.raises(InputError, match=problem):
        prepare(make(tables), tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.jsonl"))


def test_another_revision_or_layout_is_told_from_what_is_there(make: Make, tmp_path: Path) -> None:
    prepare(make(), tmp_path / "data")
    with pytest.raises(DownloadError, match="made with revision 'abc', and the suite says 'def'"):
        prepare(make(revision="def"), tmp_path / "data")
    with pytest.raises(DownloadError, match="made with hub "):
        prepare(make(hub=HubLayout(corpus=HubTexts(subset="corpus", title="t"))), tmp_path / "data")


def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = DataSet(name="tiny", source="hf:nobody/nothing", revision="abc")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"`retrieval data` makes the folder .*tiny: copy it"):
        prepare(data_set, tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9: can't be reached .*copy it"):
        prepare(data_set, tmp_path)
