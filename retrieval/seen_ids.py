"""A set of ids that does not grow in memory with the corpus."""

from __future__ import annotations

import sqlite3
from typing import Self


class SeenIds:
    """Ids in a temporary file that ends with the block; a million of them take some 40 MB of disk.

    A set of strings would take 100 MB of memory for them.
    """

    def __init__(self) -> None:
        # An empty name is SQLite's temporary database: cached, and spilled to an unlinked file.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID",
            "BEGIN",
        ):
            self._database.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def add(self, identifier: str) -> bool:
        """Add an id, and tell whether it is new."""
        statement = "INSERT OR IGNORE INTO seen VALUES (?)"
        return self._database.execute(statement, (identifier,)).rowcount == 1
