"""The compiled ModernBERT kernels as functions of torch tensors, on a processor.

For inference each call runs on the thread that makes it; attention for training, and its gradient,
on all of torch's threads. Other Python threads run meanwhile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval import native
from retrieval.parallel import in_threads

IS_BFLOAT16 = {torch.float32: 0, torch.bfloat16: 1}


def pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    """Where a tensor's numbers are, for the library; null for None."""
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


class _AttentionShape(ctypes.Structure):
    _fields_ = (
        ("sequences", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("head_width", ctypes.c_int32),
        ("first_head", ctypes.c_int32),
        ("last_head", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


def are_available(dtype: torch.dtype, head_width: int) -> bool:
    """Whether there are kernels for this dtype and width of a head."""
    library = native.library()
    return (
        library is not None
        and dtype in IS_BFLOAT16
        and head_width % 2 == 0
        and head_width <= library.retrieval_max_head_width()
    )


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Rotary positions and attention within each sequence of a batch, and their gradient."""

    heads: int
    offsets: NDArray[np.int32]
    """(N + 1,), where each sequence starts, and T."""
    key_lengths: NDArray[np.int32] | None
    """(N,), how many of a sequence's first tokens may be attended to; None for all."""
    window: int | None
    """Keys with |i - j| <= window are seen; None for all."""
    cosines: Tensor
    """(at least the longest sequence, head width / 2) float32."""
    sines: Tensor

    def attend(self, qkv: Tensor, normalisers: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            qkv: (T, 3 * H), contiguous: queries, keys, values, each heads x head width.
            normalisers: (T, heads) float32, filled with what `gradient` takes.

        Returns:
            (T, H); zeros for a token that may attend to none.
        """
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)

        def attend(part: _Part) -> None:
            native.loaded().retrieval_attention(
                IS_BFLOAT16[qkv.dtype],
                pointer(qkv),
                pointer(out),
                pointer(normalisers),
                *self._arguments(qkv, part),
            )

        self._in_parts(attend, len(qkv), 1 if normalisers is None else torch.get_num_threads())
        return out

    def gradient(
        self, qkv: Tensor, out: Tensor, normalisers: Tensor, out_gradient: Tensor
    ) -> Tensor:
        """(T, 3 * H), of queries, keys and values, from that of `attend`'s output (T, H)."""
        gradient = torch.empty_like(qkv)

        def attend_back(part: _Part) -> None:
            native.loaded().retrieval_attention_gradient(
                IS_BFLOAT16[qkv.dtype],
                pointer(qkv),
                pointer(out),
                pointer(normalisers),
                pointer(out_gradient),
                pointer(gradient),
                *self._arguments(qkv, part),
            )

        self._in_parts(attend_back, len(qkv), torch.get_num_threads())
        return gradient

    def _in_parts(self, work: Callable[[_Part], None], tokens: int, threads: int) -> None:
        """On `threads` threads, each with a head of some of the sequences at a time."""
        parts = [_Part(0, len(self.offsets) - 1, 0, self.heads)]
        if threads > 1:
            runs = min(-(-2 * threads // self.heads), len(self.offsets) - 1)
            cuts = np.searchsorted(self.offsets, np.linspace(0, tokens, runs + 1)).tolist()
            cuts[-1] = len(self.offsets) - 1
            parts = [
                _Part(first, last, head, head + 1)
                for first, last in pairwise(cuts)
                for head in range(self.heads)
            ]
        for _ in in_threads(work, parts, threads):
            pass

    def _arguments(self, qkv: Tensor, part: _Part) -> tuple[Any, ...]:
        width = qkv.shape[1] // 3 // self.heads
        shape = _AttentionShape(
            part.last - part.first,
            self.heads,
            width,
            part.first_head,
            part.last_head,
            -1 if self.window is None else self.window,
            width**-0.5,
        )
        # Offsets count from the first token of all, wherever a part begins.
        offsets, keys = self.offsets[part.first :], self.key_lengths
        return (
            ctypes.byref(shape),
            ctypes.c_void_p(offsets.ctypes.data),
            None if keys is None else ctypes.c_void_p(keys[part.first :].ctypes.data),
            pointer(self.cosines),
            pointer(self.sines),
        )


class _Part(NamedTuple):
    """Sequences and heads that one call of the library computes."""

    first: int
    last: int
    first_head: int
    last_head: int


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """Normalise each row of x (T, H), contiguous; weight and bias are (H,) float32."""
    out = torch.empty_like(x)
    native.loaded().retrieval_layer_norm(
        IS_BFLOAT16[x.dtype],
        pointer(x),
        pointer(weight),
        pointer(bias),
        pointer(out),
        ctypes.c_int64(x.shape[0]),
        x.shape[1],
        ctypes.c_float(epsilon),
    )
    return out


def geglu(x: Tensor) -> Tensor:
    """GELU of the first half of each row of x (T, 2 * I), contiguous, times the second half."""
    width = x.shape[1] // 2
    out = torch.empty(x.shape[0], width, dtype=x.dtype)
    native.loaded().retrieval_geglu(
        IS_BFLOAT16[x.dtype],
        pointer(x),
        pointer(out),
        ctypes.c_int64(x.shape[0]),
        width,
    )
    return out


def geglu_gradient(x: Tensor, out_gradient: Tensor) -> Tensor:
    """(T, 2 * I), from that of `geglu`'s output (T, I)."""
    gradient = torch.empty_like(x)
    native.loaded().retrieval_geglu_gradient(
        IS_BFLOAT16[x.dtype],
        pointer(x),
        pointer(out_gradient),
        pointer(gradient),
        ctypes.c_int64(x.shape[0]),
        x.shape[1] // 2,
    )
    return gradient
