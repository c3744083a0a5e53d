"""The encoder that a run starts from: settings of a recipe, and the model that they name."""

from __future__ import annotations

import string
from dataclasses import asdict, dataclass
from typing import Literal

from retrieval.encoders.checkpoints import checkpoint_kind
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder


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


def starting_dense(model: DenseModelSettings, seed: int) -> DenseEncoder:
    """Load the encoder to train on, or make one of a backbone; `seed` draws what is new."""
    if checkpoint_kind(model.backbone) == "dense":
        return DenseEncoder.load(model.backbone)
    settings = asdict(model)
    return DenseEncoder.from_backbone(settings.pop("backbone"), **settings, seed=seed)


def starting_multi_vector(model: MultiVectorModelSettings, seed: int) -> MultiVectorEncoder:
    """Load the ColBERT to train on, or make one of a backbone; `seed` draws what is new."""
    if checkpoint_kind(model.backbone) == "multi_vector":
        return MultiVectorEncoder.load(model.backbone)
    settings = asdict(model)
    return MultiVectorEncoder.from_backbone(settings.pop("backbone"), **settings, seed=seed)
