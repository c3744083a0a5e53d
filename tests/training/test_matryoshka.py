"""Short vectors of a Matryoshka model find what those of a plain one don't."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.scoring import cosine, maxsim
from retrieval.training.examples import DataSettings
from retrieval.training.fitting import OptimizerSettings
from retrieval.training.loss_settings import DenseLossSettings, MultiVectorLossSettings
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings

WORDS = [f"{first} {second}" for first in ["read", "path", "file", "def"] for second in "abcdefgh"]
WIDTHS = (2, 16)


def reciprocal_rank(model: Path, *, is_dense: bool) -> float:
    """The mean over WORDS, at the smallest width."""
    encoder: Any = (DenseEncoder if is_dense else MultiVectorEncoder).load(model, width=WIDTHS[0])
    queries = list(encoder.encode_queries(WORDS))
    documents = list(encoder.encode_documents([f"{word} {word}" for word in WORDS]))
    table = (
        cosine(np.stack(queries), np.stack(documents)) if is_dense else maxsim(queries, documents)
    )
    own = np.diag(table)[:, None]
    return float((1 / (1 + (table > own).sum(axis=1))).mean())


@pytest.mark.parametrize("is_dense", [True, False])
def test_cut_vectors_retrieve_better_after_matryoshka_training(
    is_dense: bool, tiny_backbone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"query": word, "positive": f"{word} {word}"}) for word in WORDS]
    path.write_text("\n".join(lines), "utf-8")
    backbone = str(tiny_backbone)
    settings: dict[str, Any] = {
        "data": DataSettings(train=(str(path),)),
        "optimizer": OptimizerSettings(
            epochs=30, batch_size=32, mini_batch_size=16, lr=5e-3, precision="float32"
        ),
    }
    ranks = []
    for widths in ((), WIDTHS):
        folder = tmp_path / f"run{len(widths)}"
        if is_dense:
            loss = DenseLossSettings(matryoshka_widths=widths)
            model = DenseModelSettings(backbone=backbone, width=WIDTHS[-1])
            train_dense(DenseRecipe(model=model, loss=loss, **settings), folder)
        else:
            colbert = MultiVectorRecipe(
                model=MultiVectorModelSettings(
                    backbone=backbone, width=WIDTHS[-1], query_length=8, document_length=16
                ),
                loss=MultiVectorLossSettings(scale=4.0),
                **settings,
            )
            loss_settings = replace(colbert.loss, matryoshka_widths=widths)
            train_multi_vector(replace(colbert, loss=loss_settings), folder)
        ranks.append(reciprocal_rank(folder / "model", is_dense=is_dense))
    assert ranks[1] > ranks[0] + 0.1
