"""Each loss against a plain formula: its value, its gradients, in one pass, cached and packed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.encoders.unpadded import unpadded
from retrieval.errors import ConfigError, InputError
from retrieval.training.loss_settings import DenseLossSettings, MultiVectorLossSettings
from tests.training.loss_checks import (
    Encoder,
    assert_same,
    build,
    scores,
    value_and_gradients,
)

TEACHER = torch.tensor([[3.0, 1.0], [0.5, 2.0], [4.0, -1.0]])


@pytest.fixture
def dense(tiny_backbone: Path) -> DenseEncoder:
    return DenseEncoder.from_backbone(tiny_backbone, width=16, query_length=12, document_length=16)


@pytest.fixture
def colbert(tiny_backbone: Path) -> MultiVectorEncoder:
    """Its queries have mask tokens that are scored and not attended to."""
    return MultiVectorEncoder.from_backbone(
        tiny_backbone, width=16, query_length=12, document_length=16
    )


def plain(
    encoder: Encoder,
    kind: str,
    *,
    scale: float = 2.0,
    width: int | None = None,
) -> Callable[..., Tensor]:
    """The formula of a kind of loss, for a batch of three."""

    def formula(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        table = scores(encoder, features, width) * scale
        rows = torch.arange(3)
        if kind == "contrastive":
            flat = table.flatten(1)
            return (flat.logsumexp(1) - flat[rows, rows]).mean()
        own = torch.stack([table[row, :, row] for row in rows])
        assert labels is not None
        if kind == "margin_mse":
            return ((own[:, 0] - own[:, 1]) - (labels[:, 0] - labels[:, 1])).square().mean()
        student, teacher = (own / 0.5).log_softmax(1), (labels / 0.5).log_softmax(1)
        return (teacher.exp() * (teacher - student)).sum(1).mean() * 0.25

    return formula


KINDS: dict[str, dict[str, Any]] = {
    "contrastive": {"scale": 2.0},
    "margin_mse": {"scale": 2.0},
    "kl_distillation": {"scale": 2.0, "temperature": 0.5},
}


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["dense", "colbert"])
def test_a_loss_and_its_gradients_are_the_formulas(
    model: str, kind: str, mini_batch_size: int | None, request: pytest.FixtureRequest
) -> None:
    encoder: Encoder = request.getfixturevalue(model)
    labels = None if kind == "contrastive" else TEACHER
    expected = value_and_gradients(encoder, plain(encoder, kind), labels)
    loss = build(encoder, mini_batch_size, kind=kind, **KINDS[kind])
    assert_same(value_and_gradients(encoder, loss, labels), expected)
    with unpadded(encoder.model) as is_packed:
        assert is_packed
        assert_same(value_and_gradients(encoder, loss, labels), expected)


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["dense", "colbert"])
def test_a_matryoshka_loss_is_the_weighted_sum_over_its_widths(
    model: str, kind: str, mini_batch_size: int | None, request: pytest.FixtureRequest
) -> None:
    encoder: Encoder = request.getfixturevalue(model)
    labels = None if kind == "contrastive" else TEACHER
    formulas = {width: plain(encoder, kind, width=width) for width in (4, 16)}

    def total(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        return 0.5 * formulas[4](features, labels) + formulas[16](features, labels)

    expected = value_and_gradients(encoder, total, labels)
    widths = {"matryoshka_widths": (4, 16), "matryoshka_weights": (0.5, 1.0)}
    loss = build(encoder, mini_batch_size, kind=kind, **KINDS[kind], **widths)
    assert_same(value_and_gradients(encoder, loss, labels), expected)
    with unpadded(encoder.model):
        assert_same(value_and_gradients(encoder, loss, labels), expected)


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("model", ["dense", "colbert"])
def test_a_matryoshka_loss_of_the_full_width_alone_is_the_plain_loss(
    model: str, mini_batch_size: int | None, request: pytest.FixtureRequest
) -> None:
    encoder: Encoder = request.getfixturevalue(model)
    expected = value_and_gradients(encoder, build(encoder, mini_batch_size, scale=2.0))
    loss = build(encoder, mini_batch_size, scale=2.0, matryoshka_widths=(16,))
    assert_same(value_and_gradients(encoder, loss), expected)


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_a_symmetric_loss_looks_for_queries_too(
    dense: DenseEncoder, mini_batch_size: int | None
) -> None:
    def formula(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        table = scores(dense, features) * 2.0
        rows = torch.arange(3)
        forward = table.flatten(1).logsumexp(1)
        backward = table[:, 0].logsumexp(0)
        return ((forward + backward) / 2 - table[rows, 0, rows]).mean()

    loss = build(dense, mini_batch_size, scale=2.0, is_symmetric=True)
    assert_same(value_and_gradients(dense, loss), value_and_gradients(dense, formula))


def test_hardness_adds_a_negatives_similarity_to_its_logit(dense: DenseEncoder) -> None:
    def formula(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        table = scores(dense, features)
        rows = torch.arange(3)
        logits = table * 2.0 + 5.0 * table.detach()
        logits[rows, 0, rows] = table[rows, 0, rows] * 2.0
        return (logits.flatten(1).logsumexp(1) - logits[rows, 0, rows]).mean()

    loss = build(dense, None, scale=2.0, hardness=5.0)
    assert_same(value_and_gradients(dense, loss), value_and_gradients(dense, formula))


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_xtr_scores_with_the_best_tokens_of_the_batch_alone(
    colbert: MultiVectorEncoder, mini_batch_size: int | None
) -> None:
    top_k = 7

    def formula(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        outputs = [colbert.model(dict(each), task=each["task"]) for each in features]

        def tokens(output: Any, row: int) -> Tensor:
            kept: Tensor = output["token_embeddings"][row][output["attention_mask"][row].bool()]
            return kept

        documents = [tokens(output, row) for output in outputs[1:] for row in range(3)]
        losses = []
        for row in range(3):
            similar = [tokens(outputs[0], row) @ document.T for document in documents]
            threshold = torch.cat(similar, dim=1).topk(top_k, dim=1).values[:, -1:]
            totals = []
            for each in similar:
                is_in = each >= threshold
                best = each.masked_fill(~is_in, -torch.inf).max(dim=1).values
                found = is_in.any(dim=1)
                totals.append(best[found].sum() / max(int(found.sum()), 1))
            logits = torch.stack(totals) * 3.0
            losses.append(logits.logsumexp(0) - logits[row])
        return torch.stack(losses).mean()

    loss = build(colbert, mini_batch_size, scale=3.0, scoring="xtr", xtr_top_k=top_k)
    expected = value_and_gradients(colbert, formula)
    assert_same(value_and_gradients(colbert, loss), expected)
    with unpadded(colbert.model):
        assert_same(value_and_gradients(colbert, loss), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.0}, "loss.scale is 0.0"),
        ({"kind": "embedding_distillation"}, "needs a teacher"),
        ({"teacher": "folder"}, "no other kind reads it"),
        ({"kind": "margin_mse", "false_negative_margin": 0.1}, "is for 'contrastive'"),
        ({"false_negative_guide": "folder"}, "needs loss.false_negative_margin"),
        ({"matryoshka_widths": (8, 8)}, "expected different ones"),
        ({"matryoshka_widths": (8,), "matryoshka_weights": (1.0, 2.0)}, "2 loss.matryoshka_weig"),
    ],
)
@pytest.mark.parametrize("kind", [DenseLossSettings, MultiVectorLossSettings])
def test_settings_that_contradict_each_other_are_refused(
    kind: type[Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def test_widths_that_the_model_does_not_have_are_refused(colbert: MultiVectorEncoder) -> None:
    for widths in ((4, 8), (16, 32)):
        with pytest.raises(ConfigError, match="have 16 components: name 16 and smaller ones"):
            build(colbert, None, matryoshka_widths=widths)


def test_data_that_lack_what_a_loss_reads_are_refused_by_the_columns_name() -> None:
    distillation = MultiVectorLossSettings(kind="kl_distillation")
    with pytest.raises(InputError, match="no 'scores' beside"):
        distillation.check_columns(["query", "positive", "negative"])
    with pytest.raises(InputError, match="at least 2 documents"):
        distillation.check_columns(["query", "document_1", "label"])
    hard = DenseLossSettings(hardness=5.0, hardness_of="hard_negatives")
    with pytest.raises(InputError, match="weights a 'negative' column"):
        hard.check_columns(["query", "positive"])
    hard.check_columns(["query", "positive", "negative"])
