"""The ids of an index's documents: saved ones in mapped files, added ones in memory.

A file has the ids' bytes one after the other. Beside it lies another with their hashes in order,
so that a lookup is a binary search and a comparison: opening reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFilesError, InputError
from retrieval.files import map_arrays, save_arrays
from retrieval.indexing.ragged import RaggedRows, rows_of
from retrieval.indexing.saved_rows import SavedRows, expect
from retrieval.indexing.versions import Draft, Version

_DELETED = "deleted.safetensors"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HASHED_BYTES = 1 << 22


class _Lookup(NamedTuple):
    """The hashes of a file's ids, ascending, and the number of each one's id in the file."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int32]


class _Encoded(NamedTuple):
    """Ids as bytes."""

    text: NDArray[np.uint8]
    offsets: NDArray[np.int64]


class DocumentIds:
    """Which id is at which position. Positions are never given to another document.

    An id that was deleted can be added again: it then has a new position.
    """

    def __init__(self) -> None:
        self._saved = SavedRows(prefix="ids", columns={"text": np.uint8})
        self._lookups: list[_Lookup] = []
        self._added: list[str] = []
        self._added_positions: dict[str, int] = {}
        self._live: NDArray[np.bool_] | None = None
        """Over the positions that there were at the last deletion; None where none is deleted."""
        self._deleted = 0
        self._saved_deleted = 0

    @classmethod
    def open(cls, version: Version) -> Self:
        """Map the ids of a version.

        Raises:
            IndexFilesError: a file of another shape.
        """
        ids = cls()
        ids._saved = ids._saved.opened(version)
        for name, part in zip(ids._saved.names, ids._saved.parts):
            ids._lookups.append(_map_lookup(version.path / _lookup_name(name), len(part)))
        if _DELETED in version.files:
            path = version.path / _DELETED
            packed = expect(path, map_arrays(path), "deleted", np.uint8)
            if packed.ndim != 1 or 8 * (len(packed) - 1) >= len(ids._saved):
                raise IndexFilesError(f"{path}: more positions than there are: rebuild the index")
            count = min(8 * len(packed), len(ids._saved))
            ids._live = ~np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)
            ids._deleted = ids._saved_deleted = count - int(np.count_nonzero(ids._live))
        return ids

    def __len__(self) -> int:
        """Ids that are there."""
        return self.rows - self._deleted

    @property
    def rows(self) -> int:
        """Positions, those of deleted documents included."""
        return len(self._saved) + len(self._added)

    @property
    def live(self) -> NDArray[np.bool_] | None:
        """(rows,) True where a document has not been deleted; None where none has been."""
        if self._live is not None and len(self._live) < self.rows:
            self._live = np.pad(self._live, (0, self.rows - len(self._live)), constant_values=True)
        return self._live

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and self.positions([identifier])[0] >= 0

    def at(self, positions: NDArray[np.int64]) -> list[str]:
        """The ids at some positions, also of documents that were deleted."""
        starts = self._saved.starts
        owners = np.searchsorted(starts[1:], positions, side="right")
        named = set(owners.tolist())
        if len(named) == 1:
            return self._of_part(owner := named.pop(), positions - starts[owner])
        found = [""] * len(positions)
        for owner in named:
            places = np.flatnonzero(owners == owner)
            texts = self._of_part(owner, positions[places] - starts[owner])
            for place, text in zip(places.tolist(), texts):
                found[place] = text
        return found

    def _of_part(self, number: int, rows: NDArray[np.int64]) -> list[str]:
        """The ids in some rows of a file, or of those in memory, which are the last part."""
        if number == len(self._saved.parts):
            return [self._added[row] for row in rows.tolist()]
        part = self._saved.parts[number]
        text, offsets = part["text"].data, np.asarray(part.offsets)  # whose slices are cheap
        bounds = zip(offsets[rows].tolist(), offsets[rows + 1].tolist())
        return [str(text[first:last], "utf-8", "replace") for first, last in bounds]

    def positions(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The position of each id; -1 for one that is not there."""
        get = self._added_positions.get
        found = np.fromiter((get(each, -1) for each in ids), np.int64, len(ids))
        if not self._lookups:
            return found
        wanted = _encode(ids)
        hashes = hash_ids(*wanted)
        live = self.live
        for part, lookup, start in zip(self._saved.parts, self._lookups, self._saved.starts):
            missing = np.flatnonzero(found < 0)
            is_live = None if live is None else live[start : start + len(part)]
            rows = _find(part, lookup, is_live, wanted, hashes, missing)
            found[missing] = np.where(rows < 0, -1, rows + start)
        return found

    def extend(self, ids: Sequence[str]) -> None:
        """Give the next positions to ids that are not there."""
        self._added_positions.update(zip(ids, range(self.rows, self.rows + len(ids))))
        self._added.extend(ids)

    def delete(self, positions: NDArray[np.int64]) -> None:
        """Take out documents that are there, each given once."""
        live = self.live
        if live is None:
            live = np.ones(self.rows, np.bool_)
        self._live = live
        live[positions] = False
        self._deleted += len(positions)
        for position in positions[positions >= len(self._saved)]:
            del self._added_positions[self._added[position - len(self._saved)]]

    def write(self, draft: Draft) -> None:
        """Write what was added and which are deleted; what is as it was stays in its files."""
        encoded = _encode(self._added)
        added = RaggedRows({"text": encoded.text}, encoded.offsets)
        _write_lookup(draft, self._saved.write(draft, added))
        for name in self._saved.names:
            if name in draft.kept:
                draft.keep(_lookup_name(name))
        if not self._deleted:
            return
        if self._deleted == self._saved_deleted:
            draft.keep(_DELETED)
        else:
            assert self._live is not None
            packed = np.packbits(~self._live, bitorder="little")
            save_arrays(draft.path / _DELETED, {"deleted": packed})

    def write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> None:
        """Write the saved ids that are left as one file."""
        _write_lookup(draft, self._saved.write_compacted(draft, live))

    def check(self, version: Path) -> None:
        """Read everything.

        Raises:
            IndexFilesError: the files do not fit together, or an id is there twice.
        """
        self._saved.check(version)
        for name, part, lookup in zip(self._saved.names, self._saved.parts, self._lookups):
            hashes = hash_ids(part["text"], part.offsets)
            seen = np.zeros(len(part), np.bool_)
            in_range = len(part) == 0 or (lookup.rows.min() >= 0 and lookup.rows.max() < len(part))
            if in_range:
                seen[lookup.rows] = True
            if not seen.all() or not np.array_equal(hashes[lookup.rows], lookup.hashes):
                raise IndexFilesError(
                    f"{version / _lookup_name(name)}: not the hashes of its ids: rebuild the index"
                )
            if (lookup.hashes[1:] < lookup.hashes[:-1]).any():
                raise IndexFilesError(
                    f"{version / _lookup_name(name)}: hashes out of order: rebuild the index"
                )
        live = self.live
        for first in range(0, self.rows, 1 << 16):
            places = np.arange(first, min(first + (1 << 16), self.rows))
            places = places if live is None else places[live[places]]
            if not np.array_equal(self.positions(self.at(places)), places):
                raise IndexFilesError(f"{version}: an id is there twice: rebuild the index")


def check_unicode(ids: Sequence[str]) -> None:
    """Refuse ids that UTF-8 can't write.

    Raises:
        InputError: an id has half of a surrogate pair; it is named.
    """
    for each in ids:
        try:
            each.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the id {each!r} is no valid Unicode ({error.reason})") from error


def hash_ids(text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A 64-bit hash of each id, the same everywhere.

    The bytes, 1 added to each, are digits of a number in a large base, modulo 2**64. Ids with equal
    hashes are told apart by their bytes.

    >>> hash_ids(np.frombuffer(b"abab", np.uint8), np.array([0, 2, 4, 4])).tolist()
    [16760723774415712917, 16760723774415712917, 0]
    """
    hashes = np.empty(len(offsets) - 1, np.uint64)
    first = 0
    while first < len(hashes):
        last = int(np.searchsorted(offsets, offsets[first] + _HASHED_BYTES, "right")) - 1
        last = max(first + 1, last)
        starts = offsets[first:last] - offsets[first]
        ends = offsets[first + 1 : last + 1] - offsets[first]
        digits = text[offsets[first] : offsets[last]].astype(np.uint64) + np.uint64(1)
        places = np.arange(len(digits)) - np.repeat(starts, ends - starts)
        longest = int((ends - starts).max())
        powers = np.cumprod(np.full(longest, _MULTIPLIER))
        digits *= powers[places]
        # Sums that run over stay right modulo 2**64.
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(digits)])
        hashes[first:last] = sums[ends] - sums[starts]
        first = last
    return hashes


