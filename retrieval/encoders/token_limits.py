"""How many tokens of a query or document a model reads, changed for a model or for one text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from retrieval.encoders.tokens import NO_LIMIT, Role
from retrieval.errors import ConfigError


def set_token_limits(model: Any, query_length: int | None, document_length: int | None) -> None:
    """Override a loaded model's limits; None leaves one as the checkpoint has it.

    Expanded queries get the new length as well.

    Args:
        model: of Sentence Transformers 6, or a live PyLate ColBERT.
        query_length: tokens of a query, prefix and special tokens included.
        document_length: the same for documents.

    Raises:
        ConfigError: less than the special tokens need, more than the backbone has positions, or a
            model that has no such limits.
    """
    owner = _owner(model)
    for name, length in (("query_length", query_length), ("document_length", document_length)):
        if length is None:
            continue
        check_token_limit(model, name, length)
        setattr(owner, name, length)
    expansion = getattr(owner, "query_expansion", None)
    if query_length is None or expansion is None:
        return
    is_fixed = expansion["strategy"] == "fixed"
    length = query_length if is_fixed else min(query_length, expansion["length"])
    owner.query_expansion = {**expansion, "length": length}


def check_token_limit(model: Any, name: str, length: int) -> None:
    """Refuse a limit that the model can't have; errors as in `set_token_limits`."""
    if not hasattr(_owner(model), name):
        raise ConfigError(f"{type(model[0]).__name__} has no limit {name} that could be set")
    least = model.tokenizer.num_special_tokens_to_add() + 1
    most = getattr(model[0].auto_model.config, "max_position_embeddings", None) or length
    if not least <= length <= most:
        raise ConfigError(f"{name} is {length}, expected {least} to {most} for this model")


def token_limit(model: Any, role: Role) -> int | None:
    """Tokens of a query or document that a model reads; None where no limit is known."""
    own = getattr(_owner(model), f"{role}_length", None)
    limit = own or getattr(model.tokenizer, "model_max_length", None)
    return limit if limit is not None and limit < NO_LIMIT else None


@contextmanager
def document_limit(model: Any, length: int) -> Iterator[None]:
    """Read documents up to `length` tokens within the block."""
    owner = _owner(model)
    before = owner.document_length
    owner.document_length = length
    try:
        yield
    finally:
        owner.document_length = before


def _owner(model: Any) -> Any:
    """What has the limits: PyLate's model itself, or the first module of Sentence Transformers'."""
    return model if hasattr(model, "do_query_expansion") else model[0]
