"""Live models of the libraries below us, taken as encoders."""

from __future__ import annotations

from typing import Any

from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError


def as_encoder(model: Any) -> Encoder:
    """Wrap a live SentenceTransformer, MultiVectorEncoder or PyLate ColBERT.

    Args:
        model: one of them, or an encoder, which is returned as it is.

    Raises:
        ConfigError: something else.
    """
    if hasattr(model, "encode_queries"):
        encoder: Encoder = model
        return encoder
    from sentence_transformers import SentenceTransformer

    from retrieval.encoders.dense import DenseEncoder
    from retrieval.encoders.multi_vector import MultiVectorEncoder
    from retrieval.encoders.multi_vector_models import is_multi_vector_model

    if is_multi_vector_model(model):
        return MultiVectorEncoder(model)
    if isinstance(model, SentenceTransformer):
        return DenseEncoder(model)
    raise ConfigError(
        f"a {type(model).__name__} is no encoder: expected one of ours, a SentenceTransformer, a "
        "MultiVectorEncoder or a PyLate ColBERT"
    )
