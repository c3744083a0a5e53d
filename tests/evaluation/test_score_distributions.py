from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from retrieval.errors import InputError
from retrieval.evaluation import Result, read_collection, write_run
from retrieval.evaluation.score_distributions import score_distributions
from retrieval.records import Hit


@pytest.fixture
def result(
    tmp_path: Path, write_beir: Callable[..., Path], make_result: Callable[..., Result]
) -> Result:
    """A result on the tiny collection, whose folder has a run beside it."""
    folder = write_beir()
    run = {
        "q1": [Hit("d1", 3.0), Hit("d3", 2.0), Hit("d2", 1.0)],  # relevant, judged 0, not judged
        "q2": [Hit("d2", 5.0)],
        "q3": [Hit("d1", 4.0)],  # a query without judgements
    }
    write_run(tmp_path / "made" / "run.trec", run, "x")
    return replace(make_result("x"), collection_fingerprint=read_collection(folder).fingerprint)


def test_hits_are_split_by_their_judgements(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "made" / "result.json"
    for data in (tmp_path, tmp_path / "tiny"):
        [scores], skipped = score_distributions([result], [path], [data])
        assert (scores.system, scores.data_set) == ("x", "tiny")
        assert scores.relevant.tolist() == [3.0, 5.0]
        assert sorted(scores.others.tolist()) == [1.0, 2.0, 4.0]
        assert skipped == []


def test_what_cannot_be_shown_is_skipped_with_a_reason(
    tmp_path: Path, result: Result, write_beir: Callable[..., Path]
) -> None:
    path = tmp_path / "made" / "result.json"
    elsewhere = write_beir(name="other")
    changed = replace(result, collection_fingerprint="0" * 64)
    results = [result, changed, replace(result, collection="missing"), replace(result, split="dev")]
    found, skipped = score_distributions(
        results, [tmp_path / "result.json", path, path, path], [tmp_path, elsewhere]
    )
    assert found == []
    assert skipped == [
        "x on tiny: no run.trec beside the result",
        "x on tiny: the judgements in tiny are not those of the result",
        "x on missing: its judgements are in none of the data folders",
        "x on tiny dev: its judgements are in none of the data folders",
    ]


def test_a_missing_data_folder_is_an_error(tmp_path: Path, result: Result) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        score_distributions([result], [tmp_path / "result.json"], [tmp_path / "nowhere"])
