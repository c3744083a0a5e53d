"""Segments in files: mapped, checked, and joined a little at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFilesError, RetrievalError
from retrieval.files import ArrayStream, give_pages_back, map_arrays, save_arrays
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.segment import InvertedLists, Segment, bounds_problem, merged_lists
from retrieval.indexing.ragged import RaggedRows
from retrieval.indexing.saved_rows import expect, row_streams

Mask = NDArray[np.bool_]

PATTERN = r"segment\.(\d+)\.safetensors"


def segment_name(number: int) -> str:
    """The name of a file; a later one has later documents."""
    return f"segment.{number:06d}.safetensors"


def name_after(names: Sequence[str]) -> str:
    """The name of a file behind all others, which are in order."""
    last = re.fullmatch(PATTERN, names[-1]) if names else None
    return segment_name(int(last[1]) + 1 if last else 1)


def map_segment(path: Path, codec: ResidualCodec | None) -> Segment:
    """Map a file that `save_segments` wrote.

    What can be said without reading the arrays is checked: `check_segment` reads them.

    Args:
        path: the file.
        codec: what encoded the tokens; None where there are none.

    Raises:
        IndexFilesError: it holds other arrays, or they do not fit together or the codec.
    """
    try:
        arrays = map_arrays(path)
    except RetrievalError as error:
        raise IndexFilesError(f"{error}: rebuild the index") from error
    wide = codec is not None and len(codec.centroids) > 1 << 16
    dtypes: dict[str, Any] = {
        "offsets": np.int64,
        "codes": np.int32 if wide else np.uint16,
        "residuals": np.uint8,
        "scales": np.float16,
        "list_centroids": np.int32,
        "list_starts": np.int64,
        "list_documents": np.int32,
    }
    if "tokens" in arrays:
        dtypes["tokens"] = np.float16
    for name, dtype in dtypes.items():
        expect(path, arrays, name, dtype)
    offsets, starts = arrays["offsets"], arrays["list_starts"]
    if offsets.ndim != 1 or starts.ndim != 1 or not (offsets.size and starts.size):
        raise IndexFilesError(f"{path}: no offsets: rebuild the index")
    tokens, entries = int(offsets[-1]), int(starts[-1])
    shapes: dict[str, tuple[int, ...]] = {
        "offsets": (len(offsets),),
        "codes": (tokens,),
        "scales": (tokens,),
        "list_centroids": (len(starts) - 1,),
        "list_starts": (len(starts),),
        "list_documents": (entries,),
    }
    if tokens:
        if codec is None:
            raise IndexFilesError(f"{path}: tokens without a codec: rebuild the index")
        shapes["residuals"] = (tokens, codec.residual_bytes)
        if "tokens" in arrays:
            shapes["tokens"] = (tokens, codec.width)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise IndexFilesError(
                f"{path}: {name} has the shape {arrays[name].shape}, expected {shape}: rebuild "
                "the index"
            )
    return Segment.from_arrays(arrays)


def check_segment(path: Path, segment: Segment, centroids: int) -> None:
    """Read a segment, all but the residuals, and hold its arrays against each other.

    Raises:
        IndexFilesError: offsets that descend, or a number out of its range.
    """
    if problem := bounds_problem(segment, centroids):
        raise IndexFilesError(f"{path}: {problem}: rebuild the index")
    numbers: tuple[tuple[str, NDArray[np.integer], int], ...] = (
        ("codes", segment.codes, centroids),
        ("list_documents", segment.lists.documents, segment.documents),
    )
    for name, values, end in numbers:
        if len(values) and (values.min() < 0 or values.max() >= end):
            raise IndexFilesError(f"{path}: {name} outside 0 to {end - 1}: rebuild the index")
        give_pages_back(values)


def save_segments(
    path: Path, segments: Sequence[Segment], live: Sequence[Mask] | None = None
) -> None:
    """Write adjacent segments as one, in little memory.

    Args:
        path: the file.
        segments: in the order of their documents, at least one.
        live: for each segment the documents that are written; all where None.
    """
    model = max(segments, key=lambda segment: len(segment.codes))
    arrays = row_streams([_columns(segment, model) for segment in segments], live)
    if live is not None:
        segments = [_listed(segment, mask) for segment, mask in zip(segments, live)]
    counts = np.zeros(max((_last_centroid(each) for each in segments), default=-1) + 1, np.int64)
    for segment in segments:
        counts[segment.lists.centroids] += np.diff(segment.lists.starts)
    centroids = np.flatnonzero(counts).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(counts[centroids])]).astype(np.int64)
    documents = ArrayStream(np.dtype(np.int32), (int(starts[-1]),), _documents(segments))
    arrays |= {"list_centroids": centroids, "list_starts": starts, "list_documents": documents}
    save_arrays(path, arrays)


def joined(segments: Sequence[Segment]) -> Segment:
    """Adjacent segments as one, in memory."""
    model = max(segments, key=lambda segment: len(segment.codes))
    parts = [_columns(segment, model) for segment in segments]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].names()}
    lengths = np.concatenate([np.diff(segment.offsets) for segment in segments])
    pieces = list(merged_lists(segments))
    arrays["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    arrays["list_centroids"] = np.concatenate(
        [np.empty(0, np.int32), *(piece.centroids for piece in pieces)]
    )
    arrays["list_starts"] = np.concatenate(
        [np.zeros(1, np.int64), *(piece.starts[1:] for piece in pieces)]
    )
    arrays["list_documents"] = np.concatenate(
        [np.empty(0, np.int32), *(piece.documents for piece in pieces)]
    )
    return Segment.from_arrays(arrays)


def _columns(segment: Segment, model: Segment) -> RaggedRows:
    """What a segment has for each token; one without tokens as its neighbour has it."""
    names = ("codes", "residuals", "scales") + (() if model.tokens is None else ("tokens",))
    source = segment.arrays() if len(segment.codes) else _nothing(model)
    return RaggedRows({name: source[name] for name in names}, segment.offsets)


def _nothing(model: Segment) -> dict[str, NDArray[Any]]:
    return {name: array[:0] for name, array in model.arrays().items()}


def _last_centroid(segment: Segment) -> int:
    centroids = segment.lists.centroids
    return int(centroids[-1]) if len(centroids) else -1


def _documents(segments: Sequence[Segment]) -> Iterator[NDArray[np.int32]]:
    for lists in merged_lists(segments):
        yield lists.documents
        for segment in segments:
            give_pages_back(segment.lists.documents)


def _listed(segment: Segment, mask: Mask) -> Segment:
    """The segment with the lists and offsets of some of its documents, numbered anew."""
    lists = segment.lists
    keep = mask[lists.documents]
    numbers = (np.cumsum(mask) - 1).astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(keep)])[lists.starts]
    lengths = np.diff(segment.offsets)[mask]
    is_filled = np.diff(ends) > 0
    kept = InvertedLists(
        lists.centroids[is_filled],
        np.concatenate([[0], ends[1:][is_filled]]).astype(np.int64),
        numbers[lists.documents[keep]],
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return segment._replace(offsets=offsets, lists=kept)
