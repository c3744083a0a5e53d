"""Another encoder's judgement: negatives left out, vectors and scores learnt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.config import from_mapping
from retrieval.encoders.unpadded import unpadded
from retrieval.errors import ConfigError
from retrieval.scoring import cosine, maxsim
from retrieval.training.batch_teacher import BatchTeacher
from retrieval.training.examples import DataSettings
from retrieval.training.false_negatives import FilteredLoss, FilteredScores
from retrieval.training.fitting import OptimizerSettings
from retrieval.training.loss_settings import DenseLossSettings, MultiVectorLossSettings
from retrieval.training.losses import dense_loss, multi_vector_loss
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings
from tests.training.loss_checks import (
    COLUMNS,
    NEGATIVES,
    POSITIVES,
    QUERIES,
    Encoder,
    assert_same,
    build,
    features_of,
    scores,
    value_and_gradients,
)


@pytest.fixture(scope="module")
def dense(tiny_backbone: Path) -> DenseEncoder:
    return DenseEncoder.from_backbone(tiny_backbone, width=16, query_length=40, document_length=48)


@pytest.fixture(scope="module")
def colbert(tiny_backbone: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder.from_backbone(
        tiny_backbone, width=16, query_length=40, document_length=48
    )


@pytest.fixture(scope="module")
def dense_teacher(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "dense"
    DenseEncoder.from_backbone(tiny_backbone, width=24, seed=7).save(folder)
    return folder


@pytest.fixture(scope="module")
def colbert_teacher(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuts texts into the same tokens as `colbert`."""
    folder = tmp_path_factory.mktemp("teacher") / "colbert"
    MultiVectorEncoder.from_backbone(
        tiny_backbone, width=24, query_length=40, document_length=48, seed=7
    ).save(folder)
    return folder


