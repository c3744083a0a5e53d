"""PyLate 1.6 as its documentation trains: Sentence Transformers 5.3's trainer with its collator."""

from __future__ import annotations

from datasets import Dataset
from pylate.losses import Contrastive
from pylate.models import ColBERT
from pylate.utils import ColBERTCollator
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from worker import Run, serve


def train(run: Run) -> None:
    """Its collator pads documents to the model's limit."""
    model = ColBERT(run.model)
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**run.arguments),
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
