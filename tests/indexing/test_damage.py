"""Truncated, flipped and foreign files of every kind: a clear error, no crash, no memory."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import IndexFilesError, RetrievalError
from retrieval.files import map_arrays
from retrieval.indexing import index_class, open_index
from retrieval.indexing.index import Batch
from retrieval.indexing.plaid import PlaidSettings
from retrieval.indexing.verify import verify_index
from retrieval.indexing.versions import current_version
from retrieval.records import Document
from tests.indexing.cases import CASES, Case, K, each_of
from tests.indexing.damage import sign

KINDS = [
    case
    for case in CASES
    if case.name in ("exact-multi-vector", "faiss-hnsw", "plaid-4-bits", "lexical")
]


@pytest.fixture
def index(case: Case, tmp_path: Path) -> Path:
    """An index with stored documents, two parts of each array, and deleted documents."""
    world = case.world()
    folder = tmp_path / "index"
    first, later = range(200), range(200, 230)
    with index_class(case.kind).build(folder, [batch_of(case, first)]) as made:
        made.add(*batch_of(case, later)[:2], documents=batch_of(case, later).documents)
        made.delete(world.ids[20:25])
        made.save()
    return folder


def batch_of(case: Case, rows: range) -> Batch[Any]:
    world = case.world()
    ids = [world.ids[row] for row in rows]
    documents = [Document(each, f"text of {each}") for each in ids]
    return Batch(ids, world.take(rows), documents)


def files(folder: Path) -> list[Path]:
    return sorted(current_version(folder).iterdir())


@each_of(KINDS)
def test_a_whole_index_is_verified(case: Case, index: Path) -> None:
    found = verify_index(index)
    assert (found.kind, found.documents, found.version) == (case.kind, 225, "000002")
    assert found.files == len(files(index)) - 1
    assert (
        found.bytes
        == sum(path.stat().st_size for path in files(index)[:])
        - (current_version(index) / "manifest.json").stat().st_size
    )


@each_of(KINDS)
def test_a_flipped_bit_anywhere_is_found_and_the_file_is_named(case: Case, index: Path) -> None:
    generator = np.random.default_rng(0)
    for path in files(index):
        whole = path.read_bytes()
        for at in generator.integers(0, len(whole), 6):
            changed = bytearray(whole)
            changed[at] ^= 1 << int(generator.integers(8))
            path.write_bytes(changed)
            with pytest.raises(IndexFilesError, match=path.name.replace(".", r"\.")):
                verify_index(index)
        path.write_bytes(whole)
    verify_index(index)


@each_of(KINDS)
def test_a_truncated_file_is_found_at_opening(case: Case, index: Path) -> None:
    for path in files(index):
        whole = path.read_bytes()
        # The last byte of the manifest is the end of a line, which nobody misses.
        for size in (0, 1, 8, len(whole) // 2, len(whole) - 2):
            path.write_bytes(whole[:size])
            with pytest.raises(IndexFilesError, match=path.name.replace(".", r"\.")):
                open_index(index)
        path.write_bytes(whole)


@each_of(KINDS)
def test_a_file_of_another_index_is_refused(case: Case, index: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    index_class(case.kind).build(other, [batch_of(case, range(50, 150))]).close()
    for path in files(other):
        mine = current_version(index) / path.name
        if not mine.exists():
            continue
        whole = mine.read_bytes()
        shutil.copyfile(path, mine)
        with pytest.raises(IndexFilesError):
            verify_index(index)
        # Even where somebody has written its size and checksum into the manifest.
        if path.name not in ("manifest.json", "vocabulary.json", "codec.safetensors"):
            sign(index)
            with pytest.raises(IndexFilesError):
                verify_index(index)
        mine.write_bytes(whole)
        if path.name != "manifest.json":
            sign(index)
    verify_index(index)


@each_of([case for case in KINDS if case.kind != "faiss"])
def test_no_header_of_a_file_crashes_or_takes_memory(case: Case, index: Path) -> None:
    """What comes of it is an error or an index, whatever the header says of the arrays."""
    shared = ("ids.", "documents.", "deleted.")
    refused = 0
    for path in files(index):
        if path.suffix != ".safetensors" or ".000002." in path.name:
            continue
        if path.name.startswith(shared) and case.kind != "exact":
            continue
        whole = path.read_bytes()
        for changed in harmed_headers(whole, seed=len(path.name)):
            path.write_bytes(changed)
            sign(index)
            try:
                opened = open_index(index)
            except RetrievalError:
                refused += 1
                continue
            with contextlib.suppress(RetrievalError):
                opened.check()
        path.write_bytes(whole)
        sign(index)
    assert refused > 100
    verify_index(index)


def harmed_headers(whole: bytes, seed: int) -> Iterator[bytes]:
    """The same data behind other headers: wrong numbers, wrong types, missing and strange ones."""
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def file(changed: Any) -> bytes:
        encoded = json.dumps(changed).encode()
        return struct.pack("<Q", len(encoded)) + encoded + data

    strange: list[Any] = [None, True, -1, 0, 1, 1.5, "7", 1 << 40, 1 << 70, [], {}]
    for name, entry in header.items():
        yield file({other: each for other, each in header.items() if other != name})
        yield file(header | {name: None})
        for dtype in ("F32", "I64", "U8", "BOOL", "F8", None):
            yield file(header | {name: entry | {"dtype": dtype}})
        for value in strange:
            for shape in ([value], [0, value], [value, *entry["shape"]], value):
                yield file(header | {name: entry | {"shape": shape}})
            for bounds in ([value, entry["data_offsets"][1]], [0, value], [value], value):
                yield file(header | {name: entry | {"data_offsets": bounds}})
    for value in strange:
        yield file(value)
    generator = np.random.default_rng(seed)
    for _ in range(40):
        changed = bytearray(whole)
        changed[int(generator.integers(0, 8 + length))] = int(generator.integers(256))
        yield bytes(changed)
    for size in (1 << 20, 1 << 40, (1 << 64) - 1):
        yield struct.pack("<Q", size) + whole[8:]


def test_an_array_beyond_its_file_is_refused(tmp_path: Path) -> None:
    for shape in ([0, 1 << 62, 1 << 62], [1 << 62], [True], [1.0]):
        header = json.dumps({"x": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}})
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
        with pytest.raises(RetrievalError, match=r"x\.safetensors"):
            map_arrays(path)


@each_of(KINDS)
def test_numbers_out_of_range_are_found_behind_a_right_checksum(case: Case, index: Path) -> None:
    """Each array of whole numbers in turn gets one that is too large."""
    assert open_index(index).search(case.world().queries[:1], K)
    for path in [each for each in files(index) if each.suffix == ".safetensors"]:
        whole = path.read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + length])
        for name, entry in header.items():
            if entry["dtype"] not in ("I64", "I32", "U16", "U64") or entry["shape"] == [0]:
                continue
            begin, end = (8 + length + each for each in entry["data_offsets"])
            size = {"I64": 8, "I32": 4, "U16": 2, "U64": 8}[entry["dtype"]]
            changed = bytearray(whole)
            middle = begin + (end - begin) // (2 * size) * size
            changed[middle : middle + size] = b"\xff" * (size - 1) + b"\x7f"
            path.write_bytes(changed)
            sign(index)
            with pytest.raises(IndexFilesError):
                verify_index(index)
            assert name in header
        path.write_bytes(whole)
        sign(index)


def test_settings_that_no_index_has_are_refused(tmp_path: Path) -> None:
    case = next(each for each in CASES if each.kind == "plaid")
    settings = PlaidSettings(bits=2)
    folder = tmp_path / "index"
    index_class("plaid").build(folder, [batch_of(case, range(50))], settings=settings).close()
    manifest = current_version(folder) / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["parameters"]["bits"] = 3
    manifest.write_text(json.dumps(fields))
    with pytest.raises(IndexFilesError, match="changed"):
        open_index(folder)
    sign(folder)
    with pytest.raises(RetrievalError, match="bits: Input should be"):
        open_index(folder)
