"""Negatives that are probably positives are left out of a contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from sentence_transformers.util import get_rank
from torch import Tensor

from retrieval.training.batch_teacher import BatchTeacher, Features

# Q queries of a call, B queries of the batch (of all processes, where documents are gathered),
# N documents of a query


class FilteredScores:
    """A similarity function that gives -inf to the negatives that score too near the positive.

    A loss calls it with the queries of a batch from first to last, in chunks or at once.
    """

    def __init__(
        self,
        similarity: Callable[..., Tensor],
        *,
        margin: float,
        is_relative: bool,
        is_column_major: bool,
    ) -> None:
        """Set the rule.

        Args:
            similarity: scores of queries with documents, (Q, B * N).
            margin: negatives above the positive's score minus it are left out.
            is_relative: the margin is a share of the positive's score.
            is_column_major: the documents come as all positives, then all first negatives, and so
                on; otherwise query by query.
        """
        self._similarity = similarity
        self._margin = margin
        self._is_relative = is_relative
        self.is_column_major = is_column_major
        self._judged: Tensor | None = None
        self._batch_size = 0
        self._row = 0
        self._step = 1

    def begin(self, batch_size: int, columns: int, judged: Tensor | None) -> None:
        """Take a new batch, and the guide's scores (batch_size, B * N) where there is a guide."""
        self._batch_size, self._judged, self._row = batch_size, judged, 0
        self._step = 1 if self.is_column_major else columns

    def __call__(self, queries: Tensor, documents: Tensor, **masks: Any) -> Tensor:
        """Scores of the batch's next queries, those of likely positives at -inf."""
        scores = self._similarity(queries, documents, **masks)
        rows = torch.arange(self._row, self._row + len(queries), device=scores.device)
        # A Matryoshka loss goes through the batch once for each width.
        self._row = (self._row + len(queries)) % self._batch_size
        judged = scores.detach() if self._judged is None else self._judged[rows]
        own = ((get_rank() * self._batch_size + rows) * self._step)[:, None]
        positives = judged.gather(1, own)
        margin = self._margin * positives.abs() if self._is_relative else self._margin
        is_left_out = (judged > positives - margin).scatter(1, own, value=False)
        return scores.masked_fill(is_left_out, -torch.inf)


class FilteredLoss(torch.nn.Module):
    """A contrastive loss whose `FilteredScores` learn of each batch before it does."""

    def __init__(
        self,
        loss: torch.nn.Module,
        scores: FilteredScores,
        guide: BatchTeacher | None,
        *,
        gathers: bool,
    ) -> None:
        super().__init__()
        self.loss = loss
        self._scores = scores
        self._guide = guide
        self._gathers = gathers

    def forward(
        self, sentence_features: Iterable[Features], labels: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch."""
        columns = list(sentence_features)
        judged: Tensor | None = None
        if self._guide is not None:
            # before the loss, whose model writes into the features
            scores_QBN = self._guide.scores(columns, gathers=self._gathers)
            if self._scores.is_column_major:
                scores_QBN = scores_QBN.transpose(1, 2)
            judged = scores_QBN.flatten(1)
        self._scores.begin(len(columns[0]["input_ids"]), len(columns) - 1, judged)
        loss: Tensor = self.loss(columns, labels)
        return loss
