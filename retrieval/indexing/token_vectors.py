"""Where a document's token vectors come from: an embedding store, or an encoder on the spot."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.embedding_store import EmbeddingStore
from retrieval.encoders.protocol import Encoder
from retrieval.encoders.stored_vectors import from_stored
from retrieval.errors import InputError
from retrieval.indexing.vectors import Vectors
from retrieval.records import Document

VectorSource = Callable[[Sequence[str]], Sequence[Vectors]]
"""Gives the token vectors, (tokens, D) each, of documents by id."""


class StoredTokenVectors:
    """The token vectors of an embedding store, read from its mapped shards one by one.

    Ids alone are held in memory, and one mapping a shard.

    Attributes:
        folder: of the store.
        model: the encoder that made the vectors.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        """Read the ids of all shards.

        Raises:
            InputError: the store holds one vector a document, or the codes of a quantization.
        """
        if not store.model.is_multi_vector or store.dtype == "quantized":
            raise InputError(
                f"{store.folder}: MaxSim needs the float token vectors of a multi-vector model"
            )
        self.folder = store.folder
        self.model = store.model
        self._dtype = store.dtype
        self._shards = []
        self._firsts: list[int] = []
        self._numbers: dict[str, int] = {}
        for arrays in store.shard_arrays():
            self._firsts.append(len(self._numbers))
            for document_id, *_ in json.loads(arrays.pop("documents").tobytes()):
                self._numbers[document_id] = len(self._numbers)
            self._shards.append(arrays)

    def __call__(self, ids: Sequence[str]) -> list[NDArray[np.floating]]:
        """The vectors of some documents.

        Raises:
            InputError: an id is not in the store.
        """
        missing = [each for each in ids if each not in self._numbers]
        if missing:
            raise InputError(f"{self.folder} lacks {', '.join(map(repr, missing[:10]))}")
        return [self._vectors(self._numbers[each]) for each in ids]

    def _vectors(self, number: int) -> NDArray[np.floating]:
        shard = bisect.bisect_right(self._firsts, number) - 1
        arrays = self._shards[shard]
        start, end = arrays["offsets"][number - self._firsts[shard] :][:2]
        rows = {name: array[start:end] for name, array in arrays.items() if name != "offsets"}
        return np.asarray(from_stored(rows, self._dtype))


class EncodedTokenVectors:
    """The token vectors of stored documents, encoded when they are asked for."""

    def __init__(self, encoder: Encoder, document: Callable[[str], Document | None]) -> None:
        """Take a multi-vector encoder, and what finds a document by its id."""
        self._encoder = encoder
        self._document = document

    def __call__(self, ids: Sequence[str]) -> list[NDArray[np.float32]]:
        """The vectors of some documents.

        Raises:
            InputError: an id is unknown, or no document is kept for it.
        """
        texts = []
        for each in ids:
            document = self._document(each)
            if document is None:
                raise InputError(
                    f"no text is kept of {each!r}: build the index with its documents, or rerank "
                    "from an embedding store"
                )
            texts.append(document.contents)
        return list(self._encoder.encode_documents(texts))
