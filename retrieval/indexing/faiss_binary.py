"""One bit a component: candidates by Hamming distance, which better vectors then re-score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.files import map_arrays, save_arrays
from retrieval.indexing import versions
from retrieval.indexing.faiss_files import FaissFile, faiss

Floats = NDArray[np.float32]

BINARY_FILES = ("binary.faiss", "thresholds.safetensors")
"""There in a version with bits: their codes, and what they were cut at."""
_CODES, _THRESHOLDS = BINARY_FILES


class BinaryCodes:
    """The bits of all rows: 1 where a component is above its median in the sample.

    Medians, because each bit then says as much as it can, also where a component's values are not
    centred on 0.

    Source: Yamada, Asai and Hajishirzi 2021, "Efficient Passage Retrieval with Hashing",
    arXiv:2106.00882, for candidates by bits and a second score.
    """

    def __init__(self, thresholds: Floats, codes: FaissFile | None = None) -> None:
        self._thresholds = thresholds
        self._codes = codes or FaissFile(faiss.IndexBinaryFlat(8 * ((len(thresholds) + 7) // 8)))

    @classmethod
    def learn(cls, sample: Floats) -> BinaryCodes:
        """No rows yet, with the thresholds of a sample (N, D)."""
        return cls(np.median(sample, axis=0).astype(np.float32))

    def __len__(self) -> int:
        return int(self._codes.index.ntotal)

    def only(self, live: NDArray[np.bool_]) -> BinaryCodes:
        """The rows where `live` is True, numbered anew in their order."""
        index = self._codes.index
        codes = faiss.rev_swig_ptr(index.xb.data(), index.ntotal * index.code_size)
        kept = BinaryCodes(self._thresholds)
        kept._codes.add(codes.reshape(index.ntotal, -1)[live])
        return kept

    def add(self, vectors: Floats) -> None:
        """Append the bits of (N, D) vectors."""
        self._codes.add(self._bits(vectors))

    def candidates(self, queries: Floats, count: int, selector: Any) -> NDArray[np.int64]:
        """The positions that differ least from each query, (Q, count), -1 where there are fewer."""
        parameters = faiss.SearchParameters(sel=selector) if selector is not None else None
        positions: NDArray[np.int64] = self._codes.index.search(
            self._bits(queries), count, params=parameters
        )[1]
        return positions

    def write(self, version: Path) -> None:
        """Write codes and thresholds into a version."""
        self._codes.write(version / _CODES)
        save_arrays(version / _THRESHOLDS, {"thresholds": self._thresholds})

    @classmethod
    def read(cls, version: Path) -> BinaryCodes:
        """Map what `write` wrote.

        Raises:
            IndexFilesError: a file has changed since it was written.
        """
        versions.check_bytes(version, _THRESHOLDS)
        thresholds = np.array(map_arrays(version / _THRESHOLDS)["thresholds"])
        return cls(thresholds, FaissFile.open(version, _CODES, is_binary=True))

    def _bits(self, vectors: Floats) -> NDArray[np.uint8]:
        return np.packbits(vectors > self._thresholds, axis=1)


def rescore(
    store: Any, queries: Floats, candidates: NDArray[np.int64], k: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Score candidates with the vectors that a FAISS index keeps of them.

    Args:
        store: a flat or scalar-quantized FAISS index; its metric is the score.
        queries: (Q, D).
        candidates: (Q, C) positions, -1 for none.
        k: of the best that are wanted.

    Returns:
        Scores or distances, and positions, (Q, k) each as FAISS returns them: best first, -1 where
        there are fewer.
    """
    is_distance = store.metric_type == faiss.METRIC_L2
    scores = np.full((len(queries), k), np.inf if is_distance else -np.inf, np.float32)
    positions = np.full((len(queries), k), -1, np.int64)
    for row, (query, given) in enumerate(zip(queries, candidates)):
        chosen = np.sort(given[given >= 0])
        if not len(chosen):
            continue
        vectors = store.reconstruct_batch(chosen)
        found = ((vectors - query) ** 2).sum(axis=1) if is_distance else vectors @ query
        order = np.argsort(found if is_distance else -found, kind="stable")[:k]
        scores[row, : len(order)] = found[order]
        positions[row, : len(order)] = chosen[order]
    return scores, positions
