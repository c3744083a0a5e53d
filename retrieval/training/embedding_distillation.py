"""Losses that bring a model's vectors to another model's.

Dense: each vector to the teacher's. Multi-vector: each token's vector to the teacher's, where the
two cut texts into the same tokens; where they don't, no token of one belongs to a token of the
other, and the model learns the teacher's scores within the batch instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, log_softmax

from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.training.batch_maxsim import maxsim_of_all
from retrieval.training.batch_teacher import BatchTeacher, Features


class TeacherVectorsLoss(torch.nn.Module):
    """Sentence Transformers' `EmbedDistillLoss` with a teacher that encodes each batch."""

    def __init__(self, loss: torch.nn.Module, teacher: BatchTeacher) -> None:
        super().__init__()
        self.loss = loss
        self._teacher = teacher

    def forward(
        self, sentence_features: Iterable[Features], labels: Tensor | None = None
    ) -> Tensor:
        """The mean distance over the columns of a batch."""
        columns = list(sentence_features)
        targets = [
            self._teacher.vectors(column, is_query=number == 0)[0][:, 0]
            for number, column in enumerate(columns)
        ]
        loss: Tensor = self.loss(columns, torch.stack(targets, dim=1))
        return loss


class TokenVectorsLoss(torch.nn.Module):
    """One minus the cosine of each token's vector with the teacher's, of tokens that both score.

    A learnt projection between different widths is a parameter of the loss: it is not saved with
    the model.
    """

    def __init__(self, model: Any, teacher: Any, projection: torch.nn.Linear | None) -> None:
        super().__init__()
        self.model = model
        self.projection = projection
        # In a list, so that it is no submodule: it is neither trained nor saved.
        self._teacher = [teacher.eval()]

    def forward(
        self, sentence_features: Iterable[Features], labels: Tensor | None = None
    ) -> Tensor:
        """The mean over the tokens of each column, and over the columns of a batch."""
        losses = []
        for number, column in enumerate(sentence_features):
            task = column.get("task", "document" if number else "query")
            with torch.no_grad():
                target = self._teacher[0](dict(column), task=task)
            output = self.model(dict(column), task=task)
            vectors = output["token_embeddings"]
            if self.projection is not None:
                vectors = self.projection(vectors)
            distances = 1 - cosine_similarity(vectors, target["token_embeddings"], dim=-1)
            keep = output["attention_mask"].bool() & target["attention_mask"].bool()
            losses.append(distances[keep].mean())
        return torch.stack(losses).mean()


class BatchScoresLoss(torch.nn.Module):
    """KL divergence of the model's MaxSim scores within a batch from the teacher's.

    The loss is multiplied by the squared temperature, as in `MultiVectorDistillKLDivLoss`. Each
    process takes its own batch.
    """

    def __init__(
        self,
        model: Any,
        teacher: BatchTeacher,
        *,
        scale: float,
        temperature: float,
        teacher_temperature: float | None,
    ) -> None:
        super().__init__()
        self.model = model
        self._teacher = teacher
        self._scale = scale
        self._temperature = temperature
        self._teacher_temperature = teacher_temperature or temperature

    def forward(
        self, sentence_features: Iterable[Features], labels: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch."""
        from sentence_transformers.base.losses.merged_forward import embed_columns_padded
        from sentence_transformers.util import stack_padded_token_embeddings

        columns = [dict(column) for column in sentence_features]
        targets = self._teacher.scores(columns, gathers=False).flatten(1)
        queries = self.model(columns[0], task=columns[0].get("task", "query"))
        documents, keep = stack_padded_token_embeddings(
            *embed_columns_padded(self.model, columns[1:], task_default="document")
        )
        scores = maxsim_of_all(
            queries["token_embeddings"],
            documents,
            queries_mask=queries["attention_mask"].bool(),
            documents_mask=keep,
        )
        divergence = kl_div(
            log_softmax(scores * self._scale / self._temperature, dim=-1),
            log_softmax(targets * self._scale / self._teacher_temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * self._temperature**2


def tokenizes_alike(teacher: MultiVectorEncoder, student: MultiVectorEncoder) -> bool:
    """Whether every text becomes the same tokens in both models, expansion included."""
    return _tokenization(teacher) == _tokenization(student)


def _tokenization(encoder: MultiVectorEncoder) -> list[Any]:
    model = encoder.model
    transformer = model[0]
    return [
        model.tokenizer.get_vocab(),
        {role: model.prompts.get(role) or "" for role in ("query", "document")},
        model.max_seq_length,
        *(
            getattr(transformer, name, None)
            for name in ("query_length", "document_length", "query_expansion")
        ),
    ]
