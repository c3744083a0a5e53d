"""Matryoshka training of multi-vector models: short token vectors that work on their own.

Sentence Transformers' `MatryoshkaLoss` is for one vector a text. Needs Sentence Transformers 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from torch import Tensor
from torch.nn.functional import normalize


class MultiVectorMatryoshkaLoss(MatryoshkaLoss):
    """The weighted sum of a multi-vector loss over leading components of the token vectors.

    Each width's token vectors are brought to unit length again before they are scored, as
    `MultiVectorEncoder.load(width=...)` does. Texts are embedded once for all widths. A cached loss
    stays a cached one: `MatryoshkaLoss` cuts what its `calculate_loss` is given.

    Source: Kusupati et al. 2022, arXiv:2205.13147.
    """

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch."""
        columns = list(sentence_features)
        if self.uses_gradient_cache:
            cached: Tensor = self.loss(columns, labels)
            return cached
        model: Any = self.model
        cut = _CutOutputs(model.forward)
        losses = []
        before = model.__dict__.get("forward")
        model.forward = cut
        try:
            for width, weight in zip(self.matryoshka_dims, self.matryoshka_weights, strict=True):
                cut.begin(width)
                losses.append(weight * self.loss(columns, labels))
        finally:
            del model.forward
            if before is not None:
                model.forward = before
        return torch.stack(losses).sum()


class _CutOutputs:
    """Stands in for a model's forward: runs it for the first width, remembers for the others."""

    def __init__(self, forward: Callable[..., dict[str, Any]]) -> None:
        self._forward = forward
        self._outputs: list[dict[str, Any]] = []
        self._width = 0
        self._at = 0

    def begin(self, width: int) -> None:
        self._width, self._at = width, 0

    def __call__(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        if self._at == len(self._outputs):
            self._outputs.append(dict(self._forward(features, **options)))
        output = self._outputs[self._at]
        self._at += 1
        vectors = output["token_embeddings"][..., : self._width]
        return {**output, "token_embeddings": normalize(vectors, dim=-1)}
