"""From a corpus to ranked passages: an index together with the encoder that fills and asks it."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from retrieval import native
from retrieval.encoders.embedding_store import EmbeddingStore, StoreSettings, write_embeddings
from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError, IndexFilesError, InputError
from retrieval.indexing import index_class, open_index
from retrieval.indexing.index import Batch, Index
from retrieval.progress import track
from retrieval.records import Allowed, Document, Hit

_TEXT_BATCH = 1_024
EXACT_COMPONENTS = 16_000_000
"""125,000 tokens of 128 components, some 1,000 passages. PLAID's default is the faster one from
twice as many with AVX-512 and from half as many with AVX2 (benchmarks/search.py)."""


class Passage(NamedTuple):
    """A found document with its score; the text is empty where the index keeps no documents."""

    id: str
    score: float
    text: str
    title: str


class Searcher(ABC):
    """Anything that is asked in words: one index, several that are fused, a reranked one."""

    def search(
        self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
    ) -> list[list[Passage]]:
        """Find the best passages for every question, best first.

        Args:
            questions: as many as wanted.
            k: passages a question at the most.
            allowed: only these may be found: ids, or a function of a stored document.
        """
        rankings = self.find(questions, k, allowed=allowed)
        return [[self._passage(hit) for hit in hits] for hits in rankings]

    @abstractmethod
    def find(
        self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
    ) -> list[list[Hit]]:
        """The same as ids and scores, without the texts."""

    @abstractmethod
    def document(self, document_id: str) -> Document | None:
        """The stored document, or None where none is kept.

        Raises:
            InputError: the id is not there.
        """

    def _passage(self, hit: Hit) -> Passage:
        document = self.document(hit.document_id) or Document(hit.document_id, "")
        return Passage(hit.document_id, hit.score, document.text, document.title)


class Retriever(Searcher):
    """Answers questions in words.

    Attributes:
        index: any index.
        encoder: made the index's vectors; None for a lexical index.
    """

    def __init__(self, index: Index[Any], encoder: Encoder | None = None) -> None:
        self.index = index
        self.encoder = encoder

    @classmethod
    def open(cls, folder: str | Path, *, encoder: Encoder | None = None) -> Self:
        """Open an index, and load the model that filled it unless `encoder` is given.

        Raises:
            IndexFilesError: no index there, or damaged files.
            CheckpointError: the model that the index names is not where it was.
            ModelMismatchError: the encoder is another one than filled the index.
        """
        folder = Path(folder)
        index = open_index(folder)
        if encoder is None and index.model is not None:
            from retrieval.encoders.loading import load_encoder

            encoder = load_encoder(index.model.name, **index.model.options)
        if encoder is not None:
            index = open_index(folder, model=encoder.reference)
        return cls(index, encoder)

    def find(
        self, questions: Sequence[str], k: int = 10, *, allowed: Allowed | None = None
    ) -> list[list[Hit]]:
        """The best documents for every question."""
        items: Any = list(questions)
        if self.encoder is not None and items:
            items = list(self.encoder.encode_queries(items))
            if not self.encoder.reference.is_multi_vector:
                items = np.stack(items)
        return self.index.search(items, k, allowed=allowed)

    def document(self, document_id: str) -> Document | None:
        """The document that the index keeps."""
        return self.index.document(document_id)


def build_index(
    folder: str | Path,
    documents: Iterable[Document] | EmbeddingStore,
    *,
    kind: str | None = None,
    encoder: Encoder | None = None,
    settings: Any = None,
    store: StoreSettings | None = None,
    devices: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Index[Any]:
    """Encode a corpus and index it; a run that was killed while encoding goes on where it was.

    Args:
        folder: where the index goes.
        documents: a corpus, or the embeddings of one.
        kind: "exact", "faiss", "plaid" or "lexical"; None takes what suits the vectors and their
            number (`suitable_kind`).
        encoder: needed for a corpus, unless the index is lexical.
        settings: the index's settings dataclass; defaults where None.
        store: how the embeddings are kept until the index is built.
        devices: encode in one process for each of these; see `write_embeddings`.
        overwrite: replace an index that is there, once the new one is complete.
        progress: show bars on stderr.

    Raises:
        ConfigError: no such kind, or settings without one.
        IndexFilesError: `folder` holds an index and `overwrite` is False.
        InputError: no encoder for an index of vectors, quantized ones, or no documents at all.
    """
    folder = Path(folder)
    if (folder / "CURRENT").exists() and not overwrite:
        raise IndexFilesError(f"{folder}: holds an index already (--overwrite replaces it)")
    # Told before hours of encoding.
    if kind is not None:
        index_class(kind)
    elif settings is not None:
        raise ConfigError("settings are those of one kind of index: name the kind too")
    options: dict[str, Any] = {"settings": settings, "overwrite": overwrite}
    if kind == "lexical":
        if isinstance(documents, EmbeddingStore):
            documents = (each for shard in documents for each in shard.documents)
        batches = list(_text_batches(track(documents, "reading documents", enabled=progress)))
        if not batches:
            raise InputError("the corpus has no documents")
        return index_class(kind).build(folder, batches, **options)
    source = documents.model if isinstance(documents, EmbeddingStore) else None
    source = source or (encoder.reference if encoder else None)
    if source is not None and "quantization" in source.options:
        raise InputError("an index takes float vectors, not the codes of a quantization")
    if isinstance(documents, EmbeddingStore):
        embeddings, temporary = documents, None
    elif encoder is None:
        raise InputError("an index of vectors needs an encoder")
    else:
        temporary = folder / "embeddings"
        embeddings = write_embeddings(
            temporary, documents, encoder, store, devices=devices, progress=progress
        )
    if not len(embeddings):
        raise InputError("the corpus has no documents")
    built = index_class(kind or suitable_kind(embeddings)).build(
        folder, _EmbeddedBatches(embeddings, progress), model=embeddings.model, **options
    )
    if temporary is not None:
        shutil.rmtree(temporary)
    return built


def suitable_kind(embeddings: EmbeddingStore) -> str:
    """The kind of index that these vectors are best kept in, where nobody says otherwise.

    Single vectors: FAISS, which scores every document too while they are few. Multi-vectors: exact
    up to `EXACT_COMPONENTS`, where the compiled kernels are there, and PLAID beyond.
    """
    if not embeddings.model.is_multi_vector:
        return "faiss"
    is_small = embeddings.components <= EXACT_COMPONENTS
    return "exact" if is_small and native.instruction_set() else "plaid"


class _EmbeddedBatches:
    """The shards of an embedding store as batches; each pass shows its own bar."""

    def __init__(self, store: EmbeddingStore, progress: bool) -> None:
        self._store = store
        self._progress = progress
        self._passes = 0

    def __iter__(self) -> Iterator[Batch[Any]]:
        self._passes += 1
        shards = track(self._store, f"indexing shards, pass {self._passes}", enabled=self._progress)
        for documents, embeddings in shards:
            yield Batch([each.id for each in documents], embeddings, documents)


def _text_batches(documents: Iterable[Document]) -> Iterator[Batch[Sequence[str]]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, _TEXT_BATCH)):
        yield Batch([each.id for each in batch], [each.contents for each in batch], batch)
