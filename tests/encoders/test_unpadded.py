"""Sentence Transformers' own training, with and without padding: the same losses and models."""

from __future__ import annotations

import copy
import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sentence_transformers import (
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.multi_vector_encoder import losses as multi_vector_losses
from sentence_transformers.sentence_transformer import losses as dense_losses
from torch import Tensor

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.encoders.unpadded import unpadded

TOLERANCE = 1e-5  # float32; padding moves a state by some 1e-7
LOSS_TOLERANCE = 1e-3  # after 20 steps, each of which adds to the difference
KINDS = ["dense", "expanded", "attending", "unexpanded"]
TEXTS = ["read a file", "", "def f(x):\n    return x", "the path of a folder " * 9, "a"]
WORDS = ["file", "path", "read", "folder", "return", "def", "f(x)", "(or", "the", "of"]


def make(kind: str, backbone: Path, **settings: Any) -> Any:
    """A Sentence Transformers model; `settings` go into the backbone's configuration."""
    if kind == "dense":
        model: Any = DenseEncoder.from_backbone(backbone, query_prefix="find: ").model
    else:
        model = MultiVectorEncoder.from_backbone(
            backbone,
            width=16,
            query_length=12,
            document_length=60,
            query_expansion=kind != "unexpanded",
            attend_to_expansion=kind == "attending",
        ).model
    transformer = model[0]
    if settings:
        model_class: Any = type(transformer.auto_model)
        config = copy.deepcopy(transformer.auto_model.config)
        config.update(settings)
        other = model_class(config)
        other.load_state_dict(transformer.auto_model.state_dict())
        transformer.model = other
    return model


def states(model: Any, task: str) -> dict[str, Any]:
    features = model.preprocess(TEXTS, prompt=model.prompts[task], task=task)
    out: dict[str, Any] = model(features, task=task)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize("training", [False, True])
def test_every_modules_output_is_that_of_the_padded_forward(
    tiny_backbone: Path, kind: str, task: str, training: bool
) -> None:
    model = make(kind, tiny_backbone).train(training)
    with torch.set_grad_enabled(training):
        expected = states(model, task)
        with unpadded(model) as is_unpadded:
            found = states(model, task)
    assert is_unpadded
    assert found.keys() == expected.keys()
    if kind == "dense":
        torch.testing.assert_close(
            found["sentence_embedding"], expected["sentence_embedding"], atol=TOLERANCE, rtol=0
        )
    is_scored = expected["attention_mask"].bool()
    assert torch.equal(found["attention_mask"].bool(), is_scored)
    for each in (found, expected):
        assert each["token_embeddings"].shape[:2] == is_scored.shape
    torch.testing.assert_close(
        found["token_embeddings"][is_scored],
        expected["token_embeddings"][is_scored],
        atol=TOLERANCE,
        rtol=0,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_padded_forward(
    tiny_backbone: Path, kind: str, checkpointing: bool
) -> None:
    model = make(kind, tiny_backbone).train()
    weights: dict[str, Tensor] = {}

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        name = "sentence_embedding" if kind == "dense" else "token_embeddings"
        total = torch.zeros(())
        for task in ("query", "document"):
            out = states(model, task)
            kept = out[name] if kind == "dense" else out[name][out["attention_mask"].bool()]
            weights.setdefault(task, torch.randn(kept.shape))
            total = total + (kept * weights[task]).sum()
        torch.autograd.backward(total)
        return {name: each.grad.clone() for name, each in model.named_parameters()}

    expected = gradients()
    for layer in model[0].auto_model.layers:
        layer.gradient_checkpointing = checkpointing
    with unpadded(model):
        found = gradients()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) < 1e-4, name


def train(model: Any, output: Path, *, is_unpadded: bool, is_cached: bool = False) -> list[float]:
    """Twenty steps of the library's own trainer; the losses of all steps."""
    is_dense = isinstance(model, SentenceTransformer)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(160):
        words = generator.choice(WORDS, int(generator.integers(2, 40)))
        rows.append({"query": f"{words[0]} {words[1]} {number}", "positive": " ".join(words)})
    trainer_class: Any = SentenceTransformerTrainer if is_dense else MultiVectorEncoderTrainer
    arguments_class: Any = (
        SentenceTransformerTrainingArguments if is_dense else MultiVectorEncoderTrainingArguments
    )
    losses: Any = dense_losses if is_dense else multi_vector_losses
    name = "MultipleNegativesRankingLoss"
    name = name if is_dense else f"MultiVector{name}"
    options: dict[str, Any] = {"mini_batch_size": 3} if is_cached else {}
    trainer = trainer_class(
        model=model,
        args=arguments_class(
            output_dir=str(output),
            max_steps=20,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            use_cpu=True,
            logging_steps=1,
            save_steps=20,
            report_to="none",
            router_mapping={"query": "query", "positive": "document"},
            prompts={
                column: model.prompts[task]
                for column, task in (("query", "query"), ("positive", "document"))
                if model.prompts[task]
            },
        ),
        train_dataset=Dataset.from_list(rows),
        loss=getattr(losses, f"Cached{name}" if is_cached else name)(model, **options),
    )
    with unpadded(model) if is_unpadded else nullcontext():
        trainer.train()
    return [each["loss"] for each in trainer.state.log_history if "loss" in each]


@pytest.mark.parametrize(
    ("kind", "is_cached"),
    [("dense", False), ("dense", True), ("expanded", False), ("expanded", True),
     ("attending", False)],
)  # fmt: skip
def test_twenty_steps_of_the_trainer_give_the_same_losses_and_checkpoint(
    tiny_backbone: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    is_cached: bool,
) -> None:
    losses: dict[str, list[float]] = {}
    for name in ("padded", "unpadded"):
        model = make(kind, tiny_backbone)
        with caplog.at_level(logging.WARNING, logger="retrieval"):
            losses[name] = train(
                model, tmp_path / name, is_unpadded=name == "unpadded", is_cached=is_cached
            )
    assert len(losses["padded"]) == 20
    assert losses["unpadded"] == pytest.approx(losses["padded"], abs=LOSS_TOLERANCE)
    assert np.mean(losses["unpadded"][-5:]) < np.mean(losses["unpadded"][:5])
    assert not [each for each in caplog.records if "padding" in each.getMessage()]
    saved = [tmp_path / name / "checkpoint-20" for name in losses]
    first, second = (sorted(path.relative_to(each) for path in each.rglob("*")) for each in saved)
    assert first == second
    assert {Path("model.safetensors"), Path("modules.json"), Path("config.json")} <= set(first)
    for path in first:
        if path.name == "model.safetensors":
            padded, found = (load_file(each / path) for each in saved)
            assert padded.keys() == found.keys()
        if path.name in ("modules.json", "config.json"):
            padded, found = (json.loads((each / path).read_text()) for each in saved)
            assert padded == found


def test_a_cached_loss_replays_the_dropout_of_its_first_pass(tiny_backbone: Path) -> None:
    model = make("dense", tiny_backbone, attention_dropout=0.2, mlp_dropout=0.2).train()
    loss = dense_losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    columns = [
        model.preprocess(TEXTS[:4], prompt=model.prompts[task], task=task)
        for task in ("query", "document")
    ]
    outputs: list[Tensor] = []
    model[1].register_forward_hook(
        lambda _, __, out: outputs.append(out["sentence_embedding"].detach().clone())
    )
    with unpadded(model):
        torch.autograd.backward(loss(columns, None))
    first, second = outputs[:4], outputs[4:]
    assert len(second) == 4
    assert all(map(torch.equal, first, second))
    with unpadded(model):
        other = model(dict(columns[0]))["sentence_embedding"]
    assert not torch.allclose(other[:2], first[0], atol=1e-3)


@pytest.mark.parametrize("kind", ["dense", "expanded"])
def test_autocast_and_checkpointing_work_together(tiny_backbone: Path, kind: str) -> None:
    model = make(kind, tiny_backbone).train()
    expected = states(model, "query")["token_embeddings"].detach()
    for layer in model[0].auto_model.layers:
        layer.gradient_checkpointing = True
    with unpadded(model), torch.autocast("cpu", torch.bfloat16):
        out = states(model, "query")
    kept = out["attention_mask"].bool()
    found = out["token_embeddings"][kept]
    cosines = torch.cosine_similarity(found.double(), expected[kept].double(), dim=-1)
    assert float(cosines.detach().min()) >= 0.999
    torch.autograd.backward(found.float().sum())
    assert all(torch.isfinite(each.grad).all() for each in model.parameters())


def test_the_models_own_forward_comes_back(tiny_backbone: Path) -> None:
    model = make("dense", tiny_backbone)
    keys = list(model.state_dict())
    with unpadded(model):
        assert "forward" in vars(model[0])
        assert list(model.state_dict()) == keys
    assert "forward" not in vars(model[0])
    with pytest.raises(KeyError), unpadded(model):
        model({"modality": "song"})
    assert "forward" not in vars(model[0])


def test_a_copy_made_meanwhile_runs_with_its_own_weights(tiny_backbone: Path) -> None:
    model = make("dense", tiny_backbone).eval()
    with unpadded(model), torch.no_grad():
        before = states(model, "query")["sentence_embedding"]
        other = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.mul_(1.5)
        torch.testing.assert_close(
            states(other, "query")["sentence_embedding"], before, atol=TOLERANCE, rtol=0
        )
        assert (states(model, "query")["sentence_embedding"] - before).abs().max() > 1e-3


def test_another_backbone_is_left_alone(minilm_path: Path) -> None:
    model = SentenceTransformer(str(minilm_path), device="cpu")
    with unpadded(model) as is_unpadded:
        assert not is_unpadded
        assert "forward" not in vars(model[0])


def test_what_the_packed_forward_does_not_know_runs_padded_and_is_said_once(
    tiny_backbone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make("dense", tiny_backbone).eval()
    right = model.preprocess(TEXTS)
    left = {**right, **{key: right[key].flip(1) for key in ("input_ids", "attention_mask")}}
    placed = {**right, "position_ids": torch.arange(right["input_ids"].shape[1])[None]}
    with torch.no_grad(), caplog.at_level(logging.WARNING, logger="retrieval"):
        for features in (left, placed):
            expected = model(dict(features))["token_embeddings"]
            with unpadded(model):
                for _ in range(2):
                    assert torch.equal(model(dict(features))["token_embeddings"], expected)
            assert len([each for each in caplog.records if "their padding" in each.message]) == 1
            caplog.clear()
