"""A small collection in memory that a training run is measured on: nDCG@10 by exact search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from retrieval.encoders.protocol import Encoder
from retrieval.evaluation.collection import read_collection
from retrieval.evaluation.evaluator import run_queries
from retrieval.evaluation.metrics import evaluate_run
from retrieval.indexing.exact import ExactIndex
from retrieval.indexing.lexical import LexicalIndex
from retrieval.qrels import Qrels
from retrieval.records import Document, Query
from retrieval.training.watching import Pair

_K = 10


class MeasuredSet:
    """Documents, queries and judgements; see `retrieval.training.watching.DevSets`."""

    def __init__(
        self, documents: Sequence[Document], queries: Sequence[Query], qrels: Qrels
    ) -> None:
        self._documents = documents
        self._queries = queries
        self._qrels = qrels

    @classmethod
    def from_folder(cls, folder: Path, split: str | None) -> Self:
        """Read a BEIR folder.

        Raises:
            InputError: files that are missing or can't be read.
            ConfigError: a split that is not there, or several of them and none named.
        """
        collection = read_collection(folder, split)
        return cls(list(collection.documents()), list(collection.queries), collection.qrels)

    @classmethod
    def from_pairs(cls, pairs: Sequence[Pair]) -> Self:
        """Take each query's own document as its only relevant one, all documents as the corpus."""
        texts = dict.fromkeys(text for pair in pairs for text in (pair.positive, *pair.others))
        ids = {text: f"d{number}" for number, text in enumerate(texts)}
        qrels: dict[str, dict[str, int]] = {}
        for pair in pairs:
            qrels.setdefault(pair.query, {})[ids[pair.positive]] = 1
        queries = {text: f"q{number}" for number, text in enumerate(qrels)}
        return cls(
            [Document(id, text) for text, id in ids.items()],
            [Query(id, text) for text, id in queries.items()],
            {queries[text]: judgements for text, judgements in qrels.items()},
        )

    def measure(self, encoder: Encoder) -> float:
        """nDCG@10 of an encoder, every document compared with every query."""
        index = ExactIndex()
        vectors = list(encoder.encode_documents([each.contents for each in self._documents]))
        items = vectors if encoder.reference.is_multi_vector else np.stack(vectors)
        index.add([each.id for each in self._documents], items)
        return self._ndcg(index, encoder)

    def measure_bm25(self) -> float:
        """nDCG@10 of BM25 with its default settings."""
        index = LexicalIndex()
        index.add(
            [each.id for each in self._documents], [each.contents for each in self._documents]
        )
        return self._ndcg(index, None)

    def _ndcg(self, index: ExactIndex | LexicalIndex, encoder: Encoder | None) -> float:
        run, _ = run_queries(index, encoder, self._queries, _K)
        return evaluate_run(self._qrels, run, ["nDCG@10"]).mean["nDCG@10"]
