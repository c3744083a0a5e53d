"""Whole evaluations of the development collections, against figures that are known.

MiniLM's, which take minutes, are measured by `retrieval eval eval/suites/starters.toml` and held by
test_references.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from retrieval.evaluation import evaluate, read_collection
from retrieval.indexing.index import Batch
from retrieval.indexing.lexical import LexicalIndex

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
