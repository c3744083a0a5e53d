"""Which FAISS index suits a number of vectors and a memory, where nobody names one."""

from __future__ import annotations

import math

from retrieval.errors import ConfigError

FLAT_UP_TO = 50_000
"""Rows that a scan reads in a few ms at width 384: nothing is gained by an approximation."""
HNSW_UP_TO = 1_000_000
"""Rows that are linked in minutes: each took 0.14 ms among 23,000, and takes longer among more."""
BINARY_UP_TO = 10_000_000
"""Rows whose bits a query reads in some 60 ms at width 384 (measured: 6 ms for a million), and
whose 8-bit vectors, 3.8 GB, a build can hold."""

_LINK_BYTES = 272
"""Of a row of HNSW32: 64 links on the ground level, 32 on each of 1/31 levels above, its place."""


def choose_factory(rows: int, width: int, *, sample: int, memory_mb: int | None = None) -> str:
    """The first of the kinds for this many rows that fits into the memory.

    | rows up to | kinds | because |
    |---|---|---|
    | 50,000 | Flat, SQ8, Binary | a scan is fast: the bytes of a component count, 4, 1, or 1/8 |
    | 1,000,000 | HNSW32, HNSW32_SQ8, Binary | a graph meets few rows, for 272 bytes each |
    | 10,000,000 | Binary, IVF-PQ | a graph would take hours to build; PQ alone loses much |
    | more | IVF-PQ by 4, by 8, by 16 | a build can't hold 8-bit vectors any more |

    IVF-PQ has a byte for so many components. Its lists are learned from the sample.

    Share of the true top 10 and top 100 that is found, 22,988 texts by all-MiniLM-L6-v2 (width
    384), default settings, and the bytes of a row that a search reads again and again:

    | kind | @10 | @100 | bytes |
    |---|---|---|---|
    | Flat | 1 | 1 | 1536 |
    | SQ8 | .993 | .995 | 384 |
    | HNSW32 | .988 | .970 | 1808 |
    | HNSW32_SQ8 | .981 | .968 | 656 |
    | Binary,SQ8 | .970 | .958 | 48 |
    | IVF-PQ by 4 | .832 | .822 | 104 |
    | IVF-PQ by 8 | .683 | .684 | 56 |
    | IVF-PQ by 16 | .532 | .553 | 32 |

    Among a million vectors that were mixed from these, many of them near copies, Binary,SQ8 finds
    .957 and .936, in 10 ms a query on one core.

    The memory is what every search reads. Of the 8-bit vectors that re-score Binary a search reads
    single pages of a mapped file, which the system can take back. A build takes more: it holds what
    it writes.

    Args:
        rows: that the index is built with.
        width: of a vector.
        sample: vectors that can be learned from.
        memory_mb: millions of bytes; None is no limit.

    Returns:
        A factory string of FAISS's, or "Binary," and one for the vectors that re-score.

    Raises:
        ConfigError: nothing fits.
    """
    kinds = _kinds(rows, width, sample)
    for factory, row_bytes in kinds:
        if memory_mb is None or rows * row_bytes <= memory_mb * 1e6:
            return factory
    factory, row_bytes = min(kinds, key=lambda kind: kind[1])
    raise ConfigError(
        f"memory_mb is {memory_mb}: {rows:,} vectors of width {width} take at least "
        f"{math.ceil(rows * row_bytes / 1e6):,} MB, as {factory!r}: raise it, or cut the vectors "
        "(width)"
    )


def _kinds(rows: int, width: int, sample: int) -> list[tuple[str, float]]:
    """Factory strings for this many rows, the first choice first, and the bytes of a row."""
    binary = ("Binary,SQ8", width / 8)
    if rows <= FLAT_UP_TO:
        return [("Flat", 4 * width), ("SQ8", width), binary]
    if rows <= HNSW_UP_TO:
        return [("HNSW32", 4 * width + _LINK_BYTES), ("HNSW32_SQ8", width + _LINK_BYTES), binary]
    lists: int = 1 << round(math.log2(4 * math.sqrt(rows)))
    # FAISS asks for 39 vectors a list to learn from.
    lists = min(lists, 1 << int(math.log2(min(rows, sample) / 39)))
    products = []
    for components in (4, 8, 16):
        parts = _divisor(width, max(1, width // components))
        # 8 bytes for the row's number
        products.append((f"IVF{lists},PQ{parts}", parts + 8.0))
    return [binary, *products] if rows <= BINARY_UP_TO else products


def _divisor(width: int, most: int) -> int:
    """The largest number of equal parts, at most `most`."""
    return max(part for part in range(1, most + 1) if width % part == 0)
