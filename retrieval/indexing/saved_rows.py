"""Runs of rows on disk: numbered files that are mapped, never changed, and merged as they grow."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFilesError, RetrievalError
from retrieval.files import ArrayStream, give_pages_back, map_arrays, save_arrays
from retrieval.indexing.ragged import RaggedRows, rows_of
from retrieval.indexing.versions import Draft, Version

_CHUNK_BYTES = 1 << 24


@dataclass(kw_only=True)
class SavedRows:
    """The saved documents of an index, in parts: one file for each, in the order of position.

    Attributes:
        prefix: of the files' names, which go on with a number.
        columns: their dtypes.
        limit: parts are not merged beyond so many bytes.
        parts: the rows of each file.
        names: its name.
        starts: the position of its first document; one more for the end.
    """

    prefix: str
    columns: Mapping[str, Any]
    limit: int | None = None
    parts: list[RaggedRows] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])

    def __len__(self) -> int:
        return self.starts[-1]

    def opened(self, version: Version) -> Self:
        """The rows of a version; they are read when they are used.

        Raises:
            IndexFilesError: a file of another shape.
        """
        rows = type(self)(prefix=self.prefix, columns=self.columns, limit=self.limit)
        for _, name in version.numbered(rf"{self.prefix}\.(\d+)\.safetensors"):
            part = map_rows(version.path / name, self.columns)
            rows.parts.append(part)
            rows.names.append(name)
            rows.starts.append(len(rows) + len(part))
        return rows

    def locate(self, position: int) -> tuple[RaggedRows, int]:
        """The part that holds a position, and the document's number there."""
        part = bisect_right(self.starts, position) - 1
        return self.parts[part], position - self.starts[part]

    def write(self, draft: Draft, added: RaggedRows) -> str | None:
        """Write added documents as a new file, together with the last parts where they are small.

        A part joins the new one while it is not larger than what joined before it, so that there
        are at most log2(documents) parts, and no document is written more often than that.

        Returns:
            The name of the new file; None where nothing was added.
        """
        if not len(added):
            for name in self.names:
                draft.keep(name)
            return None
        sizes = [part.nbytes for part in self.parts]
        first = first_merged(sizes, added.nbytes, self.limit)
        for name in self.names[:first]:
            draft.keep(name)
        name = self.next_name()
        save_rows(draft.path / name, [*self.parts[first:], added])
        return name

    def write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> str | None:
        """Write the documents that are left as one file; returns as `write` does."""
        if not live[: len(self)].any():
            return None
        chosen = [live[start:end] for start, end in zip(self.starts, self.starts[1:])]
        name = self.next_name()
        save_rows(draft.path / name, self.parts, chosen)
        return name

    def next_name(self) -> str:
        """The name of a file behind all others."""
        last = int(self.names[-1].split(".")[1]) if self.names else 0
        return f"{self.prefix}.{last + 1:06d}.safetensors"

    def row_shape(self, column: str, folder: Path) -> tuple[int, ...]:
        """What comes after the first axis of a column, which all parts must agree in.

        Raises:
            IndexFilesError: they do not, or a column is not two-dimensional.
        """
        shapes = {part[column].shape[1:] for part in self.parts}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise IndexFilesError(
                f"{folder}: the files {self.prefix}.* have rows of {sorted(shapes)}: rebuild"
            )
        return shapes.pop()

    def check(self, folder: Path) -> None:
        """Read all offsets.

        Raises:
            IndexFilesError: a document ends before it starts.
        """
        for name, part in zip(self.names, self.parts):
            if (np.diff(part.offsets) < 0).any():
                raise IndexFilesError(f"{folder / name}: offsets that do not ascend: rebuild")


def check_rows(folder: Path, saved: Sized | None, rows: int) -> None:
    """Hold what is searched against the ids.

    Raises:
        IndexFilesError: they are not as many.
    """
    found = 0 if saved is None else len(saved)
    if found != rows:
        raise IndexFilesError(f"{folder}: {found} documents for {rows} ids: rebuild the index")


