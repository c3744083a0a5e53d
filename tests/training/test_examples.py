"""Training examples from JSON lines: columns, limits and errors with file and line."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import ConfigError, InputError, MissingExtraError
from retrieval.training.examples import read_contrastive, read_distillation


def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def test_pairs_and_triplets_keep_their_columns_and_drop_the_rest(tmp_path: Path) -> None:
    pairs = write(tmp_path / "a.jsonl", [{"anchor": "q", "positive": "p", "source": "x"}])
    assert read_contrastive([pairs]).to_list() == [{"query": "q", "positive": "p"}]
    record = {"negative_2": "n2", "query": "q", "positive": "p", "negative_1": "n1"}
    triplets = write(tmp_path / "b.jsonl", [record])
    assert read_contrastive([triplets]).column_names == [
        "query",
        "positive",
        "negative_1",
        "negative_2",
    ]


def test_several_files_follow_each_other_up_to_the_limit(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{at}.jsonl", [{"query": f"q{at}{n}", "positive": "p"} for n in (0, 1)])
        for at in (0, 1)
    ]
    assert read_contrastive(paths, limit=3)["query"][:] == ["q00", "q01", "q10"]


def test_scored_documents_become_columns_and_a_label(tmp_path: Path) -> None:
    record = {"query": "q", "documents": ["a", "b"], "scores": [2, 1.5]}
    path = write(tmp_path / "a.jsonl", [record])
    assert read_distillation([path]).to_list() == [
        {"query": "q", "document_1": "a", "document_2": "b", "label": [2.0, 1.5]}
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": "", "positive": "p"}, "expected text under 'query'"),
        ({"query": "q"}, "expected text under 'positive'"),
        ({"query": "q", "positive": "p", "negative": " "}, "expected text under 'negative'"),
        ({"query": "q", "positive": "p", "negative": "n"}, "the lines before"),
    ],
)
def test_a_line_that_does_not_fit_is_named(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": "q", "positive": "p"}, record])
    with pytest.raises(InputError, match=rf"a\.jsonl:2: .*{message}"):
        read_contrastive([path])


@pytest.mark.parametrize(
    "record",
    [
        {"query": "q", "documents": ["a"], "scores": [1]},
        {"query": "q", "documents": ["a", "b", "c"], "scores": [1, 2]},
        {"query": "q", "documents": ["a", "b", "c"], "scores": [1, 2, 3]},
        {"query": "q", "documents": "a", "scores": [1, 2]},
    ],
)
def test_scores_that_do_not_fit_their_documents_are_named(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    good = {"query": "q", "documents": ["a", "b"], "scores": [2, 1]}
    path = write(tmp_path / "a.jsonl", [good, record])
    with pytest.raises(InputError, match=r"a\.jsonl:2: "):
        read_distillation([path])


def test_no_files_and_empty_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no files"):
        read_contrastive([])
    with pytest.raises(InputError, match="no examples"):
        read_contrastive([write(tmp_path / "a.jsonl", [])])


def test_a_missing_extra_names_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without_datasets(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    path = write(tmp_path / "a.jsonl", [{"query": "q", "positive": "p"}])
    with pytest.raises(MissingExtraError, match=r'pip install "modernbert-retrieval\[train\]"'):
        read_contrastive([path])
