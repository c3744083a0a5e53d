"""Training runs: they learn, repeat themselves, refuse what can't work, and stop at NaN."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.backbone.modernbert import PackedModernBert
from retrieval.backbone.packing import PackedBatch
from retrieval.config import from_mapping, read_recipe
from retrieval.errors import ConfigError, RetrievalError
from retrieval.scoring import dot, maxsim
from retrieval.training.examples import DataSettings
from retrieval.training.fitting import OptimizerSettings
from retrieval.training.loss_settings import MultiVectorLossSettings
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings

WORDS = ["file", "path", "read", "folder", "return", "def", "f(x)", "(or", "the", "of"]
QUICK = OptimizerSettings(
    epochs=6, batch_size=10, mini_batch_size=5, lr=3e-3, precision="float32", log_every=1
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each query asks for the document with its word: learnt in a moment."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    records = [{"query": word, "positive": f"{word} {word} {word}"} for word in WORDS] * 2
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


@pytest.fixture
def dense_recipe(pairs: Path, tiny_backbone: Path) -> DenseRecipe:
    model = DenseModelSettings(backbone=str(tiny_backbone), document_length=32)
    return DenseRecipe(model=model, data=DataSettings(train=(str(pairs),)), optimizer=QUICK)


@pytest.fixture
def colbert_recipe(pairs: Path, tiny_backbone: Path) -> MultiVectorRecipe:
    model = MultiVectorModelSettings(
        backbone=str(tiny_backbone), width=16, query_length=8, document_length=32
    )
    data = DataSettings(train=(str(pairs),))
    return MultiVectorRecipe(model=model, data=data, optimizer=QUICK)


def margin(encoder: DenseEncoder | MultiVectorEncoder) -> float:
    """How far a query's own document is ahead of the others' mean, in deviations."""
    queries: Any = list(encoder.encode_queries(WORDS))
    documents: Any = list(encoder.encode_documents([f"{word} {word} {word}" for word in WORDS]))
    if encoder.is_multi_vector:
        scores = maxsim(queries, documents)
    else:
        scores = dot(np.stack(queries), np.stack(documents))
    own = np.diag(scores)
    return float(((own - scores.mean(axis=1)) / scores.std(axis=1)).mean())


def test_contrastive_training_brings_pairs_together(
    dense_recipe: DenseRecipe, colbert_recipe: MultiVectorRecipe, tmp_path: Path
) -> None:
    before = margin(DenseEncoder.from_backbone(dense_recipe.model.backbone))
    assert margin(train_dense(dense_recipe, tmp_path / "dense")) > before + 0.2
    start = MultiVectorEncoder.from_backbone(colbert_recipe.model.backbone, width=16)
    assert margin(train_multi_vector(colbert_recipe, tmp_path / "colbert")) > margin(start)


def test_the_saved_model_is_the_trained_one_and_the_recipe_repeats_it(
    dense_recipe: DenseRecipe, tmp_path: Path
) -> None:
    first = train_dense(dense_recipe, tmp_path / "first")
    loaded = DenseEncoder.load(tmp_path / "first" / "model")
    assert loaded.reference.fingerprint == first.reference.fingerprint
    saved = read_recipe(tmp_path / "first" / "recipe.json")
    assert from_mapping(DenseRecipe, saved, source="recipe.json") == dense_recipe
    second = train_dense(dense_recipe, tmp_path / "second")
    assert second.reference.fingerprint == first.reference.fingerprint
    other = replace(dense_recipe, optimizer=replace(QUICK, seed=1))
    assert train_dense(other, tmp_path / "third").reference.fingerprint != (
        first.reference.fingerprint
    )


def test_a_cached_batch_gives_the_gradients_of_one_pass(
    dense_recipe: DenseRecipe, tmp_path: Path
) -> None:
    one_step = replace(QUICK, max_steps=1, warmup_fraction=0.0)
    vectors = []
    for mini_batch_size in (3, None):
        optimizer = replace(one_step, mini_batch_size=mini_batch_size)
        encoder = train_dense(
            replace(dense_recipe, optimizer=optimizer), tmp_path / str(mini_batch_size)
        )
        vectors.append(np.stack(list(encoder.encode_queries(WORDS))))
    # Adam's first step is the sign of the gradient, so only components near 0 may differ.
    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-3)


def test_padding_is_dropped_unless_the_recipe_keeps_it(
    dense_recipe: DenseRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []
    original = PackedModernBert.__call__

    def count(self: PackedModernBert, batch: PackedBatch, *wanted: Tensor | None) -> Tensor:
        packed.append(len(batch.lengths))
        return original(self, batch, *wanted)

    monkeypatch.setattr(PackedModernBert, "__call__", count)
    steps = replace(QUICK, max_steps=3, mini_batch_size=None)
    vectors = {}
    for is_unpadded in (True, False):
        recipe = replace(dense_recipe, optimizer=replace(steps, unpadded=is_unpadded))
        encoder = train_dense(recipe, tmp_path / str(is_unpadded))
        assert packed == ([10] * 6 if is_unpadded else [])  # two columns a step
        vectors[is_unpadded] = np.stack(list(encoder.encode_queries(WORDS)))
        packed.clear()
    # Adam's first steps are signs of gradients, so only components near 0 may differ.
    np.testing.assert_allclose(vectors[True], vectors[False], atol=2e-3)


def test_distillation_learns_the_teachers_order(
    colbert_recipe: MultiVectorRecipe, tmp_path: Path
) -> None:
    lines = [
        {"query": word, "documents": [f"{word} {word}", "the of", "def"], "scores": [9, 1, 0]}
        for word in WORDS[:4] * 5
    ]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    recipe = replace(
        colbert_recipe,
        loss=MultiVectorLossSettings(kind="kl_distillation"),
        data=DataSettings(train=(str(path),)),
    )
    encoder = train_multi_vector(recipe, tmp_path / "run")
    queries = list(encoder.encode_queries(WORDS[:4]))
    for word, query in zip(WORDS[:4], queries):
        documents = list(encoder.encode_documents([f"{word} {word}", "the of", "def"]))
        assert maxsim([query], documents)[0].argmax() == 0


def test_nothing_is_overwritten_unless_asked(dense_recipe: DenseRecipe, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("work")
    with pytest.raises(ConfigError, match="not empty"):
        train_dense(dense_recipe, tmp_path)
    train_dense(dense_recipe, tmp_path, overwrite=True, dry_run=True)
    assert (tmp_path / "precious").read_text() == "work"


def test_a_batch_larger_than_the_data_is_refused(dense_recipe: DenseRecipe, tmp_path: Path) -> None:
    large = replace(dense_recipe, optimizer=replace(QUICK, batch_size=64))
    with pytest.raises(ConfigError, match="20 training examples do not fill one batch of 64"):
        train_dense(large, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(dense_recipe: DenseRecipe, tmp_path: Path) -> None:
    hot = replace(dense_recipe, optimizer=replace(QUICK, lr=1e30, warmup_fraction=0.0))
    with pytest.raises(RetrievalError, match=r"the loss is nan at step \d+: lower optimizer.lr"):
        train_dense(hot, tmp_path)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": 0}, {"warmup_fraction": 1.5}])
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        OptimizerSettings(**change)
