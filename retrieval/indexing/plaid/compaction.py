"""When an index learns anew from its own documents, and how: drift, decoding, sampling.

Legend: T tokens, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from retrieval.files import give_pages_back
from retrieval.indexing.plaid.codec import EncodedTokens, ResidualCodec
from retrieval.indexing.plaid.segment import Segment, make_segment
from retrieval.indexing.plaid.segment_files import map_segment, save_segments, segment_name
from retrieval.indexing.plaid.values import Floats
from retrieval.indexing.ragged import rows_of

logger = logging.getLogger(__name__)

Mask = NDArray[np.bool_]

DRIFT = 1.25
"""Centroids are learned anew where the residuals' energy is so many times what it was.

More documents of the same sort, half as many to four times as many, raise it to 1.08 to 1.19 times,
and cost at most 1 point of recall against a fresh build. As many new ones, a quarter of them of
another sort: 1.30 times and 1 point; half of them: 1.49 times and 8 points (topics and noise of
width 32, 4,096 centroids).
"""
OUTGROWN = 4
"""Or where so many times as many centroids would be learned: from sixteen times the tokens."""

_MEASURED_TOKENS = 1 << 16
_CHUNK_TOKENS = 1 << 16


def residual_energy(codec: ResidualCodec, segments: Sequence[Segment]) -> float:
    """The mean squared length of the residuals: how far tokens are from their centroids.

    65,536 tokens, spread evenly, are looked at, those of deleted documents included.
    """
    total = sum(len(segment.codes) for segment in segments)
    if not total:
        return 0.0
    wanted = np.unique(np.linspace(0, total - 1, min(total, _MEASURED_TOKENS)).astype(np.int64))
    energy, first = 0.0, 0
    for segment in segments:
        last = first + len(segment.codes)
        low, high = np.searchsorted(wanted, [first, last])
        if high > low:
            residuals = codec.residuals(np.asarray(segment.residuals[wanted[low:high] - first]))
            energy += float(np.square(residuals, dtype=np.float64).sum())
            give_pages_back(segment.residuals)
        first = last
    return energy / len(wanted)


def no_longer_fits(
    codec: ResidualCodec, energy: float, segments: Sequence[Segment], count: int
) -> bool:
    """Whether tokens are farther from the centroids than they were, or far more than they were.

    Args:
        codec: what encoded the segments.
        energy: of the residuals when it was new.
        segments: all of the index.
        count: how many centroids would be learned now.
    """
    now = residual_energy(codec, segments)
    found = now > DRIFT * energy or count >= OUTGROWN * len(codec.centroids)
    logger.info(
        "residual energy %.4f, %.4f when learned; %d centroids, %d would be learned now%s",
        now,
        energy,
        len(codec.centroids),
        count,
        ": learning anew" if found else "",
    )
    return found


def live_tokens(
    codec: ResidualCodec, segments: Sequence[Segment], live: Sequence[Mask]
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Yield (lengths, (T, D) tokens) of the documents that are left, some 65,536 tokens at a time.

    The tokens are those that were kept, or else what their codes stand for.
    """
    for segment, mask in zip(segments, live):
        documents = np.flatnonzero(mask)
        starts, ends = segment.offsets[documents], segment.offsets[documents + 1]
        bounds = np.cumsum(ends - starts)
        first = 0
        while first < len(documents):
            done = bounds[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(bounds, done + _CHUNK_TOKENS, "right")))
            rows, _ = rows_of(starts[first:last], ends[first:last])
            yield ends[first:last] - starts[first:last], _tokens(codec, segment, rows)
            for array in (segment.codes, segment.residuals, segment.scales, segment.tokens):
                if array is not None:
                    give_pages_back(array)
            first = last


def save_encoded(
    path: Path,
    codec: ResidualCodec,
    documents: Iterable[tuple[NDArray[np.int64], Floats]],
    encode: Callable[[Floats], EncodedTokens],
    *,
    keep_tokens: bool,
) -> float:
    """Encode documents and write them as one segment, in little memory.

    Args:
        path: the file; a folder of parts is for a while two floors above it, where what a killed
            writer leaves is removed.
        codec: of the segment.
        documents: lengths and tokens, as from `live_tokens`.
        encode: encodes tokens by this codec.
        keep_tokens: write the tokens too.

    Returns:
        The energy of their residuals.
    """
    parts: list[Segment] = []
    with TemporaryDirectory(dir=path.parent.parent, prefix=".compact") as folder:
        for lengths, tokens in documents:
            kept = tokens if keep_tokens else None
            made = make_segment(lengths.tolist(), encode(tokens), kept)
            part = Path(folder) / segment_name(len(parts) + 1)
            save_segments(part, [made])
            parts.append(map_segment(part, codec))
        save_segments(path, parts)
        return residual_energy(codec, parts)


def _tokens(codec: ResidualCodec, segment: Segment, rows: NDArray[np.int64]) -> Floats:
    if not len(rows):
        return np.empty((0, codec.width), np.float32)
    if segment.tokens is not None:
        return segment.tokens[rows].astype(np.float32)
    return codec.decode(
        EncodedTokens(segment.codes[rows], segment.residuals[rows], segment.scales[rows])
    )
