"""The texts that a model puts before queries and documents, changed without training it anew."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from retrieval.encoders.token_limits import token_limit
from retrieval.encoders.tokens import Role
from retrieval.errors import ConfigError

AnEncoder = TypeVar("AnEncoder", bound=Any)

_ROLES: tuple[Role, ...] = ("query", "document")


def set_prompts(
    model: Any,
    query: str | None,
    document: str | None,
    *,
    markers: Mapping[str, str] | None = None,
) -> None:
    """Override a loaded model's prompts; None leaves one as the checkpoint has it.

    The model gets a new dictionary of prompts, so that a shallow copy of it can have others.

    Args:
        model: of Sentence Transformers, or a live PyLate ColBERT.
        query: put before every query; "" for nothing.
        document: the same for documents.
        markers: by role, what stays in front of a ColBERT's prompt.

    Raises:
        ConfigError: a prompt that leaves no room for a text.
    """
    prompts = dict(model.prompts)
    for role, prompt in zip(_ROLES, (query, document), strict=True):
        if prompt is None:
            continue
        marker = (markers or {}).get(role, "")
        prompts[role] = marker + prompt.removeprefix(marker)
        _check_room(model, role, prompts[role])
    model.prompts = prompts


def copy_with_prompts(
    encoder: AnEncoder,
    query: str | None,
    document: str | None,
    *,
    markers: Mapping[str, str] | None = None,
) -> AnEncoder:
    """A copy of an encoder of ours with other prompts, over the same weights.

    Args and errors as in `set_prompts`.
    """
    other = copy.copy(encoder)
    other.__dict__.pop("reference", None)
    other.model = copy.copy(encoder.model)
    set_prompts(other.model, query, document, markers=markers)
    other.inference = encoder.inference.of(other.model)
    given = {"query_prompt": query, "document_prompt": document}
    changed = {name: prompt for name, prompt in given.items() if prompt is not None}
    other._options = {**encoder._options, **changed}
    return other


def markers_of(model: Any) -> dict[str, str]:
    """By role, the token of its own that a ColBERT's prompt begins with, such as "[Q] "."""
    added = model.tokenizer.get_added_vocab()
    markers: dict[str, str] = {}
    for role in _ROLES:
        prompt = model.prompts.get(role) or ""
        first = next(iter(model.tokenizer.tokenize(prompt)), "")
        if first in added and prompt.startswith(first):
            markers[role] = first
    return markers


def _check_room(model: Any, role: Role, prompt: str) -> None:
    limit = token_limit(model, role)
    tokens = len(model.tokenizer(prompt, truncation=False, verbose=False)["input_ids"])
    if limit is not None and tokens >= limit:
        raise ConfigError(
            f"the {role} prompt {prompt!r} takes {tokens} of the {limit} tokens of a {role} and "
            "leaves none for the text: shorten it, or raise the limit"
        )
