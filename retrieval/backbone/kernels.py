"""The compiled ModernBERT kernels as functions of torch tensors; inference on a processor only.

Each call runs on the thread that makes it and lets other Python threads run meanwhile.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval import native

IS_BFLOAT16 = {torch.float32: 0, torch.bfloat16: 1}


def pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    """Where a tensor's numbers are, for the library; null for None."""
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


class _AttentionShape(ctypes.Structure):
    _fields_ = (
        ("sequences", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("head_width", ctypes.c_int32),
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


def attention(
    qkv: Tensor,
    *,
    heads: int,
    offsets: NDArray[np.int32],
    key_lengths: NDArray[np.int32] | None,
    window: int | None,
    cosines: Tensor,
    sines: Tensor,
) -> Tensor:
    """Rotate queries and keys and attend within each sequence.

    Args:
        qkv: (T, 3 * H), contiguous: queries, keys, values, each heads x head width.
        heads: number of heads.
        offsets: (N + 1,), where each sequence starts, and T.
        key_lengths: (N,), how many of a sequence's first tokens may be attended to; None for all.
        window: keys with |i - j| <= window are seen; None for all.
        cosines: (at least the longest sequence, head width / 2) float32.
        sines: like cosines.

    Returns:
        (T, H); zeros for a token that may attend to none.
    """
    hidden = qkv.shape[1] // 3
    out = torch.empty(qkv.shape[0], hidden, dtype=qkv.dtype)
    shape = _shape(len(offsets) - 1, heads, hidden // heads, window)
    native.loaded().retrieval_attention(
        IS_BFLOAT16[qkv.dtype],
        pointer(qkv),
        pointer(out),
        ctypes.byref(shape),
        ctypes.c_void_p(offsets.ctypes.data),
        None if key_lengths is None else ctypes.c_void_p(key_lengths.ctypes.data),
        pointer(cosines),
        pointer(sines),
    )
    return out


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


def _shape(sequences: int, heads: int, width: int, window: int | None) -> _AttentionShape:
    return _AttentionShape(sequences, heads, width, -1 if window is None else window, width**-0.5)
