"""LoRA: adapters are trained and nothing bypasses them, and what is saved has none."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.encoders.unpadded import unpadded
from retrieval.errors import ConfigError
from retrieval.training.adapters import LoraSettings, add_adapter, merge_adapter
from retrieval.training.examples import DataSettings
from retrieval.training.fitting import OptimizerSettings
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings
from tests.training.loss_checks import Encoder, assert_same, build, value_and_gradients

pytest.importorskip("peft", reason="needs the extra lora")

TEXTS = ["read a file", "the path of a folder", "def f(x)"]


@pytest.fixture(params=["dense", "colbert"])
def adapted(tiny_backbone: Path, request: pytest.FixtureRequest) -> Encoder:
    """An encoder whose adapters change what it says: untrained ones add nothing."""
    encoder: Encoder = (
        DenseEncoder.from_backbone(tiny_backbone, width=16, document_length=16)
        if request.param == "dense"
        else MultiVectorEncoder.from_backbone(
            tiny_backbone, width=16, query_length=12, document_length=16
        )
    )
    add_adapter(encoder.model, LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return encoder


def vectors(encoder: Encoder) -> Any:
    return np.concatenate([np.atleast_2d(each) for each in encoder.encode_documents(TEXTS)])


def test_only_adapters_and_what_follows_the_backbone_are_trained(adapted: Encoder) -> None:
    _, gradients = value_and_gradients(adapted, build(adapted, None))
    backbone = {name for name in gradients if name.startswith("0.")}
    # two factors for each of four linear layers in three blocks
    assert len(backbone) == 24
    assert all("lora_" in name for name in backbone)
    assert gradients.keys() - backbone == {"2.linear.weight"} or gradients.keys() - backbone == {
        "1.linear.weight"
    }


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_packed_and_padded_training_agree_with_an_adapter(
    adapted: Encoder, mini_batch_size: int | None
) -> None:
    loss = build(adapted, mini_batch_size)
    found = []
    for way in (nullcontext(), unpadded(adapted.model)):
        with way:
            found.append(value_and_gradients(adapted, loss))
    assert_same(found[1], found[0])


def test_encoding_sees_the_adapter_and_merging_keeps_its_vectors(
    adapted: Encoder, tiny_backbone: Path, tmp_path: Path
) -> None:
    with_adapter = vectors(adapted)
    backbone: Any = adapted.model[0].auto_model
    backbone.disable_adapters()
    assert np.abs(with_adapter - vectors(adapted)).max() > 0.01
    backbone.enable_adapters()
    merge_adapter(adapted.model)
    # float32 weights that were added up before the product, not after it
    np.testing.assert_allclose(vectors(adapted), with_adapter, atol=1e-5)
    adapted.save(tmp_path / "model")
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    loaded = type(adapted).load(tmp_path / "model")
    np.testing.assert_array_equal(vectors(loaded), vectors(adapted))
    assert loaded.reference.fingerprint == adapted.reference.fingerprint


@pytest.mark.parametrize("is_dense", [True, False])
def test_a_run_with_an_adapter_saves_a_model_that_learnt_and_has_none(
    tiny_backbone: Path, tmp_path: Path, is_dense: bool
) -> None:
    lines = [{"query": text, "positive": f"{text} {n}"} for n in range(4) for text in TEXTS]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    settings: dict[str, Any] = {
        "data": DataSettings(train=(str(data),)),
        "optimizer": OptimizerSettings(max_steps=3, batch_size=3, lr=1e-2, precision="float32"),
    }
    lora = LoraSettings(rank=2, dropout=0.1)
    name = str(tiny_backbone)
    encoder: Encoder
    if is_dense:
        start = DenseEncoder.from_backbone(name)
        model = DenseModelSettings(backbone=name, lora=lora)
        encoder = train_dense(DenseRecipe(model=model, **settings), tmp_path / "run")
    else:
        start = MultiVectorEncoder.from_backbone(name, width=16)  # type: ignore[assignment]
        colbert = MultiVectorModelSettings(backbone=name, width=16, lora=lora)
        encoder = train_multi_vector(MultiVectorRecipe(model=colbert, **settings), tmp_path / "run")
    loaded = type(encoder).load(tmp_path / "run" / "model")
    before, after = start.model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert "0.model.layers.0.attn.Wqkv.weight" in changed
    assert "0.model.embeddings.tok_embeddings.weight" not in changed


def test_layers_that_the_backbone_does_not_have_are_refused(tiny_backbone: Path) -> None:
    model = DenseEncoder.from_backbone(tiny_backbone).model
    with pytest.raises(ConfigError, match=r"no layers \['q_proj'\]; it has .*'Wqkv'"):
        add_adapter(model, LoraSettings(target_modules=("q_proj", "Wo")), seed=0)
