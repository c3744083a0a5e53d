"""What decides the vectors of a multi-vector model beside its weights, whichever library has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def native_settings(model: Any) -> dict[str, Any]:
    """The settings of a `sentence_transformers.MultiVectorEncoder`, for its fingerprint."""
    transformer = model[0]
    expansion = transformer.query_expansion
    mask: Any = next((module for module in model if hasattr(module, "skiplist_words")), None)
    pooling = _pipeline_pooling(model)
    settings = _settings(
        query_length=expansion["length"] if expansion else transformer.query_length,
        document_length=transformer.document_length,
        prompts={role: _tokens(model, text) for role, text in model.prompts.items()},
        expansion=[bool(expansion["attend"])] if expansion else [],
        skiplist=mask.skiplist_words if mask is not None else [],
    )
    return {**settings, "pipeline_pooling": pooling} if pooling else settings


def pylate_settings(model: Any) -> dict[str, Any]:
    """The same of a live `pylate.models.ColBERT`: equal for one checkpoint."""
    prefixes = {"query": model.query_prefix, "document": model.document_prefix}
    prompts = {
        role: ([prefix] if prefix else []) + _tokens(model, model.prompts.get(role))
        for role, prefix in prefixes.items()
    }
    return _settings(
        query_length=model.query_length,
        document_length=model.document_length,
        prompts=prompts,
        expansion=[bool(model.attend_to_expansion_tokens)] if model.do_query_expansion else [],
        skiplist=model.skiplist_words,
    )


def _settings(
    *,
    query_length: int | None,
    document_length: int | None,
    prompts: dict[str, list[str]],
    expansion: list[bool],
    skiplist: Sequence[str],
) -> dict[str, Any]:
    return {
        "kind": "multi_vector",
        "query_length": query_length,
        "document_length": document_length,
        "prompts": {key: value for key, value in sorted(prompts.items()) if value},
        "expansion_attends": expansion,
        "skiplist": sorted(skiplist),
    }


def _tokens(model: Any, prompt: str | None) -> list[str]:
    """A prompt as the model sees it, however the library that loaded it spells the blanks."""
    return list(model.tokenizer.tokenize(prompt or ""))


def _pipeline_pooling(model: Any) -> list[dict[str, Any]]:
    """The settings of token pooling that a checkpoint itself has."""
    return [
        {"type": type(module).__name__, **module.get_config_dict()}
        for module in model
        if hasattr(module, "pool_one")
    ]
