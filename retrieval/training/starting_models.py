"""The encoder that a run starts from: settings of a recipe, and the model that they name."""

from __future__ import annotations

import string
from dataclasses import asdict, dataclass
from typing import Any, Literal

from retrieval.encoders.checkpoints import checkpoint_kind
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.training.adapters import LoraSettings, add_adapter


@dataclass(frozen=True, kw_only=True)
class DenseModelSettings:
    """The single-vector encoder to start from."""

    backbone: str
    """Folder or hub name of a transformers model, or of a dense encoder to train on."""
    pooling: Literal["mean", "cls"] = "mean"
    width: int | None = None
    query_length: int | None = 64
    document_length: int | None = 512
    query_prefix: str = ""
    document_prefix: str = ""
    lora: LoraSettings | None = None
    """Train adapters instead of the backbone's weights."""


@dataclass(frozen=True, kw_only=True)
class MultiVectorModelSettings:
    """The ColBERT to start from."""

    backbone: str
    """Folder or hub name of a transformers model, or of a ColBERT to train on."""
    width: int = 128
    query_length: int = 32
    document_length: int = 180
    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_expansion: bool = True
    attend_to_expansion: bool = False
    skiplist: tuple[str, ...] = tuple(string.punctuation)
    lora: LoraSettings | None = None
    """Train adapters instead of the backbone's weights."""


def starting_dense(model: DenseModelSettings, seed: int) -> DenseEncoder:
    """Load the encoder to train on, or make one of a backbone; `seed` draws what is new."""
    if checkpoint_kind(model.backbone) == "dense":
        encoder = DenseEncoder.load(model.backbone)
    else:
        encoder = DenseEncoder.from_backbone(model.backbone, **_options(model), seed=seed)
    if model.lora is not None:
        add_adapter(encoder.model, model.lora, seed)
    return encoder


def starting_multi_vector(model: MultiVectorModelSettings, seed: int) -> MultiVectorEncoder:
    """Load the ColBERT to train on, or make one of a backbone; `seed` draws what is new."""
    if checkpoint_kind(model.backbone) == "multi_vector":
        encoder = MultiVectorEncoder.load(model.backbone)
    else:
        encoder = MultiVectorEncoder.from_backbone(model.backbone, **_options(model), seed=seed)
    if model.lora is not None:
        add_adapter(encoder.model, model.lora, seed)
    return encoder


def _options(model: DenseModelSettings | MultiVectorModelSettings) -> dict[str, Any]:
    """What `from_backbone` is told of the settings."""
    settings = asdict(model)
    return {key: settings[key] for key in settings if key not in ("backbone", "lora")}
