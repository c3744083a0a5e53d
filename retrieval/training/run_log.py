"""The curves of a run as JSON lines: one line a logged step or measurement, safe from crashes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from retrieval.files import atomic_write


class RunLog:
    """`log.jsonl` of a run.

    Args:
        path: the file; missing is empty.
        is_writer: False, in all processes but the first, makes `append` do nothing.
    """

    def __init__(self, path: Path, *, is_writer: bool = True) -> None:
        self._path = path
        self._is_writer = is_writer

    def records(self) -> list[dict[str, Any]]:
        """All whole lines; a crash may have cut the last one."""
        if not self._path.is_file():
            return []
        records = []
        for line in self._path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            records.append(json.loads(line))
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Add a line, and bring it to disk."""
        if not self._is_writer:
            return
        with open(self._path, "ab") as stream:
            stream.write(json.dumps(record).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def go_back_to(self, step: int) -> None:
        """Drop what was logged after `step`: those steps will be done again."""
        kept = [record for record in self.records() if record["step"] <= step]
        if not self._is_writer or not self._path.is_file():
            return
        with atomic_write(self._path) as stream:
            for record in kept:
                stream.write(json.dumps(record).encode() + b"\n")

    def last(self, key: str) -> Any:
        """The newest value of `key`, or None."""
        return next((each[key] for each in reversed(self.records()) if key in each), None)

    def first(self, key: str) -> Any:
        """The oldest value of `key`, or None."""
        return next((each[key] for each in self.records() if key in each), None)
