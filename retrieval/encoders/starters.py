"""The retrievers that come with the package: their names, their 8-bit weights, their checkpoints.

Both stand on one ModernBERT backbone that this project trained (train/starter.py). Their files are
in `retrieval/starters`: the backbone's weights in 8 bits, one scale a row, and a checkpoint of each
without its weights. Where a starter is first used, its checkpoint is written out beside the hub's
cache, and loaded from there like any other.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CheckpointError
from retrieval.files import map_arrays, read_json, save_arrays, sha256, write_json

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "starters"
STARTERS = {"starter-dense": "dense", "starter-colbert": "colbert"}
"""The folder of each starter below `SHIPPED`."""
DEFAULT_STARTER = "starter-colbert"

_WEIGHTS = "model.safetensors"
_PACKED = "backbone.safetensors"
_MANIFEST = "starters.json"
_SCALE = ".scale"


def checkpoint_folder(name: str) -> str:
    """Where the checkpoint of this name is: a starter's own folder, any other name as it is.

    Raises:
        CheckpointError: the package's files of a starter are missing or damaged.
    """
    return str(starter_folder(name)) if name in STARTERS else name


def starter_folder(name: str, cache: Path | None = None) -> Path:
    """The checkpoint of a starter, written out where that has not been done yet.

    Args:
        name: one of `STARTERS`.
        cache: folder for the checkpoints; by default beside the hub's own cache, and a temporary
            one where that can't be written.

    Raises:
        CheckpointError: the package's files are missing or damaged.
    """
    packed = SHIPPED / _PACKED
    if not packed.is_file():
        raise CheckpointError(f"{name}: this installation has no {packed}: install it again")
    digest = sha256(packed)
    if digest != read_json(SHIPPED / _MANIFEST)["sha256"]:
        raise CheckpointError(f"{packed}: damaged (another SHA-256): install the package again")
    folder = (cache or _cache()) / f"{name}-{digest[:16]}"
    if (folder / _WEIGHTS).is_file():
        return folder
    try:
        _write_out(SHIPPED / STARTERS[name], packed, folder)
    except OSError as error:
        if cache is not None:
            raise
        other = Path(tempfile.gettempdir()) / f"modernbert-retrieval-{_user()}"
        logger.warning("%s can't be written (%s): the starter goes to %s", folder, error, other)
        return starter_folder(name, other)
    return folder


def pack_weights(weights: Mapping[str, NDArray[np.floating[Any]]]) -> dict[str, NDArray[Any]]:
    """Matrices as 8-bit rows with float32 scales, everything else in float32.

    A row's largest component becomes 127: the error is at most 1/254 of it.
    """
    packed: dict[str, NDArray[Any]] = {}
    for name, value in weights.items():
        array = np.asarray(value, np.float32)
        if array.ndim != 2:
            packed[name] = array
            continue
        largest = np.abs(array).max(axis=1, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        packed[name] = np.rint(array / scale).astype(np.int8)
        packed[name + _SCALE] = scale
    return packed


def unpack_weights(packed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float16]]:
    """What `pack_weights` packed, in float16: its rounding is a tenth of the 8 bits' error."""
    return {
        name: (value.astype(np.float32) * packed.get(name + _SCALE, np.float32(1))).astype(
            np.float16
        )
        for name, value in packed.items()
        if not name.endswith(_SCALE)
    }


def ship(backbone: Mapping[str, NDArray[Any]], checkpoints: Mapping[str, Path], about: Any) -> None:
    """Write the starters' files into the package (train/starter.py ends with it).

    Args:
        backbone: the weights that all checkpoints share, under the names of `model.safetensors`.
        checkpoints: for each of `STARTERS`, a Sentence Transformers checkpoint.
        about: goes into the manifest: the data, the seed, the scores.
    """
    shutil.rmtree(SHIPPED, ignore_errors=True)
    for name, checkpoint in checkpoints.items():
        shutil.copytree(
            checkpoint, SHIPPED / STARTERS[name], ignore=_weights_of_the_backbone(checkpoint)
        )
    save_arrays(SHIPPED / _PACKED, pack_weights(backbone))
    write_json(SHIPPED / _MANIFEST, {"sha256": sha256(SHIPPED / _PACKED), "about": about})


def about_starters() -> Any:
    """What the manifest of the package's starters says of how they were made."""
    return read_json(SHIPPED / _MANIFEST)["about"]


def _weights_of_the_backbone(checkpoint: Path) -> Any:
    """Leaves out the checkpoint's own weights, and keeps those of a projection."""

    def ignore(folder: str, _: list[str]) -> list[str]:
        return [_WEIGHTS, "README.md"] if Path(folder) == checkpoint else []

    return ignore


def _write_out(description: Path, packed: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        shutil.copytree(description, temporary, dirs_exist_ok=True)
        save_arrays(temporary / _WEIGHTS, unpack_weights(map_arrays(packed)))
        temporary.rename(folder)
    except OSError:
        if not (folder / _WEIGHTS).is_file():  # another process was not faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "modernbert-retrieval"


def _user() -> str:
    import getpass

    return getpass.getuser()
