"""A MUVERA baseline: one long vector a document, HNSW over them, exact scores of the best.

Fixed dimensional encodings follow Jayaram et al. 2024, "MUVERA: Multi-Vector Retrieval via Fixed
Dimensional Encodings", arXiv:2405.19504: each of 20 repetitions puts tokens into 32 buckets by the
signs of 5 random projections, sums a query's tokens in each bucket and averages a document's, an
empty bucket of a document taking the token whose signs are nearest; random projection to 8
components makes 20 * 32 * 8 = 5,120. Their product estimates MaxSim.

Legend: T tokens, R repetitions, B buckets, P projected components, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from worker import Data, Engine, Options, serve

_REPETITIONS = 20
_SIGNS = 5
_PROJECTED = 8
_BUCKETS = 1 << _SIGNS
_BATCH = 500


class Encodings:
    """The random projections, the same for documents and queries."""

    def __init__(self, width: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self._planes = generator.standard_normal((width, _REPETITIONS * _SIGNS), np.float32)
        signs = generator.choice(np.array([-1, 1], np.float32), (width, _REPETITIONS * _PROJECTED))
        self._projection = signs / np.float32(np.sqrt(_PROJECTED))
        numbers = np.arange(_BUCKETS)
        self._distances = np.bitwise_count(numbers[:, None] ^ numbers).astype(np.int16)

    def query(self, tokens_TD: Any) -> Any:
        """(R * B * P,) sums of a query's tokens."""
        return self._sums(*self._split(tokens_TD))[0].ravel()

    def document(self, tokens_TD: Any) -> Any:
        """(R * B * P,) means of a document's tokens."""
        buckets_TR, projected_TRP = self._split(tokens_TD)
        sums_RBP, counts_RB = self._sums(buckets_TR, projected_TRP)
        means_RBP = sums_RBP / np.maximum(counts_RB, 1)[:, :, None]
        nearest_RB = self._distances[buckets_TR].argmin(axis=0)
        filling_RBP = projected_TRP[nearest_RB, np.arange(_REPETITIONS)[:, None]]
        return np.where(counts_RB[:, :, None] > 0, means_RBP, filling_RBP).ravel()

    def _split(self, tokens_TD: Any) -> tuple[Any, Any]:
        signs = (tokens_TD @ self._planes > 0).reshape(-1, _REPETITIONS, _SIGNS)
        buckets_TR = signs @ (1 << np.arange(_SIGNS))
        projected_TRP = (tokens_TD @ self._projection).reshape(-1, _REPETITIONS, _PROJECTED)
        return buckets_TR, projected_TRP

    def _sums(self, buckets_TR: Any, projected_TRP: Any) -> tuple[Any, Any]:
        members_RBT = (buckets_TR.T[:, None] == np.arange(_BUCKETS)[:, None]).astype(np.float32)
        return members_RBT @ projected_TRP.transpose(1, 0, 2), members_RBT.sum(axis=2)


class Muvera(Engine):
    """The option `candidates` says how many documents are scored exactly."""

    packages = ("faiss-cpu", "torch", "numpy")

    def __init__(self) -> None:
        self._candidates = 0

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        encodings = Encodings(data.tokens.shape[1])
        length = _REPETITIONS * _BUCKETS * _PROJECTED
        index = faiss.index_factory(length, "HNSW32,SQ8", faiss.METRIC_INNER_PRODUCT)
        for first in range(0, len(data.lengths), _BATCH):
            documents = data.documents(first, first + _BATCH)
            vectors = np.stack([encodings.document(each.astype(np.float32)) for each in documents])
            if not index.is_trained:
                index.train(vectors)
            index.add(vectors)
        faiss.write_index(index, str(folder / "hnsw.faiss"))

    def open(self, data: Data, folder: Path, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        torch.set_num_threads(threads)
        self._encodings = Encodings(data.tokens.shape[1])
        self._index = faiss.read_index(str(folder / "hnsw.faiss"))
        self._tokens = torch.from_numpy(np.asarray(data.tokens)).bfloat16()
        self._offsets = data.offsets

    def prepare(self, options: Options) -> None:
        self._candidates = min(options["candidates"], len(self._offsets) - 1)
        faiss.ParameterSpace().set_index_parameter(self._index, "efSearch", self._candidates)

    def search(self, query: Any, k: int) -> Any:
        vector = self._encodings.query(query)[None]
        found = np.sort(self._index.search(vector, self._candidates)[1][0])
        found = found[found >= 0]
        lengths = self._offsets[found + 1] - self._offsets[found]
        starts = np.cumsum(lengths) - lengths
        rows = np.arange(lengths.sum()) + np.repeat(self._offsets[found] - starts, lengths)
        tokens = self._tokens[torch.from_numpy(rows)]
        products = (tokens @ torch.from_numpy(query).bfloat16().T).float().numpy()
        scores = np.maximum.reduceat(products, starts, axis=0).sum(axis=1)
        return found[np.argsort(-scores, kind="stable")[:k]]

    def bytes_beside(self, data: Data) -> int:
        return int(2 * data.tokens.size)


if __name__ == "__main__":
    with torch.inference_mode():
        serve(Muvera())
