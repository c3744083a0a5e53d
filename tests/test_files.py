"""Files are whole or absent, lines are reported where they are, arrays come back as they were."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import InputError, RetrievalError
from retrieval.files import (
    BadLines,
    atomic_write,
    map_arrays,
    read_json,
    read_jsonl,
    read_lines,
    save_arrays,
    sha256,
    write_json,
    write_jsonl,
)

ROWS: list[dict[str, Any]] = [{"a": 1}, {"a": "é"}]


def jsonl(path: Path, contents: bytes, bad_lines: BadLines | None = None) -> list[Any]:
    path.write_bytes(contents)
    return list(read_jsonl(path, bad_lines or BadLines()))


def test_an_exception_while_writing_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def stop_halfway() -> None:
        with atomic_write(path) as stream:
            stream.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert write_jsonl(path, ROWS) == 2
    assert [row for _, row in read_jsonl(path, BadLines())] == ROWS
    first = path.read_bytes()
    is_compressed = name.endswith(".gz")
    assert (first[:2] == b"\x1f\x8b") == is_compressed
    assert not is_compressed or first[4:8] == bytes(4)  # no time
    write_jsonl(tmp_path / f"another-{name}", iter(ROWS))
    assert (tmp_path / f"another-{name}").read_bytes() == first
    with pytest.raises(ZeroDivisionError):
        write_jsonl(path, ({"a": 1 // n} for n in (1, 0)))
    assert path.read_bytes() == first
    assert len(list(tmp_path.iterdir())) == 2


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file"
    with atomic_write(path) as stream:
        stream.write(b"first")
        assert not path.exists()
    with atomic_write(path) as stream:
        stream.write(b"second")
        stream.flush()
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second"


def test_json_comes_back_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"é": [1, None]})
    assert read_json(path) == {"é": [1, None]}
    assert "é" in path.read_text("utf-8")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RetrievalError, match=r"value\.json: not JSON"):
        read_json(path)
    with pytest.raises(RetrievalError, match=r"other\.json: no such file"):
        read_json(tmp_path / "other.json")


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_line_ends_marks_and_gzip_change_nothing(
    tmp_path: Path, name: str, mark: bytes, end: bytes
) -> None:
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    contents = mark + lines[0] + end + end + b"  " + end + lines[1]
    packed = gzip.compress(contents) if name.endswith(".gz") else contents
    assert jsonl(tmp_path / name, packed) == [(1, ROWS[0]), (4, ROWS[1])]
    kept = [line for _, line in read_lines(tmp_path / name)]
    assert kept == [line.decode() for line in lines]


def test_other_line_separators_do_not_cut_a_line(tmp_path: Path) -> None:
    contents = '{"a": "x\u2028y\x85z"}\n'.encode()
    assert jsonl(tmp_path / "rows.jsonl", contents) == [(1, {"a": "x\u2028y\x85z"})]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": ', "not JSON"),
        (b"[1, 2]", "expected an object, got list"),
        (b'{"a": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_reported_where_it_is(tmp_path: Path, line: bytes, problem: str) -> None:
    contents = b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n'
    path = tmp_path / "rows.jsonl"
    with pytest.raises(InputError) as caught:
        jsonl(path, contents)
    assert str(caught.value).startswith(f"{path}:3: {problem}")
    assert "--skip-bad" in str(caught.value)


def test_skipped_lines_are_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad_lines = BadLines(skip=True)
    contents = b'{"a": 1}\nnonsense\n"text"\n\xff\n{"a": 2}\n'
    rows = jsonl(tmp_path / "rows.jsonl", contents, bad_lines)
    assert rows == [(1, {"a": 1}), (5, {"a": 2})]
    assert bad_lines.count == 3
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        f"skipped {tmp_path / 'rows.jsonl'}:{number}" for number in (2, 3, 4)
    ]


def test_a_damaged_gzip_file_is_named_and_never_skipped(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 1_000)
    flipped = bytearray(whole)
    flipped[20] ^= 0xFF
    for contents in (whole[:-9], b"no gzip at all", bytes(flipped)):
        with pytest.raises(InputError, match=r"rows\.jsonl\.gz:\d+: damaged gzip file"):
            jsonl(tmp_path / "rows.jsonl.gz", contents, BadLines(skip=True))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: no such file"):
        list(read_lines(tmp_path / "none.jsonl"))


def arrays() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "single": generator.standard_normal((5, 3)).astype(np.float32),
        "half": generator.standard_normal((7, 2)).astype(np.float16),
        "offsets": np.array([0, 2, 2**40]),
        "codes": np.arange(9, dtype=np.uint8).reshape(3, 3)[:, ::2],
        "flags": np.array([True, False]),
        "none": np.empty((0, 4), np.float32),
    }


def test_mapped_arrays_equal_what_was_saved(tmp_path: Path) -> None:
    save_arrays(tmp_path / "arrays.safetensors", arrays())
    mapped = map_arrays(tmp_path / "arrays.safetensors")
    assert mapped.keys() == arrays().keys()
    for name, array in arrays().items():
        assert mapped[name].dtype == array.dtype
        np.testing.assert_array_equal(mapped[name], array)
    assert isinstance(mapped["single"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped["single"][0] = 1


def test_no_row_takes_a_cache_line_more_than_it_need(tmp_path: Path) -> None:
    shapes = {"u1": (5, 64), "u2": (3, 192), "u3": (7, 5), "u4": (9, 48), "u5": (0, 64), "u6": (2,)}
    saved: dict[str, Any] = {name: np.zeros(each, np.uint8) for name, each in shapes.items()}
    saved |= {"u": np.zeros(3, np.uint16), "i": np.zeros(3, np.int64), "f": np.zeros((3, 6), "f4")}
    path = tmp_path / "arrays.safetensors"
    save_arrays(path, saved)
    expected = {"u1": 64, "u2": 64, "u3": 1, "u4": 16, "u6": 1, "u": 2, "i": 8, "f": 8}
    mapped = map_arrays(path)
    # A mapping begins at a page.
    assert all(mapped[name].ctypes.data % each == 0 for name, each in expected.items())


def test_safetensors_reads_what_is_written_and_the_reverse(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    save_arrays(ours, arrays())
    loaded = safetensors.numpy.load_file(ours)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays().items()}
    safetensors.numpy.save_file(contiguous, theirs, metadata={"made": "elsewhere"})
    mapped = map_arrays(theirs)
    for name, array in arrays().items():
        np.testing.assert_array_equal(loaded[name], array)
        np.testing.assert_array_equal(mapped[name], array)


@given(keep=st.floats(0, 1, exclude_max=True))
@settings(max_examples=30, deadline=None)
def test_a_truncated_file_is_refused_wherever_it_ends(
    tmp_path_factory: pytest.TempPathFactory, keep: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "arrays.safetensors"
    save_arrays(path, arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(RetrievalError, match=r"arrays\.safetensors: (truncated|not a readable)"):
        map_arrays(path)


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "arrays.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(RetrievalError, match="truncated"):
        map_arrays(path)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
    ],
)
def test_a_header_that_is_wrong_is_refused(tmp_path: Path, header: Any) -> None:
    encoded = json.dumps(header).encode()
    path = tmp_path / "arrays.safetensors"
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(8))
    with pytest.raises(RetrievalError, match=r"arrays\.safetensors"):
        map_arrays(path)


def test_an_unsupported_dtype_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="wide has the unsupported dtype complex128"):
        save_arrays(tmp_path / "arrays.safetensors", {"wide": np.zeros(2, np.complex128)})
    assert not (tmp_path / "arrays.safetensors").exists()
    doubles = {"wide": np.zeros(2, np.float64)}
    safetensors.numpy.save_file(doubles, tmp_path / "doubles.safetensors")
    with pytest.raises(RetrievalError, match="wide has the unsupported dtype F64"):
        map_arrays(tmp_path / "doubles.safetensors")


def test_a_new_file_takes_the_old_one_s_place_in_one_step(tmp_path: Path) -> None:
    """Nobody ever reads a half of each: the old file is not written into."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with atomic_write(path) as stream:
            stream.write(b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"
    assert list(tmp_path.iterdir()) == [path]
