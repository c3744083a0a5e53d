"""Embeddings of a corpus on disk: numbered shards, each whole or absent, so a killed run goes on.

EMBEDDINGS/embeddings.json           model, dtype, whether all shards are there
EMBEDDINGS/shard-00000.safetensors   vectors, where each document's start, the documents
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.protocol import Encoder
from retrieval.errors import EmbeddingError, IndexFilesError, InputError, ModelMismatchError
from retrieval.files import map_arrays, read_json, save_arrays, write_json
from retrieval.progress import track
from retrieval.records import Document, ModelReference

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_SETTINGS = "embeddings.json"


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """How embeddings are written."""

    dtype: Literal["float32", "float16"] = "float16"
    shard_documents: int = 2_048
    """Documents in a shard: what a killed run has to encode again at the most."""


class Shard(NamedTuple):
    """A run of documents with their embeddings."""

    documents: Sequence[Document]
    embeddings: Any
    """(N, D) from a single-vector encoder, else N arrays (tokens, D); memory-mapped."""


class EmbeddingStore:
    """The shards of a folder, in the order of the corpus; can be gone through many times."""

    def __init__(self, folder: str | Path) -> None:
        """Open a complete store.

        Raises:
            IndexFilesError: no store there, or one that was not written to its end.
        """
        folder = Path(folder)
        self.folder = folder
        if not (folder / _SETTINGS).is_file():
            raise IndexFilesError(f"{folder}: no embeddings here (no file {_SETTINGS})")
        settings = read_json(folder / _SETTINGS)
        if not settings["complete"]:
            raise IndexFilesError(f"{folder}: not complete: run the same encoding again to go on")
        self.model = ModelReference(**settings["model"])
        self._shards: int = settings["shards"]
        self._documents: int = settings["documents"]

    def __len__(self) -> int:
        """The number of documents."""
        return self._documents

    def __iter__(self) -> Iterator[Shard]:
        for number in range(self._shards):
            arrays = map_arrays(_shard_path(self.folder, number))
            documents = [Document(*record) for record in json.loads(arrays["documents"].tobytes())]
            vectors: Any = arrays["vectors"]
            if self.model.is_multi_vector:
                offsets = arrays["offsets"]
                vectors = [vectors[start:end] for start, end in pairwise(offsets)]
            yield Shard(documents, vectors)


def is_embedding_store(folder: Path) -> bool:
    """Whether `write_embeddings` made this folder."""
    return (folder / _SETTINGS).is_file()


def write_embeddings(
    folder: str | Path,
    documents: Iterable[Document],
    encoder: Encoder,
    settings: StoreSettings | None = None,
    *,
    progress: bool = False,
) -> EmbeddingStore:
    """Encode a corpus into `folder`; shards that are there already are not encoded again.

    Args:
        folder: created if missing; an interrupted run is continued in it.
        documents: the corpus; memory holds one shard of it at a time.
        encoder: dense or multi-vector.
        settings: defaults where None.
        progress: show a bar on stderr.

    Raises:
        ModelMismatchError: `folder` holds embeddings of another model.
        InputError: `folder` was begun with other settings or another corpus.
        EmbeddingError: an embedding is NaN or infinite; the document is named.
    """
    folder = Path(folder)
    settings = settings or StoreSettings()
    model = encoder.reference
    header = {
        "format_version": FORMAT_VERSION,
        "model": model._asdict(),
        "dtype": settings.dtype,
        "shard_documents": settings.shard_documents,
    }
    _check_header(folder, header)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SETTINGS, {**header, "complete": False})
    counted = iter(track(documents, "encoding documents", enabled=progress))
    number = total = 0
    while batch := list(islice(counted, settings.shard_documents)):
        path = _shard_path(folder, number)
        text = json.dumps([list(document) for document in batch], ensure_ascii=False).encode()
        if not _is_written(path, text):
            rows = list(encoder.encode_documents(document.contents for document in batch))
            save_arrays(path, _arrays(batch, rows, text, settings.dtype))
        number, total = number + 1, total + len(batch)
    for stale in sorted(folder.glob("shard-*.safetensors"))[number:]:
        stale.unlink()
    write_json(
        folder / _SETTINGS, {**header, "complete": True, "shards": number, "documents": total}
    )
    return EmbeddingStore(folder)


def _check_header(folder: Path, header: dict[str, Any]) -> None:
    if not is_embedding_store(folder):
        return
    found = read_json(folder / _SETTINGS)
    if found["model"]["fingerprint"] != header["model"]["fingerprint"]:
        raise ModelMismatchError(
            f"{folder}: begun with the model {found['model']['name']}, asked for "
            f"{header['model']['name']}: remove the folder or take the first model"
        )
    for key in ("dtype", "shard_documents"):
        if found[key] != header[key]:
            raise InputError(
                f"{folder}: begun with {key} {found[key]}, asked for {header[key]}: remove the "
                "folder or take the same setting"
            )


def _is_written(path: Path, documents: bytes) -> bool:
    if not path.exists():
        return False
    if map_arrays(path)["documents"].tobytes() != documents:
        raise InputError(
            f"{path}: holds other documents than the corpus has there now: remove the folder to "
            "encode the corpus anew"
        )
    logger.info("%s is there already", path)
    return True


def _arrays(
    documents: Sequence[Document], rows: list[NDArray[np.float32]], text: bytes, dtype: str
) -> dict[str, NDArray[Any]]:
    for document, row in zip(documents, rows, strict=True):
        if not np.isfinite(row).all():
            raise EmbeddingError(f"the embedding of {document.id!r} is not finite")
    is_multi_vector = rows[0].ndim == 2
    lengths = [len(row) if is_multi_vector else 1 for row in rows]
    vectors = np.concatenate(rows) if is_multi_vector else np.stack(rows)
    return {
        "vectors": vectors.astype(dtype),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "documents": np.frombuffer(text, np.uint8),
    }


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"
