"""BM25 with its defaults on two collections: the figures that others publish."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.corpus import read_corpus, read_queries
from retrieval.evaluation.metrics import evaluate_run
from retrieval.indexing.index import Batch
from retrieval.indexing.lexical import LexicalIndex
from retrieval.qrels import read_qrels

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")


@pytest.mark.parametrize(("name", "ndcg"), [("scifact", 0.679), ("nfcorpus-lc", 0.325)])
def test_bm25_reaches_its_known_quality(
    shared_data: Path, tmp_path: Path, name: str, ndcg: float
) -> None:
    folder = shared_data / name
    documents = list(read_corpus(folder))
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    queries = [query for query in read_queries(folder / "queries.jsonl") if query.id in qrels]
    ids, texts = [each.id for each in documents], [each.contents for each in documents]
    index = LexicalIndex.build(tmp_path / "index", [Batch(ids, texts)])
    hits = index.search([query.text for query in queries], 100)
    run = dict(zip((query.id for query in queries), hits, strict=True))
    assert evaluate_run(qrels, run, ["nDCG@10"]).mean["nDCG@10"] == pytest.approx(ndcg, abs=0.005)
