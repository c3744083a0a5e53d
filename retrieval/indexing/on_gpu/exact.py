"""Exact MaxSim on a device, for batches of queries.

Legend: B queries, M query tokens, N documents, C documents of each query, T tokens, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import ShapeError
from retrieval.indexing.on_gpu.devices import Device, find_device, on_device, stack_queries
from retrieval.indexing.on_gpu.runs import maximum_by_owner, repeat, runs

logger = logging.getLogger(__name__)

_MEMORY_BYTES = 1 << 30
_QUERIES_AT_ONCE = 256
_KERNEL_WIDTH = 256
"""Wider tokens would not fit into the shared memory of most GPUs."""


class ExactMaxSim:
    """Scores all documents for many queries at a time; their tokens stay on the device.

    A score is that of `retrieval.scoring.maxsim`, up to what sums of float32 round off.
    """

    def __init__(
        self,
        tokens: NDArray[np.floating],
        offsets: NDArray[np.int64],
        device: Device | None = None,
        *,
        memory_bytes: int = _MEMORY_BYTES,
    ) -> None:
        """Copy the tokens to the device.

        Args:
            tokens: (T, D) float16 or float32, document after document; may be mapped from a file.
            offsets: (N + 1,): document i has the tokens from offsets[i] to offsets[i + 1].
            device: as in `find_device`.
            memory_bytes: that scoring may take beside tokens, queries and scores.

        Raises:
            ConfigError: there is no such device.
            ShapeError: the offsets are not those of so many tokens.
        """
        if tokens.ndim != 2 or not len(offsets) or int(offsets[-1]) != len(tokens):
            ends = int(offsets[-1]) if len(offsets) else None
            raise ShapeError(f"expected {ends} tokens, the last offset, got {tokens.shape}")
        self._device = find_device(device)
        dtype = np.dtype("f2" if tokens.dtype == np.float16 else "f4")
        self._tokens_TD = on_device([tokens], dtype, self._device)
        self._offsets = np.array(offsets, np.int64)
        self._memory_bytes = memory_bytes

    @torch.inference_mode()
    def scores(self, queries: Sequence[NDArray[np.floating]]) -> Tensor:
        """Score every document.

        Args:
            queries: B arrays (M_b, D), B and each M at least 1.

        Returns:
            (B, N) float32 on the device; -inf for documents without tokens.

        Raises:
            ShapeError: a query's width differs from the documents'.
        """
        width = self._tokens_TD.shape[1]
        wrong = next((each.shape for each in queries if each.shape[1:] != (width,)), None)
        if wrong is not None:
            raise ShapeError(f"expected queries (tokens, {width}), got {wrong}")
        parts = [
            queries[at : at + _QUERIES_AT_ONCE] for at in range(0, len(queries), _QUERIES_AT_ONCE)
        ]
        return torch.cat([self._scores(stack_queries(part, self._device)) for part in parts])

    def _scores(self, queries_BMD: Tensor) -> Tensor:
        lengths = torch.from_numpy(np.diff(self._offsets)).to(self._device)
        if has_kernel(self._tokens_TD):
            starts = torch.from_numpy(self._offsets[:-1].copy()).to(self._device)
            shape = (len(queries_BMD), len(lengths))
            return chosen_scores(
                queries_BMD, self._tokens_TD, starts.expand(shape), lengths.expand(shape)
            )
        return self._by_products(queries_BMD, lengths)

    def search(
        self, queries: Sequence[NDArray[np.floating]], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best documents of each query.

        Returns:
            (B, min(k, N)) positions, best first, and scores.
        """
        best = self.scores(queries).topk(min(k, len(self._offsets) - 1), dim=1)
        return best.indices.cpu().numpy(), best.values.cpu().numpy()

    def _by_products(self, queries_BMD: Tensor, lengths: Tensor) -> Tensor:
        """One product of all query tokens with each part of the documents' tokens."""
        count, length, width = queries_BMD.shape
        queries_DX = queries_BMD.reshape(-1, width).T.contiguous()
        scores_BN = torch.empty((count, len(lengths)), device=self._device)
        limit = max(1, self._memory_bytes // (8 * count * length + 4 * width))
        for first, last in runs(self._offsets[1:], limit):
            rows = slice(int(self._offsets[first]), int(self._offsets[last]))
            products_TX = self._tokens_TD[rows].float() @ queries_DX
            owners = repeat(lengths[first:last], len(products_TX))
            best_NX = maximum_by_owner(products_TX, owners, last - first)
            scores_BN[:, first:last] = best_NX.view(-1, count, length).sum(dim=2).T
        return scores_BN


def has_kernel(tokens_TD: Tensor) -> bool:
    """Whether MaxSim of these tokens runs on the Triton kernel; what was found is logged once."""
    is_fit = tokens_TD.dtype == torch.float16 and tokens_TD.shape[1] <= _KERNEL_WIDTH
    return tokens_TD.is_cuda and is_fit and _has_triton()


@cache
def _has_triton() -> bool:
    found = find_spec("triton") is not None
    logger.info("MaxSim on CUDA runs on %s", "the Triton kernel" if found else "torch's products")
    return found


def chosen_scores(
    queries_BMD: Tensor, tokens_TD: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    """MaxSim of each query with its own documents, by the Triton kernel: `has_kernel` must hold.

    Args:
        queries_BMD: (B, M, D) float32.
        tokens_TD: (T, D) float16.
        starts: (B, C) int64, the documents' first tokens; may be expanded.
        lengths: (B, C) int64, their tokens; 0 scores -inf.

    Returns:
        (B, C) float32.
    """
    from retrieval.indexing.on_gpu.triton_maxsim import triton_maxsim

    with torch.cuda.device(tokens_TD.device):
        return triton_maxsim(queries_BMD, tokens_TD, starts, lengths)
