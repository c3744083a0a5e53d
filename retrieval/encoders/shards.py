"""Shards of a corpus: cut in the same way every time, encoded, written whole or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.protocol import Encoder
from retrieval.encoders.stored_vectors import StoredDtype, to_stored
from retrieval.encoders.streaming import Report, one_ahead, windows
from retrieval.errors import EmbeddingError, InputError
from retrieval.files import map_arrays, save_arrays
from retrieval.records import Document

logger = logging.getLogger(__name__)


class Task(NamedTuple):
    """A shard that is to be encoded and written."""

    number: int
    documents: list[Document]


def cut_shards(documents: Iterable[Document], count: int, characters: int) -> Iterator[Task]:
    """Number the shards of a corpus; the corpus alone decides where they are cut."""
    shards = windows(documents, _length, count=count, characters=characters)
    for number, shard in enumerate(shards):
        yield Task(number, shard)


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05d}.safetensors"


def is_written(folder: Path, task: Task) -> bool:
    """Whether a shard is there.

    Raises:
        InputError: it is, and holds other documents.
    """
    path = shard_path(folder, task.number)
    if not path.exists():
        return False
    if map_arrays(path)["documents"].tobytes() != _as_json(task.documents):
        raise InputError(
            f"{path}: holds other documents than the corpus has there now: remove the folder to "
            "encode the corpus anew"
        )
    logger.info("%s is there already", path)
    return True


class ShardWriter:
    """Encodes shards and writes them.

    Attributes:
        current: the shard that is worked on, for messages.
    """

    def __init__(self, folder: Path, encoder: Encoder, dtype: StoredDtype, report: Report) -> None:
        self.current = 0
        self._folder = folder
        self._encoder = encoder
        self._dtype: StoredDtype = dtype
        self._report = report

    def write(self, tasks: Iterable[Task]) -> Iterator[int]:
        """Write shard after shard, and yield each one's number when it is safely on disk.

        Where the encoder can begin a window in the background, the next shard is begun before this
        one is finished.
        """
        if hasattr(self._encoder, "begin_documents"):
            yield from one_ahead(map(self._begin, tasks))
        else:
            for task in tasks:
                yield self._save(task, self._encode(task))

    def _begin(self, task: Task) -> Callable[[], int]:
        self.current = task.number
        encoder: Any = self._encoder
        finish = encoder.begin_documents([each.contents for each in task.documents], self._report)

        def save() -> int:
            self.current = task.number
            return self._save(task, finish())

        return save

    def _encode(self, task: Task) -> list[NDArray[Any]]:
        self.current = task.number
        rows = list(self._encoder.encode_documents(each.contents for each in task.documents))
        self._report(len(rows), 0)
        return rows

    def _save(self, task: Task, rows: Sequence[NDArray[Any]]) -> int:
        arrays = _arrays(task.documents, rows, self._dtype)
        save_arrays(shard_path(self._folder, task.number), arrays)
        return task.number


def _arrays(
    documents: Sequence[Document], rows: Sequence[NDArray[Any]], dtype: StoredDtype
) -> dict[str, NDArray[Any]]:
    for document, row in zip(documents, rows, strict=True):
        if not np.isfinite(row).all():
            raise EmbeddingError(f"the embedding of {document.id!r} is not finite")
    is_multi_vector = rows[0].ndim == 2
    lengths = [len(row) if is_multi_vector else 1 for row in rows]
    vectors = np.concatenate(rows) if is_multi_vector else np.asarray(rows)
    return {
        **to_stored(vectors, dtype),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "documents": np.frombuffer(_as_json(documents), np.uint8),
    }


def _as_json(documents: Sequence[Document]) -> bytes:
    return json.dumps([list(document) for document in documents], ensure_ascii=False).encode()


def _length(document: Document) -> int:
    return len(document.title) + len(document.text)
