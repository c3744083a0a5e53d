"""Files that are whole or absent: atomic writes, checksums, JSON lines, memory-mapped arrays."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InputError, RetrievalError

logger = logging.getLogger(__name__)

_SAFETENSORS_DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "U64": np.uint64,
    "I64": np.int64,
    "I32": np.int32,
    "U16": np.uint16,
    "U8": np.uint8,
    "I8": np.int8,
    "BOOL": np.bool_,
}
_LINE_BYTES = 64
"""Of the processor's cache."""


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes `path` in one step, only if the block succeeds.

    The bytes are on disk before the rename, and the rename is on disk before this returns, so a
    crash leaves either the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_write(path) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        RetrievalError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RetrievalError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RetrievalError(f"{path}: not JSON ({error})") from error


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(kw_only=True)
class BadLines:
    """What to do with a line that can't be used: raise, or skip and count it."""

    skip: bool = False
    count: int = 0
    advice: str = "--skip-bad skips and counts such lines"
    """How to skip them, for the message."""

    def report(self, path: Path, line: int, problem: str) -> None:
        """Count a bad line, or raise InputError where skipping was not asked for."""
        if not self.skip:
            raise InputError(f"{path}:{line}: {problem} ({self.advice})")
        self.count += 1
        logger.warning("skipped %s:%d: %s", path, line, problem)


def read_lines(path: Path, bad_lines: BadLines | None = None) -> Iterator[tuple[int, str]]:
    """Stream (line number from 1, line without its end); blank lines are passed over.

    A file whose name ends in .gz is gunzipped, and a byte-order mark is dropped.

    Raises:
        InputError: no such file, a damaged gzip file, or a line that is not UTF-8, and `bad_lines`
            does not skip.
    """
    number = 0
    try:
        # Lines are decoded one by one: a text stream decodes ahead of the line that it returns.
        with _open(path) as stream:
            for encoded in stream:
                number += 1  # enumerate would keep a second reference
                try:
                    line = encoded.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    if bad_lines is None:
                        raise InputError(f"{path}:{number}: not UTF-8 ({error})") from error
                    bad_lines.report(path, number, f"not UTF-8 ({error})")
                    continue
                del encoded  # a line may be hundreds of megabytes, and its text is one already
                line = line.rstrip("\r\n")
                if line and not line.isspace():
                    yield number, line
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: damaged gzip file ({error})") from error


def count_lines(path: Path) -> int:
    """Count the lines of a file that are not blank, gunzipped where its name ends in .gz.

    A damaged file counts up to the damage: whoever reads it will say so.
    """
    count = 0
    try:
        with _open(path) as stream:
            for line in stream:
                count += not line.isspace()
    except (OSError, EOFError, zlib.error):
        pass
    return count


def read_jsonl(path: Path, bad_lines: BadLines) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream (line number from 1, object); blank lines are passed over.

    Raises:
        InputError: a line is not a JSON object, and `bad_lines` does not skip.
    """
    for number, line in read_lines(path, bad_lines):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            bad_lines.report(path, number, f"not JSON ({error})")
            continue
        if not isinstance(value, dict):
            bad_lines.report(path, number, f"expected an object, got {type(value).__name__}")
            continue
        yield number, value


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records as JSON lines, atomically; returns how many.

    A file whose name ends in .gz is compressed, to the same bytes whenever it is written.
    """
    count = 0
    with atomic_write(path) as stream, ExitStack() as stack:
        lines: IO[bytes] | gzip.GzipFile = stream
        if path.suffix == ".gz":
            lines = stack.enter_context(gzip.GzipFile("", "wb", fileobj=stream, mtime=0))
        for record in records:
            lines.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


