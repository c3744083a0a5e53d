"""The loss of a recipe: which of Sentence Transformers' losses, or of ours, with which settings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import ConfigError
from retrieval.training import dense_losses, multi_vector_losses
from retrieval.training.batch_teacher import BatchTeacher, load_teacher
from retrieval.training.false_negatives import FilteredLoss, FilteredScores
from retrieval.training.loss_settings import (
    DenseLossSettings,
    LossSettings,
    MultiVectorLossSettings,
)
from retrieval.training.processes import world_size


def dense_loss(
    settings: DenseLossSettings, encoder: DenseEncoder, mini_batch_size: int | None
) -> torch.nn.Module:
    """The loss over `encoder`; a `mini_batch_size` makes it a cached one (GradCache).

    Raises:
        ConfigError: Matryoshka widths that the model does not have, or a teacher that can't be one.
    """
    if settings.kind == "embedding_distillation":
        return dense_losses.embedding_distillation(settings, encoder, mini_batch_size)
    similarity = dense_losses.similarity()
    filtered = _filtered_scores(settings, similarity, is_column_major=True)
    loss = (
        dense_losses.contrastive(settings, encoder, mini_batch_size, filtered or similarity)
        if settings.kind == "contrastive"
        else dense_losses.score_distillation(settings, encoder, mini_batch_size)
    )
    if settings.matryoshka_widths:
        _check_widths(settings, encoder.width)
        loss = dense_losses.matryoshka(settings, encoder, loss)
    return _filtered(settings, encoder, loss, filtered)


def multi_vector_loss(
    settings: MultiVectorLossSettings, encoder: MultiVectorEncoder, mini_batch_size: int | None
) -> torch.nn.Module:
    """The loss over `encoder`; a `mini_batch_size` makes it a cached one (GradCache).

    Raises:
        ConfigError: Matryoshka widths that the model does not have.
    """
    if settings.kind == "embedding_distillation":
        return multi_vector_losses.embedding_distillation(settings, encoder)
    similarity = multi_vector_losses.similarity(settings)
    filtered = _filtered_scores(settings, similarity, is_column_major=False)
    loss = (
        multi_vector_losses.contrastive(settings, encoder, mini_batch_size, filtered or similarity)
        if settings.kind == "contrastive"
        else multi_vector_losses.score_distillation(settings, encoder, mini_batch_size)
    )
    if settings.matryoshka_widths:
        _check_widths(settings, encoder.width)
        loss = multi_vector_losses.matryoshka(settings, encoder, loss)
    return _filtered(settings, encoder, loss, filtered)


def _filtered_scores(
    settings: LossSettings, similarity: Callable[..., Tensor], *, is_column_major: bool
) -> FilteredScores | None:
    if settings.false_negative_margin is None:
        return None
    return FilteredScores(
        similarity,
        margin=settings.false_negative_margin,
        is_relative=settings.false_negative_rule == "relative",
        is_column_major=is_column_major,
    )


def _filtered(
    settings: LossSettings,
    encoder: DenseEncoder | MultiVectorEncoder,
    loss: torch.nn.Module,
    scores: FilteredScores | None,
) -> torch.nn.Module:
    if scores is None:
        return loss
    name = settings.false_negative_guide
    guide = BatchTeacher(load_teacher(name, encoder), encoder.model) if name else None
    return FilteredLoss(loss, scores, guide, gathers=world_size() > 1)


def _check_widths(settings: LossSettings, full: int) -> None:
    if full not in settings.matryoshka_widths or max(settings.matryoshka_widths) > full:
        raise ConfigError(
            f"loss.matryoshka_widths are {list(settings.matryoshka_widths)}, the model's vectors "
            f"have {full} components: name {full} and smaller ones"
        )