def first_merged(sizes: Sequence[int], added: int, limit: int | None = None) -> int:
    """From which part on the parts are written again together with what is added.

    >>> first_merged([1000, 90, 8], 10), first_merged([1000, 90, 8], 100)
    (2, 1)
    >>> first_merged([1000, 90, 8], 100, limit=150)
    2
    """
    first = len(sizes)
    while first and sizes[first - 1] <= added:
        added += sizes[first - 1]
        if limit is not None and added > limit:
            break
        first -= 1
    return first


def map_rows(path: Path, columns: Mapping[str, Any]) -> RaggedRows:
    """Map a file that `save_rows` wrote.

    Raises:
        IndexFilesError: it holds other arrays, or they do not fit together.
    """
    try:
        arrays = map_arrays(path)
    except RetrievalError as error:
        raise IndexFilesError(f"{error}: rebuild the index") from error
    offsets = expect(path, arrays, "offsets", np.int64)
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0:
        raise IndexFilesError(f"{path}: offsets that do not start at 0: rebuild the index")
    for name, dtype in columns.items():
        column = expect(path, arrays, name, dtype)
        if not column.ndim or len(column) != offsets[-1]:
            raise IndexFilesError(
                f"{path}: {name} has the shape {column.shape} for {offsets[-1]} rows: rebuild the "
                "index"
            )
    return RaggedRows({name: arrays[name] for name in columns}, offsets)


def expect(path: Path, arrays: Mapping[str, NDArray[Any]], name: str, dtype: Any) -> NDArray[Any]:
    """One array of a file.

    Raises:
        IndexFilesError: it is not there, or of another dtype.
    """
    found = arrays.get(name)
    if found is None or found.dtype != dtype:
        given = "is missing" if found is None else f"is {found.dtype}"
        raise IndexFilesError(
            f"{path}: {name} {given}, expected {np.dtype(dtype).name}: rebuild the index"
        )
    return found


def save_rows(
    path: Path, parts: Sequence[RaggedRows], chosen: Sequence[NDArray[np.bool_]] | None = None
) -> None:
    """Write parts as one file, a little at a time.

    Args:
        path: the file.
        parts: at least one; all with the same columns.
        chosen: for each part the documents that are written; all where None.
    """
    save_arrays(path, row_streams(parts, chosen))


def row_streams(
    parts: Sequence[RaggedRows], chosen: Sequence[NDArray[np.bool_]] | None = None
) -> dict[str, NDArray[Any] | ArrayStream]:
    """What `save_rows` writes: the offsets, and the columns as streams."""
    lengths = [np.diff(part.offsets) for part in parts]
    if chosen is not None:
        lengths = [each[mask] for each, mask in zip(lengths, chosen)]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    arrays: dict[str, NDArray[Any] | ArrayStream] = {"offsets": offsets}
    for name in parts[-1].names():
        first = parts[0][name]
        shape = (int(offsets[-1]), *first.shape[1:])
        arrays[name] = ArrayStream(first.dtype, shape, _pieces(name, parts, chosen))
    return arrays


def _pieces(
    name: str, parts: Sequence[RaggedRows], chosen: Sequence[NDArray[np.bool_]] | None
) -> Iterator[NDArray[Any]]:
    for number, part in enumerate(parts):
        column = part[name]
        row_bytes = max(1, column[:1].nbytes)
        if chosen is None:
            step = max(1, _CHUNK_BYTES // row_bytes)
            pieces: Iterable[NDArray[Any]] = (
                column[at : at + step] for at in range(0, len(column), step)
            )
        else:
            pieces = _chosen_pieces(column, part.offsets, np.flatnonzero(chosen[number]), row_bytes)
        for piece in pieces:
            yield piece
            give_pages_back(column)


def _chosen_pieces(
    column: NDArray[Any], offsets: NDArray[np.int64], documents: NDArray[np.int64], row_bytes: int
) -> Iterator[NDArray[Any]]:
    ends = np.cumsum(offsets[documents + 1] - offsets[documents])
    step = max(1, _CHUNK_BYTES // row_bytes)
    first = 0
    while first < len(documents):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + step, "right")))
        rows, _ = rows_of(offsets[documents[first:last]], offsets[documents[first:last] + 1])
        yield np.take(column, rows, axis=0)
        first = last
