"""Losses of single-vector encoders: Sentence Transformers' own, cached where it caches none."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from retrieval.encoders.dense import DenseEncoder
from retrieval.errors import ConfigError
from retrieval.training.batch_teacher import BatchTeacher, Scaled, load_teacher, projected_width
from retrieval.training.embedding_distillation import TeacherVectorsLoss
from retrieval.training.loss_settings import DenseLossSettings
from retrieval.training.processes import world_size


def similarity() -> Callable[..., Tensor]:
    """Cosines of all queries with all documents."""
    from sentence_transformers.util import cos_sim

    return cos_sim


def contrastive(
    settings: DenseLossSettings,
    encoder: DenseEncoder,
    mini_batch_size: int | None,
    similarity: Callable[..., Tensor],
) -> torch.nn.Module:
    """In-batch negatives and hard ones, scored by `similarity`."""
    losses = _dense_losses()
    options: dict[str, Any] = {
        "scale": settings.scale,
        "similarity_fct": similarity,
        "gather_across_devices": world_size() > 1,
    }
    if settings.is_symmetric:
        options["directions"] = ("query_to_doc", "doc_to_query")
        options["partition_mode"] = "per_direction"
    if settings.hardness:
        options["hardness_mode"] = settings.hardness_of
        options["hardness_strength"] = settings.hardness
    loss: torch.nn.Module = (
        losses.CachedMultipleNegativesRankingLoss(
            encoder.model, mini_batch_size=mini_batch_size, **options
        )
        if mini_batch_size
        else losses.MultipleNegativesRankingLoss(encoder.model, **options)
    )
    return loss


def score_distillation(
    settings: DenseLossSettings, encoder: DenseEncoder, mini_batch_size: int | None
) -> torch.nn.Module:
    """A teacher's scores, as margins or as a distribution."""
    from sentence_transformers.util import pairwise_cos_sim

    losses = _dense_losses()
    similarity_fct = Scaled(pairwise_cos_sim, settings.scale)
    loss: torch.nn.Module = (
        losses.MarginMSELoss(encoder.model, similarity_fct=similarity_fct)
        if settings.kind == "margin_mse"
        else losses.DistillKLDivLoss(
            encoder.model, similarity_fct=similarity_fct, **settings.temperatures
        )
    )
    return _cached(loss, mini_batch_size)


def embedding_distillation(
    settings: DenseLossSettings, encoder: DenseEncoder, mini_batch_size: int | None
) -> torch.nn.Module:
    """Another dense encoder's vectors.

    Raises:
        ConfigError: a multi-vector teacher, or one of another width in several processes.
    """
    teacher = load_teacher(settings.teacher, encoder)
    if not isinstance(teacher, DenseEncoder):
        raise ConfigError(
            f"loss.teacher {settings.teacher}: a multi-vector model has no single vector that a "
            "dense one could learn: name a dense teacher"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = _dense_losses().EmbedDistillLoss(
            encoder.model,
            distance_metric=settings.distance,
            projection_dim=projected_width(teacher, encoder),
        )
    return TeacherVectorsLoss(
        _cached(loss, mini_batch_size, is_by_column=True), BatchTeacher(teacher, encoder.model)
    )


def matryoshka(
    settings: DenseLossSettings, encoder: DenseEncoder, loss: torch.nn.Module
) -> torch.nn.Module:
    """`loss` over several widths."""
    wrapped: torch.nn.Module = _dense_losses().MatryoshkaLoss(
        encoder.model, loss, **settings.widths_and_weights
    )
    return wrapped


def _cached(
    loss: Any, mini_batch_size: int | None, *, is_by_column: bool = False
) -> torch.nn.Module:
    if not mini_batch_size:
        return cast(torch.nn.Module, loss)
    from retrieval.training.cached_distillation import CachedDistillation

    return CachedDistillation(loss, mini_batch_size, is_by_column=is_by_column)


def _dense_losses() -> Any:
    """The losses' module, which moved in Sentence Transformers 6."""
    try:
        return importlib.import_module("sentence_transformers.sentence_transformer.losses")
    except ImportError:
        return importlib.import_module("sentence_transformers.losses")
