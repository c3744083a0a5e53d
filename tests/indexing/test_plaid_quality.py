"""What PLAID keeps of exact MaxSim's ranking on SciFact, with the ColBERT starter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.corpus import read_corpus, read_queries
from retrieval.evaluation.metrics import evaluate_run
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.index import Batch
from retrieval.indexing.plaid import PlaidIndex, PlaidSettings
from retrieval.indexing.vectors import Vectors
from retrieval.qrels import read_qrels
from retrieval.records import Hit

pytestmark = pytest.mark.slow

DOCUMENTS = 1200
METRICS = ("nDCG@10", "recall@100")


class Encoded(NamedTuple):
    """Part of SciFact: every judged document, and others up to `DOCUMENTS`."""

    batch: Batch[Sequence[Vectors]]
    query_ids: list[str]
    queries: list[NDArray[np.float32]]
    qrels: dict[str, dict[str, int]]

    def measure(self, rankings: Iterable[list[Hit]]) -> dict[str, float]:
        run = dict(zip(self.query_ids, rankings, strict=True))
        return evaluate_run(self.qrels, run, METRICS).mean


@pytest.fixture(scope="module")
def encoded(shared_data: Path) -> Encoded:
    from retrieval.encoders.multi_vector import MultiVectorEncoder

    folder = shared_data / "scifact"
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    judged = {each for row in qrels.values() for each in row}
    corpus = list(read_corpus(folder))
    chosen = [document for document in corpus if document.id in judged]
    others = [document for document in corpus if document.id not in judged]
    chosen += others[: DOCUMENTS - len(chosen)]
    queries = [query for query in read_queries(folder / "queries.jsonl") if query.id in qrels]
    encoder = MultiVectorEncoder.load(
        "starter-colbert", device="cpu", dtype="auto", document_length=96
    )
    return Encoded(
        Batch(
            [document.id for document in chosen],
            list(encoder.encode_documents(document.contents for document in chosen)),
        ),
        [query.id for query in queries],
        list(encoder.encode_queries(query.text for query in queries)),
        qrels,
    )


@pytest.fixture(scope="module")
def exact(encoded: Encoded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    index = ExactIndex.build(tmp_path_factory.mktemp("exact") / "index", [encoded.batch])
    return encoded.measure(index.search(encoded.queries, 100))


@pytest.mark.parametrize(("bits", "ndcg_kept", "recall_kept"), [(4, 0.97, 0.95), (2, 0.93, 0.95)])
def test_plaid_keeps_the_ranking(
    encoded: Encoded,
    exact: dict[str, float],
    tmp_path: Path,
    bits: int,
    ndcg_kept: float,
    recall_kept: float,
) -> None:
    # A sixth of the documents is scored by residuals: the default would be a third of so few.
    settings = PlaidSettings(bits=bits, scored=200)  # type: ignore[arg-type]
    index = PlaidIndex.build(tmp_path / "index", [encoded.batch], settings=settings)
    plaid = encoded.measure(index.search(encoded.queries, 100))
    assert exact["nDCG@10"] > 0.5
    assert plaid["nDCG@10"] >= ndcg_kept * exact["nDCG@10"]
    assert plaid["recall@100"] >= recall_kept * exact["recall@100"]
