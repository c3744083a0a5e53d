"""Whole evaluations of the development collections, against figures that are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.evaluation import Result, evaluate, read_collection
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.index import Batch
from retrieval.indexing.lexical import LexicalIndex
from retrieval.records import ModelReference

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")


@pytest.mark.parametrize(("name", "expected"), [("scifact", 0.679), ("nfcorpus-lc", 0.325)])
def test_bm25_reaches_its_known_ndcg(
    shared_data: Path, tmp_path: Path, name: str, expected: float
) -> None:
    collection = read_collection(shared_data / name)
    documents = list(collection.documents())
    texts: Sequence[str] = [each.contents for each in documents]
    batch = Batch([each.id for each in documents], texts)
    result = evaluate(collection, LexicalIndex.build(tmp_path / "index", [batch]), system="BM25")
    assert result.metrics["nDCG@10"] == pytest.approx(expected, abs=0.005)


class MiniLM:
    """all-MiniLM-L6-v2 as Sentence Transformers runs it; texts are cut at 256 tokens."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder), device="cpu")
        self.reference = ModelReference("all-MiniLM-L6-v2", "fixed", False, 384)

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        yield from np.asarray(self.model.encode(list(texts), batch_size=64), np.float32)

    encode_documents = encode_queries


@pytest.mark.slow
def test_minilm_reaches_its_known_ndcg_on_scifact(
    shared_data: Path, minilm_path: Path, tmp_path: Path
) -> None:
    encoder = MiniLM(minilm_path)
    collection = read_collection(shared_data / "scifact", strict=True)
    documents = list(collection.documents())
    vectors = encoder.encode_documents(each.contents for each in documents)
    ids = [each.id for each in documents]
    stacked = np.stack(list(vectors))
    index = ExactIndex.build(tmp_path / "index", [Batch(ids, stacked)], model=encoder.reference)
    result = evaluate(collection, index, encoder, run_path=tmp_path / "minilm.run")
    assert result.metrics["nDCG@10"] == pytest.approx(0.645, abs=0.005)
    assert (result.counts.documents, result.counts.queries) == (5183, 300)
    result.to_json(tmp_path / "result.json")
    assert Result.from_json(tmp_path / "result.json") == result
