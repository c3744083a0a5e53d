"""The questions to mine for, each with all its positives, and the texts to mine from, on disk."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from retrieval.errors import InputError
from retrieval.files import BadLines
from retrieval.records import Document
from retrieval.seen_ids import SeenIds
from retrieval.training.sources import read_rows


class Question(NamedTuple):
    """A query and everything that answers it."""

    number: int
    """Of its first pair, counted from 0."""
    query: str
    positives: list[str]


class PairTable:
    """Pairs in a temporary database that ends with the block: memory does not grow with them.

    Attributes:
        counts: rows read, and how many of them are pairs, repeated pairs, or unusable.
        digest: of all pairs in their order.
    """

    def __init__(self, sources: Sequence[str | Path], bad_lines: BadLines | None = None) -> None:
        """Read pairs, or triplets and tuples whose negatives are passed over.

        Raises:
            InputError: no pairs, or a row without a query or a positive, and `bad_lines` does not
                skip; the message has file and line.
        """
        bad_lines = bad_lines or BadLines()
        self.counts = {"rows": 0, "pairs": 0, "repeated": 0, "unusable": 0}
        # An empty name is SQLite's temporary database: cached, and spilled to an unlinked file.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE pairs (number INTEGER PRIMARY KEY, key BLOB, query TEXT, positive TEXT)"
        )
        self._database.execute("BEGIN")
        digest = hashlib.sha256()
        with SeenIds() as seen:
            for query, positive in self._read(sources, bad_lines):
                key = hashlib.blake2b(query.encode(), digest_size=16).digest()
                if not seen.add(f"{key.hex()} {document_id(positive)}"):
                    self.counts["repeated"] += 1
                    continue
                digest.update(f"{len(query)} {query} {len(positive)} {positive}".encode())
                row = (self.counts["pairs"], key, query, positive)
                self._database.execute("INSERT INTO pairs VALUES (?, ?, ?, ?)", row)
                self.counts["pairs"] += 1
        if not self.counts["pairs"]:
            raise InputError(f"no pairs in {', '.join(map(str, sources)) or 'no files'}")
        self._database.execute("CREATE INDEX by_query ON pairs (key, number)")
        self.digest = digest.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def questions(self) -> Iterator[Question]:
        """Every query once, in the order of their first pairs."""
        first = self._database.execute(
            "SELECT MIN(number), key, query FROM pairs GROUP BY key ORDER BY MIN(number)"
        )
        for number, key, query in first:
            answers = self._database.execute(
                "SELECT positive FROM pairs WHERE key = ? ORDER BY number", (key,)
            )
            yield Question(number, query, [positive for (positive,) in answers])

    def documents(self, corpus: Iterable[Document] = ()) -> Iterator[Document]:
        """The texts to mine from, each once: a corpus, and the positives that it lacks."""
        with SeenIds() as seen:
            for document in corpus:
                identifier = document_id(document.contents)
                if document.contents and seen.add(identifier):
                    yield Document(identifier, document.contents)
            for (text,) in self._database.execute("SELECT positive FROM pairs ORDER BY number"):
                identifier = document_id(text)
                if seen.add(identifier):
                    yield Document(identifier, text)

    def _read(
        self, sources: Sequence[str | Path], bad_lines: BadLines
    ) -> Iterator[tuple[str, str]]:
        for source in sources:
            before = bad_lines.count
            for row in read_rows(source, bad_lines):
                query = row.values.get("anchor", row.values.get("query"))
                problem = _problem(query, row.values.get("positive"), row.values)
                if problem:
                    bad_lines.report(row.source, row.number, problem)
                    continue
                yield str(query), str(row.values["positive"])
            unusable = bad_lines.count - before
            self.counts["unusable"] += unusable
        # Lines that are no objects never became rows.
        self.counts["rows"] = sum(self.counts[each] for each in ("pairs", "repeated", "unusable"))


def document_id(text: str) -> str:
    """The id under which a text is indexed: equal texts have one, whatever their white space."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).hexdigest()


def _problem(query: object, positive: object, values: Mapping[str, Any]) -> str | None:
    for name, text in (("query", query), ("positive", positive)):
        if not isinstance(text, str) or not text.strip():
            return f"expected text under '{name}', found {text!r} among the keys {sorted(values)}"
    return None
