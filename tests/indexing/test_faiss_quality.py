"""What each kind of FAISS index finds of the true neighbours on SciFact, with the dense starter."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.corpus import read_corpus, read_queries
from retrieval.indexing.faiss_index import FaissIndex, FaissSettings
from retrieval.indexing.index import Batch

pytestmark = pytest.mark.slow

DOCUMENTS = 2000


class Encoded(NamedTuple):
    """A part of SciFact, and its queries' true neighbours."""

    documents: NDArray[np.float32]
    queries: NDArray[np.float32]

    def neighbours(self, k: int) -> NDArray[np.int64]:
        return np.argsort(-(self.queries @ self.documents.T), axis=1)[:, :k]


@pytest.fixture(scope="module")
def encoded(shared_data: Path) -> Encoded:
    from retrieval.encoders.dense import DenseEncoder

    folder = shared_data / "scifact"
    encoder = DenseEncoder.load("starter-dense", device="cpu", dtype="auto", document_length=64)
    texts = (each.contents for each in islice(read_corpus(folder), DOCUMENTS))
    queries = (each.text for each in islice(read_queries(folder / "queries.jsonl"), 200))
    return Encoded(
        np.stack(list(encoder.encode_documents(texts))),
        np.stack(list(encoder.encode_queries(queries))),
    )


@pytest.mark.parametrize(
    ("factory", "at_10", "at_100"),
    [
        # But for two scores that are equal in the last bit.
        ("Flat", 0.999, 0.999),
        ("SQ8", 0.98, 0.98),
        ("HNSW32", 0.98, 0.97),
        ("HNSW32_SQ8", 0.96, 0.96),
        ("Binary,Flat", 0.97, 0.97),
        ("Binary,SQ8", 0.96, 0.96),
        # Among 2,000 documents the codebooks of 256 are learned from 8 vectors each.
        ("IVF32,PQ96", 0.75, 0.75),
    ],
)
def test_a_kind_finds_its_share_of_the_true_neighbours(
    encoded: Encoded, tmp_path: Path, factory: str, at_10: float, at_100: float
) -> None:
    ids = [str(row) for row in range(DOCUMENTS)]
    settings = FaissSettings(factory=factory)
    FaissIndex.build(tmp_path / "index", [Batch(ids, encoded.documents)], settings=settings)
    index = FaissIndex.open(tmp_path / "index")
    for k, least in ((10, at_10), (100, at_100)):
        found = 0
        for hits, true in zip(index.search(encoded.queries, k), encoded.neighbours(k)):
            found += len({int(hit.document_id) for hit in hits} & set(true.tolist()))
        share = found / (k * len(encoded.queries))
        assert share >= least, f"{factory}: {share:.3f} of the top {k}"
