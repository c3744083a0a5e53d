"""The file of a codec, with how well it fitted when it was new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFilesError, RetrievalError
from retrieval.files import map_arrays, save_arrays
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.saved_rows import expect

CODEC = "codec.safetensors"

_VALUES = [(1 << bits,) for bits in (1, 2, 4, 8)]


def save_codec(path: Path, codec: ResidualCodec, energy: float) -> None:
    """Write a codec.

    Args:
        path: the file.
        codec: what is written.
        energy: the mean squared length of the residuals that it was learned for.
    """
    arrays: dict[str, NDArray[Any]] = {
        "centroids": codec.centroids.astype(np.float16),
        "values": codec.values,
        "spread": np.array([codec.spread], np.float32),
        "energy": np.array([energy], np.float32),
    }
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
    is_shaped = centroids.ndim == 2 and len(centroids) > 0 and values.shape in _VALUES
    if not is_shaped or spread.shape != (1,) or energy.shape != (1,):
        raise IndexFilesError(f"{path}: not a codec: rebuild the index")
    # Of vectors of unit length and their differences; NaN is not small either.
    is_small = all(np.abs(each).max() <= 4 for each in (centroids, values, spread, energy))
    steps = np.diff(values)
    is_even = values.size < 256 or (values[-1] > 0 and np.ptp(steps) <= 1e-3 * steps[0])
    if not is_small or (steps < 0).any() or not is_even:
        raise IndexFilesError(f"{path}: numbers that no codec has: rebuild the index")
    codec = ResidualCodec(
        centroids=centroids.astype(np.float32), values=np.array(values), spread=float(spread[0])
    )
    return codec, float(energy[0])
