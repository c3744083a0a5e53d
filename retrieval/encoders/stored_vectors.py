"""The number formats that vectors have on disk, and the way back to float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EmbeddingError

StoredDtype = Literal["float16", "float32", "bfloat16", "int8", "quantized"]
"""bfloat16: the upper halves of float32, as uint16, for NumPy has no such type; int8: symmetric,
with one float32 scale a vector; quantized: what an encoder with a quantization gives, unchanged."""

Arrays = Mapping[str, NDArray[Any]]


def to_stored(vectors: NDArray[Any], dtype: StoredDtype) -> dict[str, NDArray[Any]]:
    """Convert (N, D) float32 vectors to the arrays of a shard.

    Raises:
        EmbeddingError: a value beyond the range of float16.
    """
    if dtype == "quantized":
        return {"vectors": vectors}
    if dtype == "bfloat16":
        return {"vectors": _to_bfloat16(vectors)}
    if dtype == "int8":
        scales = np.abs(vectors).max(axis=1, initial=0).astype(np.float32) / np.float32(127)
        divisors = np.where(scales > 0, scales, np.float32(1))
        codes = np.rint(vectors / divisors[:, None]).astype(np.int8)
        return {"vectors": codes, "scales": scales}
    with np.errstate(over="ignore"):
        converted = vectors.astype(dtype)
    if dtype == "float16" and not np.isfinite(converted).all():
        raise EmbeddingError("an embedding is beyond float16: store them as bfloat16 or float32")
    return {"vectors": converted}


def from_stored(arrays: Arrays, dtype: StoredDtype) -> NDArray[Any]:
    """The (N, D) vectors of a shard: mapped as they are, or float32 from bfloat16 and int8."""
    vectors = arrays["vectors"]
    if dtype == "bfloat16":
        return (vectors.astype(np.uint32) << 16).view(np.float32)
    if dtype == "int8":
        decoded: NDArray[np.float32] = vectors * arrays["scales"][:, None]
        return decoded
    return vectors


def _to_bfloat16(vectors: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite values to the nearest, ties to even."""
    bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)
