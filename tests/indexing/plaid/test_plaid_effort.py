"""Levels of quality, calibration to a recall, and queries over threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import parallel
from retrieval.errors import ConfigError
from retrieval.indexing.index import Batch
from retrieval.indexing.plaid import PlaidIndex, PlaidSettings
from retrieval.indexing.plaid.numpy_search import Effort
from retrieval.indexing.plaid.quality import LEVELS, efforts
from retrieval.indexing.plaid.values import Floats
from retrieval.indexing.vectors import Vectors
from retrieval.records import Hit
from retrieval.scoring import maxsim

DOCUMENTS = 3000
WIDTH = 32


@pytest.fixture(scope="module")
def documents() -> list[Floats]:
    """Documents of 5 to 30 tokens about four of 300 topics."""
    generator = np.random.default_rng(0)
    topics = generator.standard_normal((300, WIDTH))
    return [_text(topics, int(count), generator) for count in generator.integers(5, 30, DOCUMENTS)]


@pytest.fixture(scope="module")
def queries() -> list[Floats]:
    topics = np.random.default_rng(0).standard_normal((300, WIDTH))
    generator = np.random.default_rng(1)
    return [_text(topics, 12, generator) for _ in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, documents: list[Floats]) -> Path:
    folder = tmp_path_factory.mktemp("index")
    PlaidIndex.build(folder, [_batch(documents)], settings=PlaidSettings(keep_tokens=True)).close()
    return folder


@pytest.fixture(scope="module")
def best(documents: list[Floats], queries: list[Floats]) -> list[set[str]]:
    """The ten best documents of each query by brute force."""
    scores = maxsim(queries, documents)
    return [{str(at) for at in np.argsort(-row)[:10]} for row in scores]


def _batch(documents: Sequence[Vectors]) -> Batch[Sequence[Vectors]]:
    return Batch([str(at) for at in range(len(documents))], documents)


def _text(topics: np.ndarray[Any, Any], count: int, generator: np.random.Generator) -> Floats:
    drawn = generator.choice(generator.choice(len(topics), 4), count)
    rows = topics[drawn] + 0.8 * generator.standard_normal((count, WIDTH))
    units: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units


def recall(rankings: list[list[Hit]], best: list[set[str]]) -> float:
    found = [
        len({hit.document_id for hit in hits[:10]} & each) for hits, each in zip(rankings, best)
    ]
    return float(np.mean(found)) / 10


def test_better_levels_find_no_less(
    folder: Path, queries: list[Floats], best: list[set[str]]
) -> None:
    index = PlaidIndex.open(folder)
    recalls = []
    for quality in LEVELS:
        index.settings = replace(index.settings, quality=quality)
        recalls.append(recall(index.search(queries, 10), best))
    assert recalls == sorted(recalls)
    assert recalls[-1] >= 0.99


def test_a_given_setting_comes_before_the_level() -> None:
    level = LEVELS["fast"].effort(10, 0.05, 1000)
    assert PlaidSettings(quality="fast", keep_tokens=True).effort(10, 0.05, 1000) == level
    settings = PlaidSettings(quality="fast", keep_tokens=True, probes=3, margin=1.5)
    assert settings.effort(10, 0.05, 1000) == level._replace(probes=3, margin=1.5 * 0.05)


def test_many_hits_widen_every_stage() -> None:
    few, many = (PlaidSettings(keep_tokens=True).effort(k, 0.05, 1000) for k in (10, 1000))
    assert many.candidates >= many.scored >= 2000 > few.scored
    assert many.rescored >= 1000
    settings = PlaidSettings(candidates=5, scored=5, rescored=5, keep_tokens=True)
    assert settings.effort(100, 0.05, 1000)[1:4] == (200, 200, 100)
    assert PlaidSettings().effort(10, 0.05, 1000).rescored == 0


def test_more_documents_are_searched_more_thoroughly() -> None:
    for quality in ("fast", "balanced", "best"):
        settings = PlaidSettings(quality=quality)
        few, some, many = (settings.effort(10, 0.05, count) for count in (1, 20_000, 160_000))
        assert few == some
        assert many.probes / some.probes == pytest.approx(8**0.51, rel=0.05)
        assert many.candidates / some.candidates == pytest.approx(8**0.51, rel=0.001)
        assert many.scored / some.scored == pytest.approx(8**0.18, rel=0.01)
        assert many.patience - some.patience == pytest.approx(0.32 * math.log10(8))
        assert (many.rescored, many.margin, many.wanted) == some[3:6]
    given = PlaidSettings(probes=7, candidates=900, scored=80)
    assert given.effort(10, 0.05, 160_000)[:3] == (7, 900, 80)
    ladder, higher = (next(iter(efforts(10, 0.05, count))) for count in (20_000, 160_000))
    assert (ladder.probes, higher.probes) == (4, 12)
    assert higher.patience > ladder.patience


def test_an_index_counts_the_documents_that_may_be_found(
    folder: Path,
    queries: list[Floats],
    documents: list[Floats],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    effort = PlaidSettings.effort

    def noted(settings: PlaidSettings, k: int, spread: float, count: int) -> Effort:
        asked.append(count)
        return effort(settings, k, spread, count)

    monkeypatch.setattr(PlaidSettings, "effort", noted)
    index = PlaidIndex.open(folder)
    index.search(queries[:1], 5)
    index.search(queries[:1], 5, allowed=["0", "1", "2"])
    assert asked == [len(documents), 3]


def test_a_calibration_tries_more_where_there_are_more_documents(
    folder: Path, queries: list[Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = PlaidIndex.open(folder)
    small = index.calibrate(queries, recall=1)
    monkeypatch.setattr("retrieval.indexing.plaid.quality._MEASURED", 100)
    large = index.calibrate(queries, recall=1)
    assert isinstance(small.candidates, int)
    assert isinstance(large.candidates, int)
    assert large.candidates > small.candidates


def test_efforts_grow() -> None:
    ladder = list(efforts(10, 0.05, 1000))
    for lower, higher in pairwise(ladder):
        assert all(one <= other for one, other in zip(lower, higher))
        assert lower != higher


@pytest.mark.parametrize("target", [0.7, 0.9, 0.99])
def test_a_calibrated_index_reaches_the_recall(
    folder: Path, queries: list[Floats], best: list[set[str]], target: float
) -> None:
    index = PlaidIndex.open(folder)
    settings = index.calibrate(queries[:20], recall=target)
    assert index.settings == settings
    # Of the other twenty queries; of so few the mean has a deviation of some 0.02.
    assert recall(index.search(queries[20:], 10), best[20:]) >= target - 0.05


def test_a_lower_recall_costs_less(folder: Path, queries: list[Floats]) -> None:
    index = PlaidIndex.open(folder)
    low, high = (index.calibrate(queries, recall=target) for target in (0.5, 0.99))
    cheap, dear = (each.effort(10, 0.05, 1000) for each in (low, high))
    assert cheap.scored < dear.scored
    assert all(one <= other for one, other in zip(cheap, dear))


def test_calibrated_settings_are_saved(
    tmp_path: Path, documents: list[Floats], queries: list[Floats]
) -> None:
    with PlaidIndex.build(tmp_path / "index", [_batch(documents[:500])]) as index:
        settings = index.calibrate(queries, recall=0.9)
        index.save()
    assert PlaidIndex.open(tmp_path / "index").settings == settings


def test_a_calibration_passes_over_deleted_documents(
    tmp_path: Path, documents: list[Floats], queries: list[Floats]
) -> None:
    with PlaidIndex.build(tmp_path / "index", [_batch(documents[:500])]) as index:
        index.delete([str(at) for at in range(0, 500, 2)])
        settings = index.calibrate(queries, recall=0.9)
    assert settings.effort(10, 1, 250).probes < 64


def test_impossible_calibrations_are_refused(folder: Path, queries: list[Floats]) -> None:
    index = PlaidIndex.open(folder)
    for wrong in (0, 1.1, -0.5):
        with pytest.raises(ConfigError, match="above 0 and at most 1"):
            index.calibrate(queries, recall=wrong)
    with pytest.raises(ConfigError, match="needs queries"):
        index.calibrate([])
    with pytest.raises(ConfigError, match="without documents"):
        PlaidIndex().calibrate(queries)


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_threads_change_no_hit(folder: Path, queries: list[Floats], engine: str) -> None:
    index = PlaidIndex.open(folder)
    index.settings = replace(index.settings, engine=engine, threads=1)
    alone = index.search(queries, 10)
    index.settings = replace(index.settings, threads=4)
    assert index.search(queries, 10) == alone


def test_another_engine_is_taken_at_the_next_search(folder: Path, queries: list[Floats]) -> None:
    index = PlaidIndex.open(folder)
    index.search(queries[:1], 10)
    index.settings = replace(index.settings, engine="numpy")
    asked = index.search(queries, 10)
    fresh = PlaidIndex.open(folder)
    fresh.settings = replace(fresh.settings, engine="numpy")
    assert asked == fresh.search(queries, 10)


def test_one_thread_builds_where_one_was_asked_for(
    tmp_path: Path, documents: list[Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a pool of threads")

    monkeypatch.setattr(parallel, "ThreadPoolExecutor", refuse)
    many = [np.concatenate(documents[at : at + 100]) for at in range(0, DOCUMENTS, 100)]
    PlaidIndex.build(tmp_path / "one", [_batch(many)], settings=PlaidSettings(threads=1)).close()
    with pytest.raises(AssertionError, match="a pool of threads"):
        PlaidIndex.build(tmp_path / "two", [_batch(many)], settings=PlaidSettings(threads=2))
