"""What evaluation, training and the command line ask of an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.records import ModelReference


class Encoder(Protocol):
    """Turns texts into embeddings, one at a time and in the order of the texts.

    An embedding is (D,) float32 from a single-vector encoder and (tokens, D) float32 from a
    multi-vector one, where a text without any scored token gives (0, D).
    """

    @property
    def reference(self) -> ModelReference:
        """Name, fingerprint, kind and width: what an index remembers of its encoder."""

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        """Stream the embeddings of queries."""

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        """Stream the embeddings of documents."""
