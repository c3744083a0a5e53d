"""Which library holds a multi-vector model, how it encodes, and what a new one is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
from numpy.typing import NDArray

from retrieval.encoders.tokens import Role
from retrieval.errors import MissingExtraError
from retrieval.files import read_json, write_json

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


def is_multi_vector_model(model: Any) -> bool:
    """Whether it is a live MultiVectorEncoder of Sentence Transformers, or PyLate's ColBERT."""
    is_native = HAS_NATIVE and isinstance(model, sentence_transformers.MultiVectorEncoder)
    return is_native or is_pylate(model)


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


def save_prefixes(folder: Path, model: Any, prefixes: Mapping[str, str]) -> None:
    """Add what Sentence Transformers reads from PyLate's settings and does not write again.

    Without it a second load would take the model for one that keeps outer blanks.
    """
    path = folder / "config_sentence_transformers.json"
    named = {f"{role}_prefix": text for role, text in prefixes.items()}
    # named, because a prefix without it would turn query expansion on
    expansion = {"query_expansion": model[0].query_expansion}
    write_json(path, {**read_json(path), **named, **expansion})


def encode_by_library(
    model: Any, texts: list[str], prompt: str, role: Role, batch_size: int
) -> list[NDArray[np.float32]]:
    """The (tokens, D) vectors that the model's own library gives; PyLate has its prompts itself."""
    if is_pylate(model):
        return _encode_by_pylate(model, texts, role, batch_size)
    return _encode_by_sentence_transformers(model, texts, prompt, role, batch_size)


def is_pylate(model: Any) -> bool:
    """Whether it is a live `pylate.models.ColBERT`."""
    return hasattr(model, "do_query_expansion")


def _encode_by_pylate(
    model: Any, texts: list[str], role: Role, batch_size: int
) -> list[NDArray[np.float32]]:
    embeddings = model.encode(
        texts,
        is_query=role == "query",
        prompt_name=role if model.prompts.get(role) else None,
        batch_size=batch_size,
        show_progress_bar=False,
    )
    return [np.asarray(each, dtype=np.float32) for each in embeddings]


def _encode_by_sentence_transformers(
    model: Any, texts: list[str], prompt: str, role: Role, batch_size: int
) -> list[NDArray[np.float32]]:
    encode = model.encode_query if role == "query" else model.encode_document
    embeddings = encode(
        texts,
        prompt=prompt,
        batch_size=batch_size,
        show_progress_bar=False,
        convert_to_numpy=True,
    )
    return [np.asarray(each, dtype=np.float32) for each in embeddings]
