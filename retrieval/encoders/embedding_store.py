"""Embeddings of a corpus on disk: numbered shards, each whole or absent, so a killed run goes on.

EMBEDDINGS/embeddings.json           model, dtype, whether all shards are there
EMBEDDINGS/shard-00000.safetensors   vectors, where each document's start, the documents
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from retrieval.encoders.protocol import Encoder
from retrieval.encoders.shards import ShardWriter, Task, cut_shards, is_written, shard_path
from retrieval.encoders.stored_vectors import StoredDtype, from_stored
from retrieval.encoders.streaming import WINDOW_CHARACTERS, WINDOW_TEXTS
from retrieval.encoders.worker_processes import Job, truncated_texts, write_in_processes
from retrieval.errors import ConfigError, IndexFilesError, InputError, ModelMismatchError
from retrieval.files import map_arrays, read_json, write_json
from retrieval.progress import Meter
from retrieval.records import Document, ModelReference

FORMAT_VERSION = 2
"""2 adds bfloat16, int8, quantized embeddings and `shard_characters`; 1 is read as well."""

_SETTINGS = "embeddings.json"
_NO_BOUND = 2**62


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """How embeddings are written."""

    dtype: StoredDtype = "float16"
    shard_documents: int = WINDOW_TEXTS
    """Documents in a shard: what a killed run has to encode again at the most."""
    shard_characters: int = WINDOW_CHARACTERS
    """And characters of them, so that long documents make short shards, not large ones."""

    def __post_init__(self) -> None:
        for name in ("shard_documents", "shard_characters"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more")


class Shard(NamedTuple):
    """A run of documents with their embeddings."""

    documents: Sequence[Document]
    embeddings: Any
    """(N, D) from a single-vector encoder, else N arrays (tokens, D): memory-mapped in float16,
    float32 and quantized, decoded to float32 from bfloat16 and int8."""


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
        if settings["format_version"] > FORMAT_VERSION:
            raise IndexFilesError(
                f"{folder}: written by a newer release (format {settings['format_version']}, this "
                f"one reads up to {FORMAT_VERSION}): upgrade modernbert-retrieval"
            )
        if not settings["complete"]:
            raise IndexFilesError(f"{folder}: not complete: run the same encoding again to go on")
        self.model = ModelReference(**settings["model"])
        self.dtype: StoredDtype = settings["dtype"]
        self._shards: int = settings["shards"]
        self._documents: int = settings["documents"]

    def __len__(self) -> int:
        """The number of documents."""
        return self._documents

    @property
    def components(self) -> int:
        """Numbers in all vectors together: the tokens of all documents, say, times their width."""
        width = self.model.width
        if not self.model.is_multi_vector:
            return len(self) * width
        return width * sum(int(arrays["offsets"][-1]) for arrays in self.shard_arrays())

    def __iter__(self) -> Iterator[Shard]:
        for arrays in self.shard_arrays():
            documents = [Document(*record) for record in json.loads(arrays["documents"].tobytes())]
            vectors: Any = from_stored(arrays, self.dtype)
            if self.model.is_multi_vector:
                offsets = arrays["offsets"]
                vectors = [vectors[start:end] for start, end in pairwise(offsets)]
            yield Shard(documents, vectors)

    def shard_arrays(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Map the arrays of each shard as they are on disk: vectors, offsets, documents, scales."""
        for number in range(self._shards):
            yield map_arrays(shard_path(self.folder, number))


def is_embedding_store(folder: Path) -> bool:
    """Whether `write_embeddings` made this folder."""
    return (folder / _SETTINGS).is_file()


