"""The loss of a recipe: which of Sentence Transformers' losses, with which settings."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

import torch

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.training.processes import world_size


@dataclass(frozen=True, kw_only=True)
class DenseLossSettings:
    """What a single-vector encoder learns from."""

    kind: Literal["contrastive"] = "contrastive"
    scale: float = 20.0
    """One over the temperature that divides cosine similarities."""


@dataclass(frozen=True, kw_only=True)
class MultiVectorLossSettings:
    """What a ColBERT learns from."""

    kind: Literal["contrastive", "distillation"] = "contrastive"
    scale: float = 1.0
    """Contrastive: multiplies MaxSim scores."""
    temperature: float = 1.0
    """Distillation: divides both the teacher's and the student's scores."""


def dense_loss(
    settings: DenseLossSettings, encoder: DenseEncoder, mini_batch_size: int | None
) -> torch.nn.Module:
    """The loss over `encoder`; a `mini_batch_size` makes it a cached one (GradCache)."""
    losses = _dense_losses()
    options: dict[str, Any] = {"scale": settings.scale, "gather_across_devices": world_size() > 1}
    loss: torch.nn.Module = (
        losses.CachedMultipleNegativesRankingLoss(
            encoder.model, mini_batch_size=mini_batch_size, **options
        )
        if mini_batch_size
        else losses.MultipleNegativesRankingLoss(encoder.model, **options)
    )
    return loss


def multi_vector_loss(
    settings: MultiVectorLossSettings, encoder: MultiVectorEncoder, mini_batch_size: int | None
) -> torch.nn.Module:
    """The loss over `encoder`; a `mini_batch_size` makes it a cached one (GradCache)."""
    from sentence_transformers.multi_vector_encoder import losses

    if settings.kind == "distillation":
        return losses.MultiVectorDistillKLDivLoss(
            encoder.model,
            temperature=settings.temperature,
            mini_batch_size=mini_batch_size,
        )
    options: dict[str, Any] = {"scale": settings.scale, "gather_across_devices": world_size() > 1}
    if mini_batch_size:
        return losses.CachedMultiVectorMultipleNegativesRankingLoss(
            encoder.model, mini_batch_size=mini_batch_size, **options
        )
    return losses.MultiVectorMultipleNegativesRankingLoss(encoder.model, **options)


def _dense_losses() -> Any:
    """The losses' module, which moved in Sentence Transformers 6."""
    try:
        return importlib.import_module("sentence_transformers.sentence_transformer.losses")
    except ImportError:
        return importlib.import_module("sentence_transformers.losses")
