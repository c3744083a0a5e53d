"""Texts that are the same, or nearly: normalised keys, shingles, and an index of shingles.

Near duplicates are compared by their sets of word n-grams (Broder 1997, On the resemblance and
containment of documents). One side is indexed and the other streamed past it, so every
resemblance is the exact one: nothing is sketched.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Shingles = NDArray[np.uint64]
"""Hashes of the distinct word n-grams of a text, sorted."""

# Chinese, Japanese and Korean do not part words by spaces: each character is one.
_SIGNS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """The words of a text, without case, punctuation and forms that Unicode (NFKC) holds equal.

    >>> words("What's  a FILE?")
    ['what', 's', 'a', 'file']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def text_key(text: str) -> bytes:
    """Sixteen bytes that are equal for texts of the same words in the same order.

    Texts without any word are compared as they are, but for white space.

    >>> text_key("Read a file.") == text_key("read  a   FILE")
    True
    """
    normalised = " ".join(words(text)) or f"\\0{' '.join(text.split())}"
    return blake2b(normalised.encode(), digest_size=16).digest()


def shingles(words_of_text: Sequence[str], count: int) -> Shingles:
    """Hash every run of `count` words; a shorter text has none."""
    if len(words_of_text) < count:
        return np.empty(0, np.uint64)
    hashes = np.fromiter(
        (zlib.crc32(word.encode()) for word in words_of_text), np.uint64, len(words_of_text)
    )
    runs = len(hashes) - count + 1
    combined = np.zeros(runs, np.uint64)
    for at in range(count):
        combined = (combined ^ hashes[at : at + runs]) * _FACTOR
        combined ^= combined >> np.uint64(29)
    return np.unique(combined)


def jaccard(first: Shingles, second: Shingles) -> float:
    """Shared shingles over all shingles; 0 where neither text has any."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    everything = len(first) + len(second) - shared
    return shared / everything if everything else 0.0


class ShingleIndex:
    """Tells which of the indexed texts share shingles with another text, and how many."""

    def __init__(self, texts: Sequence[Shingles], *, max_texts: int | None = None) -> None:
        """Index `texts`; a shingle in more than `max_texts` of them is boilerplate and not kept."""
        lengths = [len(each) for each in texts]
        hashes = np.concatenate([*texts, np.empty(0, np.uint64)])
        owners = np.repeat(np.arange(len(texts)), lengths)
        order = np.argsort(hashes, kind="stable")
        unique, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
        is_kept = counts <= (max_texts or len(texts))
        self._boilerplate = unique[~is_kept]
        self._unique = unique[is_kept]
        self._starts, self._counts = starts[is_kept], counts[is_kept]
        self._owners = owners[order]
        kept_owners = self._owners[np.repeat(is_kept, counts)]
        self.sizes = np.bincount(kept_owners, minlength=len(texts))
        """Shingles of each indexed text, without boilerplate."""

    def size(self, text: Shingles) -> int:
        """Shingles of a text, without boilerplate."""
        return len(text) - len(_found(self._boilerplate, text))

    def overlaps(self, text: Shingles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The indexed texts that share shingles with `text`, and how many each shares."""
        rows = _found(self._unique, text)
        if not len(rows):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        starts, counts = self._starts[rows], self._counts[rows]
        offsets = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        owners = self._owners[np.repeat(starts, counts) + offsets]
        found, shared = np.unique(owners, return_counts=True)
        return found, shared


def _found(table: Shingles, wanted: Shingles) -> NDArray[np.int64]:
    """The rows of a sorted table that hold one of `wanted`."""
    if not len(table) or not len(wanted):
        return np.empty(0, np.int64)
    rows: NDArray[np.int64] = np.searchsorted(table, wanted)
    rows[rows == len(table)] = 0
    found: NDArray[np.int64] = rows[table[rows] == wanted]
    return found
