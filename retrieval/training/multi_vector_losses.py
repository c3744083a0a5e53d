"""Losses of multi-vector encoders: Sentence Transformers' own, and what it has none for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.training.batch_maxsim import maxsim_of_all, maxsim_of_own, maxsim_of_pairs
from retrieval.training.batch_teacher import BatchTeacher, Scaled, load_teacher, projected_width
from retrieval.training.embedding_distillation import (
    BatchScoresLoss,
    TokenVectorsLoss,
    tokenizes_alike,
)
from retrieval.training.loss_settings import MultiVectorLossSettings
from retrieval.training.processes import world_size

logger = logging.getLogger(__name__)


def similarity(settings: MultiVectorLossSettings) -> Callable[..., Tensor]:
    """MaxSim or XTR's scores of all queries with all documents."""
    if settings.scoring == "xtr":
        from sentence_transformers.multi_vector_encoder.scoring import XTRScores

        return XTRScores(settings.xtr_top_k)
    return maxsim_of_all


def contrastive(
    settings: MultiVectorLossSettings,
    encoder: MultiVectorEncoder,
    mini_batch_size: int | None,
    similarity: Callable[..., Tensor],
) -> torch.nn.Module:
    """In-batch negatives and hard ones, scored by `similarity`."""
    from sentence_transformers.multi_vector_encoder import losses

    options: dict[str, Any] = {
        "scale": settings.scale,
        "similarity_fct": similarity,
        "gather_across_devices": world_size() > 1,
    }
    if mini_batch_size:
        return losses.CachedMultiVectorMultipleNegativesRankingLoss(
            encoder.model, mini_batch_size=mini_batch_size, **options
        )
    return losses.MultiVectorMultipleNegativesRankingLoss(encoder.model, **options)


def score_distillation(
    settings: MultiVectorLossSettings, encoder: MultiVectorEncoder, mini_batch_size: int | None
) -> torch.nn.Module:
    """A teacher's scores, as margins or as a distribution."""
    from sentence_transformers.multi_vector_encoder import losses

    is_kl = settings.kind == "kl_distillation"
    if mini_batch_size:
        from retrieval.training import cached_distillation as cached

        return cached.CachedMultiVectorDistillation(
            encoder.model,
            cached.kl_of(**settings.temperatures) if is_kl else cached.mse_of_margins,
            similarity_fct=Scaled(_own_scores(settings), settings.scale),
            mini_batch_size=mini_batch_size,
        )
    if is_kl:
        return losses.MultiVectorDistillKLDivLoss(
            encoder.model,
            similarity_fct=Scaled(_own_scores(settings), settings.scale),
            **settings.temperatures,
        )
    return losses.MultiVectorMarginMSELoss(
        encoder.model, similarity_fct=Scaled(maxsim_of_pairs, settings.scale)
    )


def embedding_distillation(
    settings: MultiVectorLossSettings, encoder: MultiVectorEncoder
) -> torch.nn.Module:
    """Another encoder's token vectors, or its scores where it has other tokens.

    Raises:
        ConfigError: a teacher of another width in several processes.
    """
    teacher = load_teacher(settings.teacher, encoder)
    if isinstance(teacher, MultiVectorEncoder) and tokenizes_alike(teacher, encoder):
        projection: torch.nn.Linear | None = None
        width = projected_width(teacher, encoder)
        if width is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                projection = torch.nn.Linear(encoder.width, width, bias=False)
        return TokenVectorsLoss(encoder.model, teacher.model, projection)
    logger.info("%s cuts texts into other tokens: its scores are learnt", settings.teacher)
    return BatchScoresLoss(
        encoder.model,
        BatchTeacher(teacher, encoder.model),
        scale=settings.scale,
        temperature=settings.temperature,
        teacher_temperature=settings.teacher_temperature,
    )


def matryoshka(
    settings: MultiVectorLossSettings, encoder: MultiVectorEncoder, loss: torch.nn.Module
) -> torch.nn.Module:
    """`loss` over several widths."""
    from retrieval.training.matryoshka import MultiVectorMatryoshkaLoss

    return MultiVectorMatryoshkaLoss(encoder.model, loss, **settings.widths_and_weights)


def _own_scores(settings: MultiVectorLossSettings) -> Callable[..., Tensor]:
    if settings.scoring == "xtr":
        from sentence_transformers.multi_vector_encoder.scoring import XTRKDScores

        return XTRKDScores(settings.xtr_top_k)
    return maxsim_of_own