def _encode(ids: Sequence[str]) -> _Encoded:
    joined = "".join(ids)
    if joined.isascii():
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    else:
        encoded = (len(each.encode("utf-8", "surrogatepass")) for each in ids)
        lengths = np.fromiter(encoded, np.int64, len(ids))
    # Two halves of a surrogate pair in neighbouring ids do not become one character.
    text = np.frombuffer(joined.encode("utf-8", "surrogatepass"), np.uint8)
    return _Encoded(text, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _find(
    part: RaggedRows,
    lookup: _Lookup,
    is_live: NDArray[np.bool_] | None,
    wanted: _Encoded,
    hashes: NDArray[np.uint64],
    which: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The rows of those `which` of the wanted ids that a part has; -1 for the others."""
    found = np.full(len(which), -1, np.int64)
    places = np.searchsorted(lookup.hashes, hashes[which])
    left = np.arange(len(which))
    # Once round for each id of the same hash: nearly always once.
    while len(left):
        left = left[places[left] < len(lookup.hashes)]
        left = left[lookup.hashes[places[left]] == hashes[which[left]]]
        rows = lookup.rows[places[left]].astype(np.int64)
        is_same = _equal(_Encoded(part["text"], part.offsets), rows, wanted, which[left])
        if is_live is not None:
            is_same &= is_live[rows]
        found[left[is_same]] = rows[is_same]
        left = left[~is_same]
        places[left] += 1
    return found


def _equal(
    ours: _Encoded, rows: NDArray[np.int64], theirs: _Encoded, which: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the bytes of pairs of ids are the same."""
    lengths = ours.offsets[rows + 1] - ours.offsets[rows]
    is_same: NDArray[np.bool_] = lengths == theirs.offsets[which + 1] - theirs.offsets[which]
    pairs = np.flatnonzero(is_same)
    our_bytes, starts = rows_of(ours.offsets[rows[pairs]], ours.offsets[rows[pairs] + 1])
    their_bytes, _ = rows_of(theirs.offsets[which[pairs]], theirs.offsets[which[pairs] + 1])
    differs = ours.text[our_bytes] != theirs.text[their_bytes]
    sums = np.concatenate([[0], np.cumsum(differs)])
    is_same[pairs] = sums[starts] == sums[starts + lengths[pairs]]
    return is_same


def _lookup_name(name: str) -> str:
    return name.replace(".safetensors", ".lookup.safetensors")


def _write_lookup(draft: Draft, name: str | None) -> None:
    if name is None:
        return
    arrays = map_arrays(draft.path / name)
    hashes = hash_ids(arrays["text"], arrays["offsets"])
    rows = np.argsort(hashes, kind="stable").astype(np.int32)
    save_arrays(draft.path / _lookup_name(name), {"hashes": hashes[rows], "rows": rows})


def _map_lookup(path: Path, count: int) -> _Lookup:
    arrays = map_arrays(path)
    lookup = _Lookup(
        expect(path, arrays, "hashes", np.uint64), expect(path, arrays, "rows", np.int32)
    )
    if lookup.hashes.shape != (count,) or lookup.rows.shape != (count,):
        raise IndexFilesError(f"{path}: not for {count} ids: rebuild the index")
    return lookup
