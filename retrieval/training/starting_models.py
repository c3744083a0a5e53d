"""The encoder that a run starts from: settings of a recipe, and the model that they name."""

from __future__ import annotations

import string
from dataclasses import dataclass, fields
from typing import Any, Literal

from retrieval.encoders.checkpoints import checkpoint_kind
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.starters import checkpoint_folder
from retrieval.errors import ConfigError
from retrieval.training.adapters import LoraSettings, add_adapter


@dataclass(frozen=True, kw_only=True)
class DenseModelSettings:
    """The single-vector encoder to start from."""

    backbone: str
    """Folder or hub name of a transformers model, or a dense encoder or starter to train on."""
    pooling: Literal["mean", "cls"] = "mean"
    width: int | None = None
    query_length: int | None = None
    """Tokens of a query; None takes 64, or what a dense encoder to train on has."""
    document_length: int | None = None
    """Tokens of a document; None takes 512, or what a dense encoder to train on has."""
    query_prefix: str = ""
    document_prefix: str = ""
    lora: LoraSettings | None = None
    """Train adapters instead of the backbone's weights."""


@dataclass(frozen=True, kw_only=True)
class MultiVectorModelSettings:
    """The ColBERT to start from."""

    backbone: str
    """Folder or hub name of a transformers model, or a ColBERT or starter to train on."""
    width: int = 128
    query_length: int | None = None
    """Tokens of a query; None takes 32, or what a ColBERT to train on has."""
    document_length: int | None = None
    """Tokens of a document; None takes 180, or what a ColBERT to train on has."""
    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_expansion: bool = True
    attend_to_expansion: bool = False
    skiplist: tuple[str, ...] = tuple(string.punctuation)
    lora: LoraSettings | None = None
    """Train adapters instead of the backbone's weights."""


def starting_dense(model: DenseModelSettings, seed: int) -> DenseEncoder:
    """Load the encoder to train on, or make one of a backbone; `seed` draws what is new.

    Raises:
        ConfigError: settings for a new retriever beside the name of a trained one.
    """
    if checkpoint_kind(checkpoint_folder(model.backbone)) == "dense":
        _check_trained(model)
        encoder = DenseEncoder.load(model.backbone, **_lengths(model))
    else:
        options = {"query_length": 64, "document_length": 512} | _lengths(model)
        encoder = DenseEncoder.from_backbone(model.backbone, **_rest(model), **options, seed=seed)
    if model.lora is not None:
        add_adapter(encoder.model, model.lora, seed)
    return encoder


def starting_multi_vector(model: MultiVectorModelSettings, seed: int) -> MultiVectorEncoder:
    """Load the ColBERT to train on, or make one of a backbone; `seed` draws what is new.

    Raises:
        ConfigError: settings for a new retriever beside the name of a trained one.
    """
    if checkpoint_kind(checkpoint_folder(model.backbone)) == "multi_vector":
        _check_trained(model)
        encoder = MultiVectorEncoder.load(model.backbone, **_lengths(model))
    else:
        encoder = MultiVectorEncoder.from_backbone(
            model.backbone, **_rest(model), **_lengths(model), seed=seed
        )
    if model.lora is not None:
        add_adapter(encoder.model, model.lora, seed)
    return encoder


_LENGTHS = ("query_length", "document_length")
_Settings = DenseModelSettings | MultiVectorModelSettings


def _check_trained(model: _Settings) -> None:
    """A trained retriever has its pooling, width and prefixes: no recipe can give it others."""
    defaults = {each.name: each.default for each in fields(model)}
    ignored = [name for name, value in _rest(model).items() if value != defaults[name]]
    if ignored:
        raise ConfigError(
            f"{model.backbone} is a trained retriever, which has its own {', '.join(ignored)}: "
            "leave them out of [model], or start from its plain backbone"
        )


def _lengths(model: _Settings) -> dict[str, Any]:
    given = {name: getattr(model, name) for name in _LENGTHS}
    return {name: length for name, length in given.items() if length is not None}


def _rest(model: _Settings) -> dict[str, Any]:
    """What `from_backbone` is told of the settings, lengths apart."""
    left_out = ("backbone", "lora", *_LENGTHS)
    return {
        each.name: getattr(model, each.name) for each in fields(model) if each.name not in left_out
    }
