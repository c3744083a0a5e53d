"""Ids against a dictionary of truth; lookups when hashes are equal; files that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import IndexFilesError
from retrieval.files import map_arrays, save_arrays
from retrieval.indexing import ids as ids_module
from retrieval.indexing.ids import DocumentIds, hash_ids
from tests.indexing.drafts import inodes, save

POOL = ["", "a", "b", "ab", "ba", "é", "\u2028", "x" * 300, "a\0", "\0", "🙂", "doc-1", "doc-2"]


def opened(folder: Path, ids: DocumentIds) -> DocumentIds:
    return DocumentIds.open(save(folder, ids.write))


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "delete", "save"]), st.sets(st.sampled_from(POOL))),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_positions_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, set[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    ids, truth, rows = DocumentIds(), dict[str, int](), list[str]()
    for step, chosen in steps:
        if step == "save":
            ids = opened(folder, ids)
        elif step == "add":
            new = sorted(chosen - truth.keys())
            ids.extend(new)
            truth.update(zip(new, range(len(rows), len(rows) + len(new))))
            rows.extend(new)
        else:
            gone = sorted(chosen & truth.keys())
            ids.delete(ids.positions(gone))
            for each in gone:
                del truth[each]
        assert len(ids) == len(truth)
        assert ids.rows == len(rows)
        assert ids.positions(POOL).tolist() == [truth.get(each, -1) for each in POOL]
        assert ids.at(np.arange(ids.rows)) == rows
        assert [ids.at(np.array([row])) for row in range(ids.rows)] == [[each] for each in rows]
        live = np.ones(len(rows), np.bool_) if ids.live is None else ids.live
        assert np.flatnonzero(live).tolist() == sorted(truth.values())
    version = save(folder, ids.write)
    DocumentIds.open(version).check(version.path)


def test_ids_with_equal_hashes_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ids_module, "hash_ids", lambda text, offsets: hash_ids(text, offsets) % np.uint64(3)
    )
    names = [f"id {number}" for number in range(50)]
    ids = DocumentIds()
    ids.extend(names)
    ids = opened(tmp_path, ids)
    ids.delete(np.array([7, 31]))
    wanted = [names[31], names[49], "id 50", names[0], names[7]]
    assert ids.positions(wanted).tolist() == [-1, 49, -1, 0, -1]


def test_the_hash_depends_on_every_byte_and_on_nothing_else() -> None:
    text = "".join(POOL).encode()
    offsets = np.concatenate([[0], np.cumsum([len(each.encode()) for each in POOL])])
    together = hash_ids(np.frombuffer(text, np.uint8), offsets)
    alone = [
        hash_ids(np.frombuffer(each.encode(), np.uint8), np.array([0, len(each.encode())]))[0]
        for each in POOL
    ]
    assert together.tolist() == [int(each) for each in alone]
    assert len(set(together.tolist())) == len(POOL)


def test_hashing_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = np.random.default_rng(0).integers(0, 256, 5_000, np.uint8)
    offsets = np.sort(np.append(np.random.default_rng(1).integers(0, 5_000, 400), [0, 5_000]))
    whole = hash_ids(text, offsets)
    monkeypatch.setattr(ids_module, "_HASHED_BYTES", 64)
    assert np.array_equal(hash_ids(text, offsets), whole)


def test_a_deletion_alone_writes_only_the_bitmap(tmp_path: Path) -> None:
    ids = DocumentIds()
    ids.extend([f"d{number}" for number in range(1000)])
    first = save(tmp_path, ids.write)
    ids = DocumentIds.open(first)
    ids.delete(ids.positions(["d5"]))
    before = inodes(first)
    second = save(tmp_path, ids.write)
    after = inodes(second)
    assert after.keys() - before.keys() == {"deleted.safetensors"}
    assert after.items() > before.items()
    again = DocumentIds.open(second)
    again.extend(["new"])
    third = inodes(save(tmp_path, again.write))
    assert third["deleted.safetensors"] == after["deleted.safetensors"]


def test_many_small_commits_leave_few_files(tmp_path: Path) -> None:
    ids = DocumentIds()
    for number in range(40):
        ids.extend([f"d{number}"])
        version = save(tmp_path, ids.write)
        ids = DocumentIds.open(version)
    assert len(version.files) <= 2 * 6
    chosen = np.array([39, 0, 7, 7, 21, 20])
    assert ids.at(chosen) == [f"d{number}" for number in chosen]
    assert ids.at(chosen[:0]) == []


@pytest.mark.parametrize("harm", ["hash", "order", "row", "twice"])
def test_files_that_contradict_each_other_are_found(tmp_path: Path, harm: str) -> None:
    ids = DocumentIds()
    ids.extend(["a", "b", "c"])
    version = save(tmp_path, ids.write)
    path = version.path / "ids.000001.lookup.safetensors"
    arrays = {name: np.array(each) for name, each in map_arrays(path).items()}
    if harm == "hash":
        arrays["hashes"][2] += np.uint64(1)
    elif harm == "order":
        arrays = {name: each[::-1].copy() for name, each in arrays.items()}
    elif harm == "row":
        arrays["rows"][0] = 7
    else:
        ids.extend(["a"])
        second = save(tmp_path / "second", ids.write)
        with pytest.raises(IndexFilesError, match="twice"):
            DocumentIds.open(second).check(second.path)
        return
    save_arrays(path, arrays)
    with pytest.raises(IndexFilesError, match=r"lookup\.safetensors"):
        DocumentIds.open(version).check(version.path)


def test_files_for_another_number_of_ids_are_refused(tmp_path: Path) -> None:
    ids = DocumentIds()
    ids.extend(["a", "b", "c"])
    version = save(tmp_path, ids.write)
    path = version.path / "ids.000001.lookup.safetensors"
    save_arrays(path, {"hashes": np.zeros(2, np.uint64), "rows": np.zeros(2, np.int32)})
    with pytest.raises(IndexFilesError, match="not for 3 ids"):
        DocumentIds.open(version)
    save_arrays(path, {"hashes": np.zeros(3, np.uint64)})
    with pytest.raises(IndexFilesError, match="rows is missing"):
        DocumentIds.open(version)