class ArrayStream(NamedTuple):
    """An array that is written part by part, for one that may not fit into memory."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Iterable[NDArray[Any]]
    """Arrays of the same dtype, whose bytes one after the other are the array's."""


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any] | ArrayStream]) -> None:
    """Write arrays as one safetensors file, atomically, without a second copy in memory.

    An array whose rows are multiples of 64 bytes starts at such a multiple, so that no row takes a
    cache line more than it need; others start at multiples of the largest power of two in theirs.

    Raises:
        RetrievalError: a dtype that is not supported.

    Source: the format's header, https://github.com/huggingface/safetensors#format.
    """
    names = {np.dtype(dtype): name for name, dtype in _SAFETENSORS_DTYPES.items()}
    header: dict[str, Any] = {}
    ordered = sorted(arrays.items(), key=lambda item: (-_alignment(item[1]), item[0]))
    begin = 0
    for name, array in ordered:
        if array.dtype not in names:
            raise RetrievalError(f"{path}: {name} has the unsupported dtype {array.dtype}")
        end = begin + math.prod(array.shape) * array.dtype.itemsize
        dtype = names[array.dtype]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(8 + len(encoded)) % _LINE_BYTES)
    with atomic_write(path) as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, array in ordered:
            for part in array.parts if isinstance(array, ArrayStream) else [array]:
                assert part.dtype == array.dtype, "a part of another dtype"
                stream.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        assert stream.tell() == 8 + len(encoded) + begin, "parts that do not fill their shape"


def _alignment(array: NDArray[Any] | ArrayStream) -> int:
    """The largest power of two that all rows start at where the first does, at most 64.

    Where arrays of more come first, each begins behind multiples of its own.
    """
    row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
    return math.gcd(row_bytes, _LINE_BYTES)


def give_pages_back(array: NDArray[Any]) -> None:
    """Let go of the memory that reading a mapped array took: nothing for one in memory.

    The array stays readable. Reading a file larger than memory from one end to the other would
    otherwise count as memory in use until the system wants it back.
    """
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap):
        mapped.madvise(mmap.MADV_DONTNEED)


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Memory-map every array of a safetensors file, read-only; nothing is read until it is used.

    Raises:
        RetrievalError: the file is missing, truncated or holds an unsupported dtype.

    Source: the format's header, https://github.com/huggingface/safetensors#format.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            (header_bytes,) = struct.unpack("<Q", stream.read(8))
            if header_bytes > size - 8:
                raise RetrievalError(f"{path}: truncated, the header alone is {header_bytes} bytes")
            header = json.loads(stream.read(header_bytes))
            header.pop("__metadata__", None)
            entries = []
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                entries.append((name, entry["dtype"], tuple(entry["shape"]), begin, end))
    except (OSError, struct.error, ValueError, AttributeError, KeyError, TypeError) as error:
        raise RetrievalError(f"{path}: not a readable safetensors file ({error})") from error
    arrays: dict[str, NDArray[Any]] = {}
    mapped: NDArray[np.uint8] | None = None
    for name, dtype_name, shape, begin, end in entries:
        if not isinstance(dtype_name, str) or dtype_name not in _SAFETENSORS_DTYPES:
            raise RetrievalError(f"{path}: {name} has the unsupported dtype {dtype_name}")
        dtype = np.dtype(_SAFETENSORS_DTYPES[dtype_name])
        numbers = (begin, end, *shape)
        if (
            any(type(each) is not int or not 0 <= each < 1 << 63 for each in numbers)
            or end - begin != math.prod(shape) * dtype.itemsize
        ):
            raise RetrievalError(
                f"{path}: not a readable safetensors file ({name} of shape {shape} is said to be "
                f"the bytes {begin} to {end})"
            )
        if 8 + header_bytes + end > size:
            raise RetrievalError(f"{path}: truncated, {name} ends behind the end of the file")
        if begin < end:
            # One mapping for all arrays: each takes as long as the rest of this function.
            mapped = np.memmap(path, np.uint8, mode="r") if mapped is None else mapped
            data = mapped[8 + header_bytes + begin : 8 + header_bytes + end]
            arrays[name] = data.view(dtype).reshape(shape)
            continue
        try:
            arrays[name] = np.empty(shape, dtype)
        except ValueError as error:
            raise RetrievalError(
                f"{path}: not a readable safetensors file ({name} of shape {shape}: {error})"
            ) from error
    return arrays


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]
