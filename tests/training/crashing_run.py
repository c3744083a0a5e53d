"""A run in a process of its own that is killed, as by kill -9, at a point between two system calls.

    python tests/training/crashing_run.py KIND RECIPE.json OUTPUT POINT

POINT is `step:N` (while step N is computed), `write:N` (before the Nth file of the run is synced
to disk), `rename:N` or `renamed:N` (before or after the Nth checkpoint is renamed into its place),
`deleted:N` (the Nth time that a checkpoint has been renamed away, before it is deleted), or
`model` (in the final save). With `none` it resumes, and comes to the end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.config import from_mapping, read_recipe
from retrieval.training import checkpoints
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.trainer import LastingTrainer


def die() -> None:
    """What kill -9 does: no handler, no `finally`, no buffer is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Lay the mine."""
    name, _, number = point.partition(":")
    calls = itertools.count(1)

    def is_now() -> bool:
        return next(calls) == int(number)

    if name == "step":
        original_step = LastingTrainer.training_step

        def step(self: Any, *arguments: Any) -> Any:
            if is_now():
                die()
            return original_step(self, *arguments)

        _patch(LastingTrainer, "training_step", step)
    elif name == "write":
        original_sync = os.fsync

        def sync(descriptor: int) -> None:
            if "checkpoint-" in os.readlink(f"/proc/self/fd/{descriptor}") and is_now():
                die()
            original_sync(descriptor)

        _patch(os, "fsync", sync)
    elif name in ("rename", "renamed"):
        original_replace = os.replace

        def replace(source: Any, target: Any) -> None:
            is_commit = Path(target).parent.name == checkpoints.FOLDER
            hit = is_commit and is_now()
            if hit and name == "rename":
                die()
            original_replace(source, target)
            if hit:
                die()

        _patch(os, "replace", replace)
    elif name == "deleted":
        original_rmtree: Any = shutil.rmtree

        def rmtree(path: Any, *arguments: Any, **keywords: Any) -> None:
            if Path(path).name.startswith("deleted-") and Path(path).exists() and is_now():
                die()
            original_rmtree(path, *arguments, **keywords)

        _patch(shutil, "rmtree", rmtree)
    elif name == "model":

        def save(self: Any, folder: Path) -> None:
            folder.mkdir()
            die()

        _patch(DenseEncoder, "save", save)
        _patch(MultiVectorEncoder, "save", save)


def _patch(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def main() -> None:
    kind, recipe, output, point = sys.argv[1:]
    settings = read_recipe(Path(recipe))
    resume = Path(output).exists()
    arm(point)
    if kind == "dense":
        dense = from_mapping(DenseRecipe, settings, source=recipe)
        encoder: Any = train_dense(dense, Path(output), resume=resume)
    else:
        colbert = from_mapping(MultiVectorRecipe, settings, source=recipe)
        encoder = train_multi_vector(colbert, Path(output), resume=resume)
    print(encoder.reference.fingerprint)


if __name__ == "__main__":
    main()
