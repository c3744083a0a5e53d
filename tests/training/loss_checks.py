"""What the tests of losses share: a batch of three, and every score of it the slow way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.training.loss_settings import DenseLossSettings, MultiVectorLossSettings
from retrieval.training.losses import dense_loss, multi_vector_loss

QUERIES = ["read a file", "the path", "return x of the function f"]
POSITIVES = ["def f(x): return x", "a path or a folder", "file"]
NEGATIVES = ["the file of a path (or not)", "read", "x x x folder def"]
COLUMNS = [QUERIES, POSITIVES, NEGATIVES]

Encoder = DenseEncoder | MultiVectorEncoder


def features_of(encoder: Encoder) -> list[dict[str, Any]]:
    """The batch as the trainer's collator gives it to a loss."""
    roles = ["query", "document", "document"]
    return [
        {**encoder.model.preprocess(texts, task=role), "task": role}
        for texts, role in zip(COLUMNS, roles)
    ]


def build(encoder: Encoder, mini_batch_size: int | None, **settings: Any) -> torch.nn.Module:
    if isinstance(encoder, DenseEncoder):
        return dense_loss(DenseLossSettings(**settings), encoder, mini_batch_size)
    return multi_vector_loss(MultiVectorLossSettings(**settings), encoder, mini_batch_size)


def value_and_gradients(
    encoder: Encoder, loss: Callable[..., Tensor], labels: Tensor | None = None
) -> tuple[float, dict[str, Tensor]]:
    encoder.model.zero_grad()
    value = loss(features_of(encoder), labels)
    value.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in encoder.model.named_parameters()
        if parameter.grad is not None
    }
    assert gradients
    return value.item(), gradients


def assert_same(
    one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]
) -> None:
    # float32 sums in another order
    assert one[0] == pytest.approx(other[0], rel=1e-4)
    assert one[1].keys() == other[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in other[1].values())
    for name, gradient in other[1].items():
        assert torch.allclose(one[1][name], gradient, rtol=1e-3, atol=2e-5 * largest), name


def scores(encoder: Encoder, features: list[dict[str, Any]], width: int | None = None) -> Tensor:
    """(Q, N, B) scores of every query with the n-th document of every query, one at a time."""
    outputs = [encoder.model(dict(each), task=each["task"]) for each in features]
    table = []
    for query in range(len(QUERIES)):
        for column in outputs[1:]:
            for document in range(len(QUERIES)):
                table.append(_score(encoder, outputs[0], query, column, document, width))
    return torch.stack(table).view(len(QUERIES), len(outputs) - 1, len(QUERIES))


def _score(
    encoder: Encoder, queries: Any, query: int, documents: Any, document: int, width: int | None
) -> Tensor:
    def vectors(output: Any, row: int) -> Tensor:
        if isinstance(encoder, DenseEncoder):
            found = output["sentence_embedding"][row][None]
        else:
            found = output["token_embeddings"][row][output["attention_mask"][row].bool()]
        found = found[:, :width]
        unit: Tensor = found / found.norm(dim=1, keepdim=True)
        return unit

    similar = vectors(queries, query) @ vectors(documents, document).T
    best: Tensor = similar.max(dim=1).values.sum()
    return best
