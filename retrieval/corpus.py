"""Documents as a stream, from a BEIR folder, a JSONL file, or a folder of text and code files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from retrieval.errors import DuplicateIdError, InputError
from retrieval.files import BadLines, count_lines, read_jsonl
from retrieval.records import Document, Query
from retrieval.seen_ids import SeenIds

logger = logging.getLogger(__name__)

MAX_PASSAGE_CHARACTERS = 1_500
MAX_FILE_BYTES = 4 * 1024 * 1024
_SKIPPED_FOLDERS = {"node_modules", "__pycache__", "build", "dist", "target", "venv"}


def find_jsonl(folder: Path, stem: str) -> Path | None:
    """The file `stem`.jsonl or `stem`.jsonl.gz in a folder, or None."""
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_corpus(
    path: str | Path, bad_lines: BadLines | None = None, *, titles: bool = True
) -> Iterator[Document]:
    """Stream the documents of `path`; empty ones are kept, and counted in one warning at the end.

    Its length hint, which a progress bar asks for, counts the lines of a JSONL file.

    Args:
        path: a BEIR folder (with corpus.jsonl or corpus.jsonl.gz), one JSONL file, or any other
            folder, whose text and code files are cut into passages (see `read_files`).
        bad_lines: what to do with lines that can't be used; raises by default.
        titles: False leaves the titles out.

    Raises:
        InputError: nothing is at `path`, or a line can't be used.
        DuplicateIdError: an id comes twice.
    """
    bad_lines = bad_lines or BadLines()
    path = Path(path)
    if path.is_dir():
        corpus = find_jsonl(path, "corpus")
        documents = read_documents(corpus, bad_lines) if corpus else read_files(path)
    elif path.is_file():
        corpus, documents = path, read_documents(path, bad_lines)
    else:
        raise InputError(f"{path}: no such file or folder")
    if not titles:
        documents = (document._replace(title="") for document in documents)
    return _Documents(_count_empty(documents, path), corpus)


def read_documents(path: Path, bad_lines: BadLines) -> Iterator[Document]:
    """Stream a JSONL file with `_id` (or `id`), `text` and an optional `title` a line."""
    with SeenIds() as seen:
        for number, record in read_jsonl(path, bad_lines):
            problem = _problem(record)
            if problem:
                bad_lines.report(path, number, problem)
                continue
            identifier = _identifier(record)
            if not seen.add(identifier):
                raise DuplicateIdError(f"{path}:{number}: the id {identifier!r} is there twice")
            yield Document(identifier, record["text"], record.get("title") or "")


def read_queries(path: str | Path, bad_lines: BadLines | None = None) -> Iterator[Query]:
    """Stream a JSONL file with `_id` (or `id`) and `text` a line.

    Raises:
        InputError: a line can't be used.
        DuplicateIdError: an id comes twice.
    """
    for document in read_documents(Path(path), bad_lines or BadLines()):
        yield Query(document.id, document.text)


def read_files(folder: Path) -> Iterator[Document]:
    """Stream passages of every UTF-8 file below `folder`; hidden and build folders are left out.

    A file is cut at blank lines into passages of at most 1,500 characters (a longer paragraph
    stays whole). The id of a passage is `path:first-last` in lines, its title the path. Binary
    files and files above 4 MiB are passed over and counted in a warning.
    """
    passed_over = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in parts):
            continue
        if not path.is_file():
            continue
        text = _text_of(path)
        if text is None:
            passed_over += 1
            continue
        name = path.relative_to(folder).as_posix()
        for first, last, passage in split_passages(text):
            yield Document(f"{name}:{first}-{last}", passage, name)
    if passed_over:
        logger.warning(
            "%s: passed over %d files that are binary or over 4 MiB", folder, passed_over
        )


def split_passages(text: str) -> Iterator[tuple[int, int, str]]:
    """Cut at blank lines into (first line, last line, text), lines counted from 1.

    >>> list(split_passages("a\\nb\\n\\nc"))
    [(1, 4, 'a\\nb\\n\\nc')]
    """
    # As editors count: splitlines would also cut at form feeds and Unicode separators.
    lines = re.split(r"\r\n|\r|\n", text)
    start, size, paragraph_start = 0, 0, 0
    for number, line in enumerate([*lines, ""]):
        if line.strip():
            continue
        paragraph = sum(len(part) + 1 for part in lines[paragraph_start:number])
        if size and size + paragraph > MAX_PASSAGE_CHARACTERS:
            yield from _passage(lines, start, paragraph_start)
            start, size = paragraph_start, 0
        size += paragraph
        paragraph_start = number
    yield from _passage(lines, start, len(lines))


def _passage(lines: list[str], start: int, end: int) -> Iterator[tuple[int, int, str]]:
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    if start < end:
        yield start + 1, end, "\n".join(lines[start:end])


def _text_of(path: Path) -> str | None:
    if path.stat().st_size > MAX_FILE_BYTES:
        return None
    data = path.read_bytes()
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


class _Documents(Iterator[Document]):
    """A stream that can be asked about how long it is."""

    def __init__(self, documents: Iterator[Document], jsonl: Path | None) -> None:
        self._documents = documents
        self._jsonl = jsonl

    def __next__(self) -> Document:
        return next(self._documents)

    def __length_hint__(self) -> int:
        return count_lines(self._jsonl) if self._jsonl is not None else 0


def _identifier(record: dict[str, Any]) -> str:
    return str(record["_id"] if "_id" in record else record["id"])


def _problem(record: dict[str, Any]) -> str | None:
    identifier = record.get("_id", record.get("id"))
    if not isinstance(identifier, (str, int)) or isinstance(identifier, bool) or identifier == "":
        return f"expected a string under '_id' (or 'id'), found the keys {sorted(record)}"
    if not isinstance(record.get("text"), str):
        return f"expected a string under 'text', found the keys {sorted(record)}"
    if not isinstance(record.get("title") or "", str):
        return "expected a string under 'title'"
    for each in (str(identifier), record["text"], record.get("title") or ""):
        try:
            # JSON can spell half of a surrogate pair, which no file and no tokenizer takes.
            each.isascii() or each.encode()
        except UnicodeEncodeError as error:
            return f"not Unicode ({error})"
    return None


def _count_empty(documents: Iterable[Document], path: Path) -> Iterator[Document]:
    empty = 0
    for document in documents:
        empty += not document.contents
        yield document
    if empty:
        logger.warning("%s: empty documents: %d (kept, and encoded all the same)", path, empty)
