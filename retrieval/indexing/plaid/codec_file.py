"""The file of a codec, with how well it fitted when it was new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFilesError, RetrievalError
from retrieval.files import map_arrays, save_arrays
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.directions import PrincipalDirections, kept_components
from retrieval.indexing.plaid.values import Floats
from retrieval.indexing.saved_rows import expect

CODEC = "codec.safetensors"

_VALUES = [(1 << bits,) for bits in (1, 2, 4, 8)]
_VALUES_WITH_FIRST = {(1 << 2 * bits) + (1 << bits): bits for bits in (1, 2)}
"""Lengths of `values` that begin with those of the first components along principal directions."""
_LARGEST = 1e6
"""Of what is learned with directions."""


def save_codec(path: Path, codec: ResidualCodec, energy: float) -> None:
    """Write a codec.

    Args:
        path: the file.
        codec: what is written.
        energy: the mean squared length of the residuals that it was learned for.
    """
    arrays: dict[str, NDArray[Any]] = {
        "centroids": codec.centroids.astype(np.float16),
        "values": np.concatenate([section.values for section in codec.sections]),
        "spread": np.array([codec.spread], np.float32),
        "energy": np.array([energy], np.float32),
    }
    if codec.principal is not None:
        arrays["directions"] = codec.principal.directions
    save_arrays(path, arrays)


def read_codec(path: Path) -> tuple[ResidualCodec, float]:
    """Read what `save_codec` wrote.

    Raises:
        IndexFilesError: other arrays, or values that no codec has.
    """
    try:
        arrays = map_arrays(path)
    except RetrievalError as error:
        raise IndexFilesError(f"{error}: rebuild the index") from error
    centroids = expect(path, arrays, "centroids", np.float16)
    values = expect(path, arrays, "values", np.float32)
    spread = expect(path, arrays, "spread", np.float32)
    energy = expect(path, arrays, "energy", np.float32)
    is_shaped = centroids.ndim == 2 and len(centroids) > 0 and values.ndim == 1
    if not is_shaped or spread.shape != (1,) or energy.shape != (1,):
        raise IndexFilesError(f"{path}: not a codec: rebuild the index")
    principal = None
    if "directions" in arrays:
        principal, values = _principal(path, arrays, centroids.shape[1], values)
    if values.shape not in _VALUES:
        raise IndexFilesError(f"{path}: not a codec: rebuild the index")
    # Of vectors of unit length and their differences; NaN is not small either.
    numbers = (centroids, spread, energy, *((values,) if principal is None else ()))
    is_small = all(np.abs(each).max() <= 4 for each in numbers)
    steps = np.diff(values)
    is_even = values.size < 256 or (values[-1] > 0 and np.ptp(steps) <= 1e-3 * steps[0])
    if not is_small or (steps < 0).any() or not is_even:
        raise IndexFilesError(f"{path}: numbers that no codec has: rebuild the index")
    codec = ResidualCodec(
        centroids=centroids.astype(np.float32),
        values=np.array(values),
        spread=float(spread[0]),
        principal=principal,
    )
    return codec, float(energy[0])


def _principal(
    path: Path, arrays: dict[str, NDArray[Any]], width: int, values: Floats
) -> tuple[PrincipalDirections, Floats]:
    """The directions, and the values of all but the first components along them."""
    directions = expect(path, arrays, "directions", np.float32)
    bits = _VALUES_WITH_FIRST.get(len(values))
    if bits is None or directions.shape != (kept_components(width), width):
        raise IndexFilesError(f"{path}: not a codec: rebuild the index")
    first = values[: 1 << 2 * bits]
    are_small = np.abs(values).max() <= _LARGEST and np.abs(directions).max() <= _LARGEST
    are_there = are_small and (np.square(directions).sum(axis=1) > 0).all()
    if not are_there or (np.diff(first) < 0).any() or width * bits % 16:
        raise IndexFilesError(f"{path}: numbers that no codec has: rebuild the index")
    return PrincipalDirections(directions=np.array(directions), first_values=np.array(first)), (
        values[1 << 2 * bits :]
    )
