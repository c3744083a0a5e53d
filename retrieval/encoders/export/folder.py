"""A folder of files that is whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval.errors import ConfigError
from retrieval.files import sync_folder

# One of these is in every model folder and in every export.
_MARKS = ("config.json", "modules.json", "retrieval_export.json")


@contextmanager
def new_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Fill a temporary folder beside `output` that takes its name only if the block succeeds.

    Args:
        output: the folder to be; its parents are made.
        overwrite: replace a model or an export that is there.

    Raises:
        ConfigError: `output` is taken and may not be replaced.
    """
    output = output.resolve()
    _check(output, overwrite)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        _sync(unfinished)
        if output.exists():
            before = output.with_name(f".{output.name}.{os.getpid()}.old")
            os.rename(output, before)
            os.rename(unfinished, output)
            shutil.rmtree(before)
        else:
            os.rename(unfinished, output)
        sync_folder(output.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _check(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"{output}: is there already (--overwrite replaces it)")
    if not any((output / each).is_file() for each in _MARKS):
        raise ConfigError(f"{output}: holds something else than a model, which is not replaced")


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(folder)
