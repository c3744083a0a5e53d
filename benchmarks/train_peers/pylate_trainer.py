"""PyLate 1.6 as its documentation trains: Sentence Transformers 5.3's trainer with its collator."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from pylate.losses import Contrastive
from pylate.models import ColBERT
from pylate.utils import ColBERTCollator
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sampler import NoDuplicatesBatchSampler
from worker import Run, serve


def train(run: Run) -> None:
    """Its collator pads documents to the model's limit."""
    model = ColBERT(run.model)

    def in_same_order(dataset: Dataset, **options: Any) -> NoDuplicatesBatchSampler:
        # Sentence Transformers 5.3 shuffles by seed 0, whatever the run's is.
        return NoDuplicatesBatchSampler(dataset, **{**options, "seed": run.seed})

    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            **run.arguments | {"batch_sampler": in_same_order}
        ),
        train_dataset=Dataset.from_list(run.rows),
        loss=Contrastive(model=model),
        data_collator=ColBERTCollator(model.tokenize),
    ).train()
    model.save_pretrained(f"{run.output}/model")


if __name__ == "__main__":
    serve(
        train,
        {"colbert": Contrastive},
        ("pylate", "sentence-transformers", "transformers", "torch"),
    )
