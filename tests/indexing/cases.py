"""The indexes that one contract holds for, and how they are held against brute force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.indexing import index_class
from retrieval.indexing.exact import ExactSettings
from retrieval.indexing.faiss_index import FaissSettings
from retrieval.indexing.index import Batch, Index
from retrieval.indexing.plaid import PlaidSettings
from retrieval.records import Hit
from tests.indexing.worlds import World, multi_vectors, single_vectors, texts, uneven_multi_vectors

K = 10


@dataclass(frozen=True)
class Case:
    """A kind of index with settings, and how much of brute force's answer it must find."""

    name: str
    kind: str
    world: Callable[[], World]
    settings: Any = None
    recall: float = 1.0
    """The share of the true top 10 that is found; 1 asks for the same ranking and scores too."""
    tolerance: float = 1e-4
    """Of a score up to 60, a sum of 32 rounded products; more where vectors are compressed."""

    @property
    def is_exact(self) -> bool:
        return self.recall == 1

    def build(
        self, folder: str | Path, rows: Sequence[int] | None = None, **options: Any
    ) -> Index[Any]:
        world = self.world()
        rows = range(len(world.ids)) if rows is None else rows
        cut = len(rows) // 3
        batches = [
            Batch([world.ids[row] for row in part], world.take(part))
            for part in (rows[:cut], rows[cut:])
        ]
        options = {"settings": self.settings, **options}
        return index_class(self.kind).build(folder, batches, **options)


CASES = [
    Case("exact-dense", "exact", single_vectors),
    Case("exact-multi-vector", "exact", multi_vectors),
    Case("exact-float16", "exact", multi_vectors, ExactSettings(dtype="float16"), 0.98, 5e-3),
    Case("faiss-auto", "faiss", single_vectors),
    Case("faiss-hnsw", "faiss", single_vectors, FaissSettings(factory="HNSW16"), 0.97),
    Case(
        "faiss-ivf-flat",
        "faiss",
        single_vectors,
        FaissSettings(factory="IVF32,Flat", nprobe=12),
        0.9,
    ),
    # A byte for two components, and a codebook of 256 learned from 600 rows.
    Case("faiss-ivf-pq", "faiss", single_vectors, FaissSettings(factory="IVF8,PQ16"), 0.7, 10.0),
    # Steps of 1/210 of a component's range, and rows outside of what was learned are cut off.
    Case("faiss-sq8", "faiss", single_vectors, FaissSettings(factory="SQ8"), 0.95, 0.8),
    Case("faiss-hnsw-sq8", "faiss", single_vectors, FaissSettings(factory="HNSW16_SQ8"), 0.93, 0.8),
    # 32 bits say little of a vector: a quarter of the rows is scored again.
    Case(
        "faiss-binary-flat",
        "faiss",
        single_vectors,
        FaissSettings(factory="Binary,Flat", rescored=150),
        0.9,
    ),
    Case(
        "faiss-binary-sq8",
        "faiss",
        single_vectors,
        FaissSettings(factory="Binary,SQ8", rescored=150),
        0.87,
        0.8,
    ),
    Case("plaid-4-bits", "plaid", multi_vectors, PlaidSettings(scored=50), 0.9, 0.2),
    Case("plaid-2-bits", "plaid", multi_vectors, PlaidSettings(bits=2, scored=50), 0.75, 0.8),
    Case(
        "plaid-2-bits-uneven",
        "plaid",
        uneven_multi_vectors,
        PlaidSettings(bits=2, scored=50),
        0.8,
        0.8,
    ),
    Case("lexical", "lexical", texts),
]
VECTOR_CASES = [case for case in CASES if case.kind != "lexical"]


def each_of(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def check(case: Case, rankings: list[list[Hit]], rows: Sequence[int] | None = None) -> None:
    """Hold rankings against brute force over `rows`, or over all documents."""
    world = case.world()
    truth = {
        (query, hit.document_id): hit.score
        for query in range(len(world.queries))
        for hit in world.best(query, len(world.ids), rows)
    }
    found = wanted = 0
    assert len(rankings) == len(world.queries)
    for query, ranking in enumerate(rankings):
        best = world.best(query, K, rows)
        ids = [hit.document_id for hit in ranking]
        scores = [hit.score for hit in ranking]
        assert len(ids) == len(set(ids)) == len(best)
        assert scores == sorted(scores, reverse=True)
        true_scores = [truth[query, each] for each in ids]
        np.testing.assert_allclose(scores, true_scores, rtol=0, atol=case.tolerance)
        if case.is_exact:
            # The same ranking: equal scores may change places.
            best_scores = [hit.score for hit in best]
            np.testing.assert_allclose(scores, best_scores, rtol=0, atol=case.tolerance)
        found += len(set(ids) & {hit.document_id for hit in best})
        wanted += len(best)
    if not case.is_exact:
        assert found >= case.recall * wanted
