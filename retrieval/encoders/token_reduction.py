"""Smaller multi-vector embeddings: fewer components of a token's vector, fewer tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.encoders.tokens import Role
from retrieval.errors import ConfigError, MissingNativeError

TokenVectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TokenReduction:
    """What is done with the unit-length token vectors that a model gave."""

    width: int | None = None
    """Leading components that are kept (Matryoshka), and brought to unit length again."""
    pool_factor: float = 1.0
    """Documents keep about one of so many tokens, by Sentence Transformers' hierarchical pooling
    (Ward's clusters, their means at unit length); 1 keeps them all."""
    protected_tokens: int = 1
    """Leading tokens that are never pooled."""

    def __post_init__(self) -> None:
        if self.pool_factor < 1:
            raise ConfigError(f"pool_factor is {self.pool_factor}, expected 1 or more")
        if self.protected_tokens < 0:
            raise ConfigError(f"protected_tokens is {self.protected_tokens}, expected 0 or more")
        if self.pool_factor > 1:
            _ = self._pooling

    def __call__(self, vectors: list[TokenVectors], role: Role) -> list[TokenVectors]:
        """Reduce each (tokens, D)."""
        if self.width is not None:
            vectors = [_unit_length(each[:, : self.width]) for each in vectors]
        if self.pool_factor > 1 and role == "document":
            pooled = self._pooling.pool([torch.from_numpy(each) for each in vectors])
            vectors = [each.numpy() for each in pooled]
        return vectors

    def settings(self, full_width: int) -> dict[str, Any]:
        """What a fingerprint has to know; nothing where nothing is reduced."""
        pooling = {"pool_factor": self.pool_factor, "protected_tokens": self.protected_tokens}
        cut = self.width is not None and self.width < full_width
        return {
            **({"width": self.width} if cut else {}),
            **(pooling if self.pool_factor > 1 else {}),
        }

    def options(self) -> dict[str, Any]:
        """The options that were given, as `MultiVectorEncoder.load` takes them."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value != getattr(type(self), name)
        }

    @cached_property
    def _pooling(self) -> Any:
        try:
            from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
        except ImportError as error:
            raise MissingNativeError(
                "pool_factor needs sentence-transformers >= 6.0: upgrade it"
            ) from error
        return HierarchicalTokenPooling(
            self.pool_factor, num_protected_tokens=self.protected_tokens
        )


def _unit_length(vectors: TokenVectors) -> TokenVectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    shortened: TokenVectors = vectors / np.maximum(lengths, np.float32(1e-12))
    return shortened
