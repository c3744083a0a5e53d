"""A build's segments on disk, so that memory stays bounded and a killed build goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import RetrievalError
from retrieval.files import read_json, sync_folder, write_json
from retrieval.indexing.batches import Batch
from retrieval.indexing.plaid.segment import Segment
from retrieval.indexing.plaid.segment_files import segment_name
from retrieval.indexing.vectors import Vectors

FOLDER = ".build"
"""Beside the versions: the next commit removes it with everything that is not current."""


class Digest:
    """A SHA-256 over batches, however the documents are cut into them."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def over(self, batches: Iterable[Batch[Sequence[Vectors]]]) -> Iterator[Batch[Any]]:
        """The same batches, taken in as they go by."""
        for batch in batches:
            for each, item in zip(batch.ids, batch.items):
                array = np.ascontiguousarray(item)
                self._hash.update(json.dumps([str(each), str(array.dtype), array.shape]).encode())
                self._hash.update(array.reshape(-1).view(np.uint8).data)
            yield batch

    def hexdigest(self) -> str:
        """Of everything that went by."""
        return self._hash.hexdigest()


class UnfinishedBuild:
    """The folder of a build's segments.

    Attributes:
        path: the folder.
        is_resumed: whether the same build was here before; its files are there then.
    """

    def __init__(self, versions: Path, plan: Mapping[str, Any]) -> None:
        """Find the files of a killed build, or start anew.

        Args:
            versions: the folder that the versions of the index are in.
            plan: what tells one build from another: settings and the digest of what comes in.
        """
        self.path = versions / FOLDER
        plan = json.loads(json.dumps(plan))
        try:
            self.is_resumed = read_json(self.path / "plan.json") == plan
        except RetrievalError:
            self.is_resumed = False
        if not self.is_resumed:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            sync_folder(versions)
            write_json(self.path / "plan.json", plan)

    def segments(self) -> list[Path]:
        """The files that are complete, in the order of their documents."""
        found: list[Path] = []
        while (path := self.path / segment_name(len(found) + 1)).is_file():
            found.append(path)
        return found


def pieces(
    batches: Iterable[Batch[Sequence[Vectors]]], most_tokens: int
) -> Iterator[Batch[Sequence[Vectors]]]:
    """Cut batches into some of at most so many tokens, or of one document."""
    for batch in batches:
        first = tokens = 0
        for at, item in enumerate(batch.items):
            if at > first and tokens + len(item) > most_tokens:
                yield _part(batch, first, at)
                first, tokens = at, 0
            tokens += len(item)
        yield _part(batch, first, len(batch.ids))


def _part(batch: Batch[Sequence[Vectors]], first: int, last: int) -> Batch[Sequence[Vectors]]:
    documents = None if batch.documents is None else batch.documents[first:last]
    return Batch(batch.ids[first:last], batch.items[first:last], documents)


def total_tokens(segments: Sequence[Segment]) -> int:
    """How many tokens some segments have."""
    return sum(len(segment.codes) for segment in segments)
