"""Distillation with gradient caching: the memory is bounded by a mini-batch, not by the documents.

A teacher scores up to 32 documents for each query, which are all embedded in one step; Sentence
Transformers caches its contrastive losses only (Gao et al. 2021, arXiv:2101.06983). Needs Sentence
Transformers 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.multi_vector_encoder.losses import (
    CachedMultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.util import cat_padded_token_embeddings, stack_padded_token_embeddings
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, mse_loss

from retrieval.training.batch_teacher import Features

# Q queries, N documents of each


class CachedDistillation(CachedLossMixin, torch.nn.Module):
    """A dense distillation loss over gradients that are cached.

    Attributes:
        loss: one with `compute_loss_from_embeddings`, such as `DistillKLDivLoss`.
    """

    def __init__(self, loss: Any, mini_batch_size: int, *, is_by_column: bool = False) -> None:
        """Wrap a loss; `is_by_column` gives it the labels of one column after the other."""
        super().__init__()
        self._is_by_column = is_by_column
        self.model = loss.model
        self.loss = loss
        self.mini_batch_size = mini_batch_size

    def forward(
        self, sentence_features: Iterable[Features], labels: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch, which is embedded again when it is backpropagated."""
        return self.forward_cached(sentence_features, labels)

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        labels: Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """The loss of embeddings, given as the mini-batches of each column."""
        embeddings = [torch.cat(column) for column in reps]
        assert labels is not None
        targets = list(labels.unbind(1)) if self._is_by_column else labels
        loss: Tensor = self.loss.compute_loss_from_embeddings(embeddings, targets)
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss


class CachedMultiVectorDistillation(CachedMultiVectorMultipleNegativesRankingLoss):
    """A multi-vector loss of a teacher's scores, over gradients that are cached."""

    def __init__(
        self,
        model: Any,
        compare: Callable[[Tensor, Tensor], Tensor],
        *,
        similarity_fct: Callable[..., Tensor],
        mini_batch_size: int,
    ) -> None:
        """Make the loss.

        Args:
            model: a `MultiVectorEncoder`.
            compare: the loss of the model's and the teacher's scores, (Q, N) each.
            similarity_fct: (Q, N) scores of (Q, M, D) queries and (Q, N, T, D) documents.
            mini_batch_size: texts in a forward pass.
        """
        super().__init__(model, similarity_fct=similarity_fct, mini_batch_size=mini_batch_size)
        self._compare = compare
        self._labels: Tensor | None = None

    def forward(
        self, sentence_features: Iterable[Features], labels: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch, which is embedded again when it is backpropagated."""
        self._labels = labels
        return super().forward(sentence_features, labels)

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        masks_chunks: list[list[Tensor]],
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """The loss of token vectors and masks, given as the mini-batches of each column."""
        columns = [
            cat_padded_token_embeddings(vectors, masks)
            for vectors, masks in zip(reps, masks_chunks, strict=True)
        ]
        queries, queries_mask = columns[0]
        documents, documents_mask = stack_padded_token_embeddings(
            [vectors for vectors, _ in columns[1:]], [mask for _, mask in columns[1:]]
        )
        scores = self.similarity_fct(
            queries, documents, queries_mask=queries_mask, documents_mask=documents_mask
        )
        assert self._labels is not None
        loss = self._compare(scores, self._labels.to(scores.dtype))
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss


def kl_of(temperature: float, teacher_temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """As `MultiVectorDistillKLDivLoss` compares scores."""

    def compare(scores: Tensor, teacher: Tensor) -> Tensor:
        student_log = log_softmax(scores / temperature, dim=-1)
        teacher_log = log_softmax(teacher / teacher_temperature, dim=-1)
        divergence = kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
        return divergence * temperature**2

    return compare


def mse_of_margins(scores: Tensor, teacher: Tensor) -> Tensor:
    """As `MultiVectorMarginMSELoss` compares scores, whose first is the positive's."""
    return mse_loss(scores[:, :1] - scores[:, 1:], teacher[:, :1] - teacher[:, 1:])
