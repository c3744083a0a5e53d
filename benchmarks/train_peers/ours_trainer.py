"""Our own training: a recipe, as the programs in train/ run it."""

from __future__ import annotations

from pathlib import Path

from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from worker import Run, serve

from retrieval.training.examples import DataSettings
from retrieval.training.fitting import OptimizerSettings
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings


def train(run: Run) -> None:
    """By `train_dense` or `train_multi_vector`, a whole batch in one pass as the peers take it."""
    data = DataSettings(train=(run.pairs,))
    optimizer = OptimizerSettings(
        max_steps=run.steps,
        batch_size=run.batch_size,
        mini_batch_size=None,
        lr=run.lr,
        precision="bfloat16" if run.dtype == "bfloat16" else "float32",
        seed=run.seed,
    )
    output = Path(run.output)
    if run.kind == "dense":
        model = DenseModelSettings(backbone=run.model)
        train_dense(DenseRecipe(model=model, data=data, optimizer=optimizer), output)
    else:
        start = MultiVectorModelSettings(backbone=run.model)
        train_multi_vector(MultiVectorRecipe(model=start, data=data, optimizer=optimizer), output)


if __name__ == "__main__":
    serve(
        train,
        {"dense": MultipleNegativesRankingLoss, "colbert": MultiVectorMultipleNegativesRankingLoss},
        ("sentence-transformers", "transformers", "torch"),
    )
