"""Which library holds a multi-vector model, and what a new one is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sentence_transformers

from retrieval.errors import MissingExtraError

HAS_NATIVE = hasattr(sentence_transformers, "MultiVectorEncoder")


def model_class() -> Any:
    """Sentence Transformers' MultiVectorEncoder, or PyLate's ColBERT where there is none."""
    if HAS_NATIVE:
        return sentence_transformers.MultiVectorEncoder
    try:
        from pylate.models import ColBERT
    except ImportError as error:
        raise MissingExtraError(
            f"A multi-vector model under sentence-transformers {sentence_transformers.__version__}",
            "pylate",
        ) from error
    return ColBERT


def add_prefix_tokens(transformer: Any, prefixes: Sequence[str]) -> None:
    """Make each prefix one token, so that it is the same token whatever text follows."""
    from tokenizers import AddedToken

    tokens = [AddedToken(each, normalized=False, special=True) for each in prefixes if each]
    if not tokens:
        return
    tokenizer = transformer.tokenizer
    tokenizer.add_tokens(tokens, special_tokens=True)
    backbone = transformer.auto_model
    if len(tokenizer) > backbone.get_input_embeddings().num_embeddings:
        backbone.resize_token_embeddings(len(tokenizer))
