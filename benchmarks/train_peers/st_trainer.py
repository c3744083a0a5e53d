"""Sentence Transformers 6 alone: its trainers, losses and collator."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from sentence_transformers import (
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from worker import Run, serve


def train(run: Run) -> None:
    """With padding."""
    model: Any
    if run.kind == "dense":
        model = SentenceTransformer(run.model)
        loss: Any = MultipleNegativesRankingLoss(model)
        trainer_class, arguments_class = (
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
    else:
        model = MultiVectorEncoder(run.model)
        loss = MultiVectorMultipleNegativesRankingLoss(model)
        trainer_class, arguments_class = (
            MultiVectorEncoderTrainer,
            MultiVectorEncoderTrainingArguments,
        )
    # What makes a query of a query, and of its positive a document.
    tasks = {"query": "query", "positive": "document"}
    prompts = {column: model.prompts.get(task) or "" for column, task in tasks.items()}
    arguments = arguments_class(
        **run.arguments,
        router_mapping=tasks,
        prompts={column: prompt for column, prompt in prompts.items() if prompt} or None,
    )
    data = Dataset.from_list(run.rows)
    trainer_class(model=model, args=arguments, train_dataset=data, loss=loss).train()
    model.save_pretrained(f"{run.output}/model")


if __name__ == "__main__":
    serve(
        train,
        {"dense": MultipleNegativesRankingLoss, "colbert": MultiVectorMultipleNegativesRankingLoss},
        ("sentence-transformers", "transformers", "torch"),
    )