class Judge:
    """A guide that takes the second query's positive for an answer to the first query too."""

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self._vectors(texts, {QUERIES[0]: 0, QUERIES[1]: 1, QUERIES[2]: 2})

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self._vectors(texts, {POSITIVES[0]: 0, POSITIVES[1]: 3, POSITIVES[2]: 2})

    def _vectors(self, texts: Iterable[str], axes: dict[str, int]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            vector = np.zeros(5, np.float32)
            axis = axes.get(text, 4)
            vector[[0, 1] if axis == 3 else axis] = 1.0
            yield vector


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("widths", [(), (4, 16)])
@pytest.mark.parametrize("model", ["dense", "colbert"])
def test_a_planted_false_negative_has_no_gradient(
    model: str,
    widths: tuple[int, ...],
    mini_batch_size: int | None,
    request: pytest.FixtureRequest,
) -> None:
    encoder: Encoder = request.getfixturevalue(model)
    settings: dict[str, Any] = {"scale": 2.0, "matryoshka_widths": widths}
    loss: Any = build(encoder, mini_batch_size, false_negative_margin=0.5, **settings)
    assert isinstance(loss, FilteredLoss)
    loss._guide = BatchTeacher(Judge(), encoder.model)  # type: ignore[arg-type]

    def formula(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        rows = torch.arange(3)
        total = torch.zeros(())
        for width in widths or (16,):
            table = scores(encoder, features, width) * 2.0
            logits = table.clone()
            logits[0, 0, 1] = -torch.inf  # query 0, the positive of query 1
            total = total + (logits.flatten(1).logsumexp(1) - table[rows, 0, rows]).mean()
        return total

    expected = value_and_gradients(encoder, formula)
    assert_same(value_and_gradients(encoder, loss), expected)
    with unpadded(encoder.model):
        assert_same(value_and_gradients(encoder, loss), expected)


def test_the_filter_is_gistembeds(dense: DenseEncoder, dense_teacher: Path) -> None:
    from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss

    guide = DenseEncoder.load(dense_teacher)
    for rule, margin in (("absolute", 0.01), ("relative", 0.02), ("absolute", -0.05)):
        gist = GISTEmbedLoss(
            dense.model,
            guide.model,
            temperature=0.5,
            margin_strategy=rule,  # type: ignore[arg-type]
            margin=margin,
            contrast_anchors=False,
            contrast_positives=False,
        )
        loss = build(
            dense,
            None,
            scale=2.0,
            false_negative_margin=margin,
            false_negative_rule=rule,
            false_negative_guide=str(dense_teacher),
        )
        assert_same(value_and_gradients(dense, loss), value_and_gradients(dense, gist))


@pytest.mark.parametrize("is_relative", [False, True])
def test_the_model_judges_its_own_negatives_where_there_is_no_guide(is_relative: bool) -> None:
    table = torch.tensor([[2.0, 1.95, 1.0], [5.0, 4.0, 3.7]], requires_grad=True)
    filtered = FilteredScores(
        lambda queries, documents: table[queries[:, 0].long()],
        margin=0.1,
        is_relative=is_relative,
        is_column_major=True,
    )
    filtered.begin(2, 1, None)
    rows = torch.tensor([[0.0], [1.0]])
    found = torch.cat([filtered(row[None], rows) for row in rows])
    # thresholds: 2.0 - 0.1 and 4.0 - 0.1, or 2.0 * 0.9 and 4.0 * 0.9
    left_out = [[False, True, False], [True, False, is_relative]]
    assert found.isinf().tolist() == left_out
    found.masked_fill(found.isinf(), 0.0).sum().backward()  # type: ignore[no-untyped-call]
    assert table.grad is not None
    assert (table.grad == 0).tolist() == left_out


def test_a_teacher_reads_the_texts_of_a_batch_without_the_students_prompts(
    tiny_backbone: Path,
) -> None:
    student = DenseEncoder.from_backbone(
        tiny_backbone, query_prefix="the query: ", document_length=16
    )
    seen: list[str] = []

    class Reader(Judge):
        def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
            seen.extend(texts)
            return super().encode_queries(texts)

    features = student.model.preprocess(QUERIES, prompt="the query: ", task="query")
    BatchTeacher(Reader(), student.model).vectors(features, is_query=True)  # type: ignore[arg-type]
    assert seen == QUERIES


@pytest.mark.parametrize("model", ["dense", "colbert"])
def test_a_teachers_scores_are_the_oracles(model: str, request: pytest.FixtureRequest) -> None:
    encoder: Encoder = request.getfixturevalue(model)
    found = BatchTeacher(encoder, encoder.model).scores(features_of(encoder), gathers=False)
    documents = POSITIVES + NEGATIVES
    queries: Any = list(encoder.encode_queries(QUERIES))
    encoded: Any = list(encoder.encode_documents(documents))
    expected = (
        maxsim(queries, encoded)
        if model == "colbert"
        else cosine(np.stack(queries), np.stack(encoded))
    )
    np.testing.assert_allclose(
        found.transpose(1, 2).flatten(1).numpy(), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_dense_embedding_distillation_is_the_distance_to_the_teachers_vectors(
    dense: DenseEncoder, dense_teacher: Path, distance: str, mini_batch_size: int | None
) -> None:
    teacher = DenseEncoder.load(dense_teacher)
    targets = [
        torch.tensor(np.stack(list(encode(texts))))
        for encode, texts in zip(
            [teacher.encode_queries, teacher.encode_documents, teacher.encode_documents], COLUMNS
        )
    ]
    settings = DenseLossSettings(
        kind="embedding_distillation",
        teacher=str(dense_teacher),
        distance=distance,  # type: ignore[arg-type]
    )
    loss = dense_loss(settings, dense, mini_batch_size)
    (projection,) = [each for each in loss.modules() if getattr(each, "out_features", 0) == 24]

    def formula(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        total = torch.zeros(())
        for column, target in zip(features, targets):
            vectors = projection(dense.model(dict(column))["sentence_embedding"])
            if distance == "mse":
                total = total + (vectors - target).square().mean() / 3
            else:
                total = total + (1 - cosine_similarity(vectors, target)).mean() / 3
        return total

    expected = value_and_gradients(dense, formula)
    assert_same(value_and_gradients(dense, loss), expected)
    with unpadded(dense.model):
        assert_same(value_and_gradients(dense, loss), expected)


def test_a_teacher_with_the_same_tokens_gives_its_token_vectors(
    colbert: MultiVectorEncoder, colbert_teacher: Path
) -> None:
    teacher = MultiVectorEncoder.load(colbert_teacher).model
    settings = MultiVectorLossSettings(kind="embedding_distillation", teacher=str(colbert_teacher))
    loss: Any = multi_vector_loss(settings, colbert, None)
    assert loss.projection.weight.shape == (24, 16)
    assert not any("_teacher" in name for name, _ in loss.named_parameters())

    def formula(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        total = torch.zeros(())
        for column in features:
            with torch.no_grad():
                target = teacher(dict(column), task=column["task"])["token_embeddings"]
            output = colbert.model(dict(column), task=column["task"])
            vectors = loss.projection(output["token_embeddings"])
            places = output["attention_mask"].bool().nonzero().tolist()
            similar = [vectors[n, t] @ target[n, t] / vectors[n, t].norm() for n, t in places]
            total = total + (1 - torch.stack(similar)).mean() / 3
        return total

    expected = value_and_gradients(colbert, formula)
    assert_same(value_and_gradients(colbert, loss), expected)
    with unpadded(colbert.model):
        assert_same(value_and_gradients(colbert, loss), expected)


def test_a_teacher_with_other_tokens_gives_its_scores_within_the_batch(
    colbert: MultiVectorEncoder, dense_teacher: Path
) -> None:
    settings = MultiVectorLossSettings(
        kind="embedding_distillation",
        teacher=str(dense_teacher),
        scale=2.0,
        temperature=0.5,
        teacher_temperature=0.1,
    )
    loss = multi_vector_loss(settings, colbert, None)
    teacher = DenseEncoder.load(dense_teacher)
    targets = torch.tensor(
        cosine(
            np.stack(list(teacher.encode_queries(QUERIES))),
            np.stack(list(teacher.encode_documents(POSITIVES + NEGATIVES))),
        )
    )

    def formula(features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        student = (scores(colbert, features).flatten(1) * 2.0 / 0.5).log_softmax(1)
        wanted = (targets * 2.0 / 0.1).log_softmax(1)
        return (wanted.exp() * (wanted - student)).sum(1).mean() * 0.25

    expected = value_and_gradients(colbert, formula)
    assert_same(value_and_gradients(colbert, loss), expected)
    with unpadded(colbert.model):
        assert_same(value_and_gradients(colbert, loss), expected)


def test_a_dense_model_has_no_multi_vector_teacher(
    dense: DenseEncoder, colbert_teacher: Path
) -> None:
    settings = DenseLossSettings(kind="embedding_distillation", teacher=str(colbert_teacher))
    with pytest.raises(ConfigError, match="name a dense teacher"):
        dense_loss(settings, dense, None)


@pytest.mark.parametrize("model", ["dense", "colbert"])
def test_a_run_brings_the_model_to_its_teacher(
    model: str, tiny_backbone: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{model}_teacher")
    path = tmp_path / "pairs.jsonl"
    texts = [f"{query} {n}" for n in range(6) for query in QUERIES]
    lines = [json.dumps({"query": text, "positive": text[::-1]}) for text in texts]
    path.write_text("\n".join(lines), "utf-8")
    settings: dict[str, Any] = {
        "data": DataSettings(train=(str(path),)),
        "optimizer": OptimizerSettings(
            epochs=8, batch_size=6, mini_batch_size=3, lr=5e-3, precision="float32"
        ),
    }
    wanted = {"kind": "embedding_distillation", "teacher": str(folder)}
    name = str(tiny_backbone)
    start: Encoder
    trained: Encoder
    if model == "dense":
        start = DenseEncoder.from_backbone(name, width=24)
        trained = train_dense(
            DenseRecipe(
                model=DenseModelSettings(backbone=name, width=24),
                loss=from_mapping(DenseLossSettings, wanted, source="test"),
                **settings,
            ),
            tmp_path / "run",
        )
    else:
        start = MultiVectorEncoder.from_backbone(
            name, width=24, query_length=40, document_length=48
        )
        trained = train_multi_vector(
            MultiVectorRecipe(
                model=MultiVectorModelSettings(
                    backbone=name, width=24, query_length=40, document_length=48
                ),
                loss=from_mapping(MultiVectorLossSettings, wanted, source="test"),
                **settings,
            ),
            tmp_path / "run",
        )
    teacher = type(trained).load(folder)

    def nearness(encoder: Encoder) -> float:
        pairs: Any = zip(encoder.encode_queries(texts), teacher.encode_queries(texts))
        return float(np.mean([(one * other).sum(-1).mean() for one, other in pairs]))

    assert nearness(trained) > nearness(start) + 0.2
