"""Texts by id, for distillation data that names its queries and documents instead of holding them.

The form of `lightonai/ms-marco-en-bge` and PyLate's `KDProcessing`: rows of query_id, document_ids
and scores, with the texts in the subsets "queries" and "documents".
"""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrieval.errors import InputError
from retrieval.files import BadLines
from retrieval.training.sources import HUB_PREFIX, Row, read_rows

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_ID_COLUMNS = ("query_id", "document_id", "_id", "id")


def read_joined_rows(source: str | Path, bad_lines: BadLines) -> Iterator[Row]:
    """As `read_rows`, but rows that name their texts by ids come with the texts.

    Raises:
        InputError: also where the texts are missing, or lack an id, and `bad_lines` does not skip.
    """
    texts: JoinedTexts | None = None
    for row in read_rows(source, bad_lines):
        if "document_ids" not in row.values or "documents" in row.values:
            yield row
            continue
        texts = texts or JoinedTexts(source, bad_lines)
        joined = texts.join(row.values)
        if isinstance(joined, str):
            bad_lines.report(row.source, row.number, joined)
            continue
        yield row._replace(values=joined)


class JoinedTexts:
    """The queries and documents beside a source, in a temporary database on disk."""

    def __init__(self, source: str | Path, bad_lines: BadLines) -> None:
        """Read `NAME:queries` and `NAME:documents` of a hub's data set, or the files beside one.

        Raises:
            InputError: they are missing, or a line can't be used.
        """
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE texts (kind TEXT, id TEXT, text TEXT, PRIMARY KEY (kind, id)) "
            "WITHOUT ROWID"
        )
        self._database.execute("BEGIN")
        for kind in ("queries", "documents"):
            rows = _texts(read_rows(_beside(source, kind), bad_lines), bad_lines)
            self._database.executemany(
                "INSERT OR REPLACE INTO texts VALUES (?, ?, ?)",
                ((kind, identifier, text) for identifier, text in rows),
            )

    def join(self, values: Mapping[str, Any]) -> dict[str, Any] | str:
        """The row with `query` and `documents`, or what is wrong with it."""
        ids, scores = _list(values.get("document_ids")), _list(values.get("scores"))
        if not isinstance(ids, list) or not isinstance(scores, list):
            return "expected lists under 'document_ids' and 'scores'"
        query = values.get("query", self._text("queries", values.get("query_id")))
        if query is None:
            return f"no query has the id {values.get('query_id')!r}"
        documents = [self._text("documents", each) for each in ids]
        if None in documents:
            return f"no document has the id {ids[documents.index(None)]!r}"
        return {"query": query, "documents": documents, "scores": scores}

    def _text(self, kind: str, identifier: object) -> str | None:
        found = self._database.execute(
            "SELECT text FROM texts WHERE kind = ? AND id = ?", (kind, str(identifier))
        ).fetchone()
        return None if found is None else str(found[0])


def _beside(source: str | Path, kind: str) -> str | Path:
    name = str(source)
    if name.startswith(HUB_PREFIX):
        return f"{HUB_PREFIX}{name.removeprefix(HUB_PREFIX).split(':')[0]}:{kind}"
    folder = Path(source).parent
    for suffix in _SUFFIXES:
        if (folder / f"{kind}{suffix}").is_file():
            return folder / f"{kind}{suffix}"
    if (folder / kind).is_dir():
        return folder / kind
    raise InputError(
        f"{source}: names its documents by ids, and there is no {kind}.jsonl, .jsonl.gz or "
        ".parquet beside it"
    )


def _texts(rows: Iterator[Row], bad_lines: BadLines) -> Iterator[tuple[str, str]]:
    for row in rows:
        identifier = next((row.values[name] for name in _ID_COLUMNS if name in row.values), None)
        if identifier is None or not isinstance(row.values.get("text"), str):
            problem = f"expected an id and a text, found the keys {sorted(row.values)}"
            bad_lines.report(row.source, row.number, problem)
            continue
        yield str(identifier), row.values["text"]


def _list(value: object) -> object:
    """A list, also where it comes as its Python text, as in older data sets."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