def write_embeddings(
    folder: str | Path,
    documents: Iterable[Document],
    encoder: Encoder,
    settings: StoreSettings | None = None,
    *,
    devices: Sequence[str] | None = None,
    progress: bool = False,
    noun: str = "documents",
) -> EmbeddingStore:
    """Encode a corpus into `folder`; shards that are there already are not encoded again.

    Args:
        folder: created if missing; an interrupted run is continued in it.
        documents: the corpus; memory holds two shards of it at a time, and as many a process.
        encoder: dense or multi-vector.
        settings: defaults where None.
        devices: encode in one process for each of these, such as ["cuda:0", "cuda:1"]; one that
            comes twice gets two. The encoder must be one that `load` made, for they load it again.
            The files are those of one process, to the bit where a process has as many threads as
            one alone would have, else within the rounding of its arithmetic.
        progress: show a bar on stderr.
        noun: what the bar calls them.

    Raises:
        ModelMismatchError: `folder` holds embeddings of another model.
        InputError: `folder` was begun with other settings or another corpus.
        EmbeddingError: an embedding is NaN or infinite; the document is named.
        WorkerError: one of several processes failed or was killed; the shard is named.
        ConfigError: quantized embeddings with another dtype than "quantized", or the reverse; or
            several processes for an encoder that can't be loaded again.
    """
    folder = Path(folder)
    settings = settings or StoreSettings()
    _check_dtype(settings.dtype, encoder)
    settings = _continued(folder, settings, encoder.reference)
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(".shard-*.tmp"):  # of a process that was killed
        left_over.unlink()
    header = _header(settings, encoder.reference)
    write_json(folder / _SETTINGS, {**header, "complete": False})
    total = operator.length_hint(documents) or None if progress else None
    shards = 0
    with Meter(f"encoding {noun}", total, enabled=progress, part="tokens") as meter:

        def missing() -> Iterator[Task]:
            nonlocal shards
            for task in cut_shards(documents, settings.shard_documents, settings.shard_characters):
                shards = task.number + 1
                if is_written(folder, task):
                    meter.skip(len(task.documents))
                else:
                    yield task

        truncated = 0
        if devices is None:
            before = truncated_texts(encoder)
            for _ in ShardWriter(folder, encoder, settings.dtype, meter.advance).write(missing()):
                truncated = truncated_texts(encoder) - before
        else:
            job = _job(folder, settings.dtype, encoder, devices)
            for _, cut in write_in_processes(job, missing(), devices, meter.advance):
                truncated += cut
        if truncated:
            meter.remark = f"{truncated:,} texts were longer than the model's limit and are cut"
    for path in folder.glob("shard-*.safetensors"):
        if int(path.stem.removeprefix("shard-")) >= shards:
            path.unlink()
    write_json(
        folder / _SETTINGS,
        {**header, "complete": True, "shards": shards, "documents": meter.completed},
    )
    return EmbeddingStore(folder)


def _header(settings: StoreSettings, model: ModelReference) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "model": model._asdict(),
        "dtype": settings.dtype,
        "shard_documents": settings.shard_documents,
        "shard_characters": settings.shard_characters,
    }


def _continued(folder: Path, settings: StoreSettings, model: ModelReference) -> StoreSettings:
    """Check the settings against those that the folder was begun with."""
    if not is_embedding_store(folder):
        return settings
    found = read_json(folder / _SETTINGS)
    if found["model"]["fingerprint"] != model.fingerprint:
        raise ModelMismatchError(
            f"{folder}: begun with the model {found['model']['name']}, asked for "
            f"{model.name}: remove the folder or take the first model (with its options)"
        )
    if "shard_characters" not in found:  # format 1 counted documents alone
        settings = replace(settings, shard_characters=_NO_BOUND)
        found["shard_characters"] = _NO_BOUND
    for key in ("dtype", "shard_documents", "shard_characters"):
        if found[key] != getattr(settings, key):
            raise InputError(
                f"{folder}: begun with {key} {found[key]}, asked for {getattr(settings, key)}: "
                "remove the folder or take the same setting"
            )
    return settings


def _check_dtype(dtype: StoredDtype, encoder: Encoder) -> None:
    is_quantized = getattr(encoder, "quantization", None) is not None
    if is_quantized != (dtype == "quantized"):
        raise ConfigError(
            f"the encoder's embeddings are {'' if is_quantized else 'not '}quantized: store them "
            f"with the dtype {'quantized' if is_quantized else 'of a float, or int8'}, not {dtype}"
        )


def _job(folder: Path, dtype: StoredDtype, encoder: Encoder, devices: Sequence[str]) -> Job:
    reload = getattr(encoder, "reload", None)
    if reload is None:
        raise ConfigError(
            f"several processes load the model again, and {encoder.reference.name} was not loaded: "
            "save it and load it"
        )
    if not devices:
        raise ConfigError("no devices to encode on: name at least one")
    return Job(folder, dtype, reload, encoder.reference)
