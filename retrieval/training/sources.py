"""Rows of training data, one after the other, from wherever they are: files, folders, a hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.errors import InputError, MissingExtraError
from retrieval.files import BadLines, read_jsonl

HUB_PREFIX = "hf:"
_ROWS_AT_ONCE = 1_000


class Row(NamedTuple):
    """A row, and where it is."""

    source: Path
    """The file, the folder, or the hub's name."""
    number: int
    """Its line, or its row where the source has no lines; from 1."""
    values: Mapping[str, Any]


def read_rows(source: str | Path, bad_lines: BadLines | None = None) -> Iterator[Row]:
    """Stream the rows of one source, in order.

    Args:
        source: a JSONL file (.gz too), a Parquet file, a folder that `datasets` saved with
            `save_to_disk`, or `hf:NAME[:SUBSET[:SPLIT]]` for a data set on the hub or in a folder
            (its split "train" by default).
        bad_lines: what to do with lines that are no JSON objects; raises by default.

    Raises:
        InputError: nothing is there, or a line can't be used; the message has file and line.
        MissingExtraError: the extra `train` is not installed, for anything but JSONL.
    """
    name, path = str(source), Path(source)
    if name.startswith(HUB_PREFIX):
        rows = _hub_rows(name.removeprefix(HUB_PREFIX))
    elif path.is_dir():
        rows = _saved_rows(path)
    elif path.suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        for number, record in read_jsonl(path, bad_lines or BadLines()):
            yield Row(path, number, record)
        return
    for number, values in enumerate(rows, start=1):
        yield Row(path, number, values)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Reading Parquet files", "train") from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


def _saved_rows(folder: Path) -> Iterator[dict[str, Any]]:
    datasets = _datasets()
    if not (folder / "state.json").is_file():
        raise InputError(
            f"{folder}: no data set that `save_to_disk` wrote (no file state.json): name its "
            f"files, or {HUB_PREFIX}{folder} for a folder in the form of the hub"
        )
    yield from datasets.load_from_disk(str(folder))


def _hub_rows(name: str) -> Iterator[dict[str, Any]]:
    datasets = _datasets()
    dataset, subset, split = [*name.split(":"), "", ""][:3]
    if not dataset or name.count(":") > 2:
        raise InputError(f"{HUB_PREFIX}{name}: expected {HUB_PREFIX}NAME[:SUBSET[:SPLIT]]")
    try:
        stream = datasets.load_dataset(
            dataset, subset or None, split=split or "train", streaming=True
        )
        yield from stream
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise InputError(f"{HUB_PREFIX}{name}: can't be read ({error})") from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("Reading data sets", "train") from error
    return datasets
