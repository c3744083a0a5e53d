"""Small runs with dropout, for the tests of what a run survives."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.training.examples import DataSettings
from retrieval.training.fitting import OptimizerSettings
from retrieval.training.loss_settings import MultiVectorLossSettings
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings

Kind = Literal["dense", "colbert", "distilled"]
STEPS = 12


@pytest.fixture(scope="session")
def dropout_backbone(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny backbone, with dropout wherever a ModernBERT has it."""
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path_factory.mktemp("dropout")
    rates = {"embedding_dropout": 0.1, "mlp_dropout": 0.1, "attention_dropout": 0.1}
    AutoModel.from_pretrained(tiny_backbone, **rates).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def many_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pairs of varying length, a few of them with the same document."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    records = [
        {"query": f"read f{n}", "positive": f"def f{n % 37}(x): " + "return x " * (n % 5)}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


@pytest.fixture(scope="session")
def teacher_scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 queries with three scored documents each."""
    path = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    records = [
        {
            "query": f"read f{n}",
            "documents": [f"def f{n}(x)", "the path " * (1 + n % 4), f"folder {n}"],
            "scores": [9.0, n % 3, 1.0],
        }
        for n in range(24)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


@dataclass(frozen=True)
class SmallRuns:
    """Makes and trains small recipes: 12 steps, over two epochs and a half of the pairs."""

    backbone: Path
    pairs: Path
    scores: Path

    def recipe(self, kind: Kind, **optimizer: Any) -> DenseRecipe | MultiVectorRecipe:
        settings = OptimizerSettings(
            max_steps=STEPS,
            batch_size=8,
            mini_batch_size=4,
            lr=1e-3,
            precision="float32",
            log_every=1,
            checkpoint_every=5,
        )
        settings = replace(settings, **optimizer)
        backbone = str(self.backbone)
        if kind == "dense":
            dense = DenseModelSettings(backbone=backbone, document_length=32)
            data = DataSettings(train=(str(self.pairs),))
            return DenseRecipe(model=dense, data=data, optimizer=settings)
        model = MultiVectorModelSettings(
            backbone=backbone, width=16, query_length=8, document_length=32
        )
        source = self.scores if kind == "distilled" else self.pairs
        loss = MultiVectorLossSettings(
            kind="kl_distillation" if kind == "distilled" else "contrastive"
        )
        data = DataSettings(train=(str(source),))
        return MultiVectorRecipe(model=model, data=data, loss=loss, optimizer=settings)

    def train(
        self, recipe: DenseRecipe | MultiVectorRecipe, output: Path, **options: Any
    ) -> DenseEncoder | MultiVectorEncoder:
        if isinstance(recipe, DenseRecipe):
            return train_dense(recipe, output, **options)
        return train_multi_vector(recipe, output, **options)


@pytest.fixture
def small_runs(dropout_backbone: Path, many_pairs: Path, teacher_scores: Path) -> SmallRuns:
    return SmallRuns(dropout_backbone, many_pairs, teacher_scores)


def curve(output: Path, key: str = "loss") -> dict[int, float]:
    """What `log.jsonl` says of `key`, by step."""
    lines = (output / "log.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {record["step"]: record[key] for record in records if key in record}


def weights(output: Path) -> dict[str, bytes]:
    """The bytes of every file of weights of a run's model."""
    files = sorted((output / "model").rglob("*.safetensors"))
    return {str(path.relative_to(output)): path.read_bytes() for path in files}
