"""Examples as Arrow files that are mapped, not loaded: memory does not grow with their number."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset

LABEL = "label"
_ROWS_AT_ONCE = 1_000


def store_examples(
    rows: Iterable[Mapping[str, Any]], *, limit: int | None = None, cache: str | Path | None = None
) -> Dataset:
    """Write rows to an Arrow file and map it.

    Args:
        rows: texts by column, and a list of numbers under "label"; all have the first one's
            columns.
        limit: take at most this many.
        cache: folder for the file, which is removed when the program ends; by default the
            system's temporary folder.

    Raises:
        InputError: there are no rows.
        MissingExtraError: the extra `train` is not installed.
    """
    try:
        import accelerate  # noqa: F401  (the trainers stop without it, later and less clearly)
        import pyarrow
        from datasets import Dataset
    except ImportError as error:
        raise MissingExtraError("Training", "train") from error
    remaining = islice(rows, limit)
    batch = list(islice(remaining, _ROWS_AT_ONCE))
    if not batch:
        raise InputError("the training files hold no examples")
    types = {LABEL: pyarrow.list_(pyarrow.float64())}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in batch[0]])
    folder = Path(tempfile.mkdtemp(prefix="retrieval-examples-", dir=cache))
    # Mapped until the end of the program: processes that load batches may open it again.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "examples.arrow"
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        while batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            batch = list(islice(remaining, _ROWS_AT_ONCE))
    return Dataset.from_file(str(path))


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of the columns and rows in their order, whatever files they are in.

    Reads the columns' buffers, at the speed of the disk: some seconds for a million triplets.
    """
    digest = hashlib.sha256(repr(dataset.column_names).encode())
    # The format's iterator gives tables, also of an interleaved data set.
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        for column in table.columns:
            for each in _buffers(column.combine_chunks()):
                digest.update(each)
    return digest.hexdigest()


def _buffers(array: Any) -> Iterator[bytes]:
    """The lengths and the contents of an array of texts, of numbers, or of lists of them."""
    import pyarrow
    import pyarrow.compute

    if isinstance(array, pyarrow.ChunkedArray):
        array = pyarrow.concat_arrays(array.chunks)
    if pyarrow.types.is_list(array.type):
        yield np.ascontiguousarray(pyarrow.compute.list_value_length(array)).tobytes()
        yield from _buffers(array.flatten())
    elif pyarrow.types.is_string(array.type):
        lengths = np.ascontiguousarray(pyarrow.compute.binary_length(array), np.int64)
        yield lengths.tobytes()
        start = array.offset
        offsets = np.frombuffer(array.buffers()[1], np.int32)[start : start + len(array) + 1]
        yield array.buffers()[2][int(offsets[0]) : int(offsets[-1])].to_pybytes()
    else:
        yield np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).tobytes()
