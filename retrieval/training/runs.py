"""A training run: recipe in, checkpoint and the merged recipe out, on Sentence Transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval.config import to_mapping
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import ConfigError, MissingNativeError
from retrieval.files import write_json
from retrieval.training.adapters import merge_adapter
from retrieval.training.examples import read_contrastive, read_distillation
from retrieval.training.fitting import OptimizerSettings, fit
from retrieval.training.losses import dense_loss, multi_vector_loss
from retrieval.training.processes import is_first_process, world_size
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.starting_models import starting_dense, starting_multi_vector

DRY_RUN_STEPS = 2
DRY_RUN_BATCH = 4


def train_dense(
    recipe: DenseRecipe, output: Path, *, overwrite: bool = False, dry_run: bool = False
) -> DenseEncoder:
    """Train a single-vector encoder by the loss of the recipe, alone or under `accelerate`.

    Args:
        recipe: model, data and optimiser.
        output: gets `model/` (a Sentence Transformers checkpoint) and `recipe.json`.
        overwrite: replace what is in `output`.
        dry_run: two steps on a tiny sample, to see that everything fits together.

    Returns:
        The trained encoder.

    Raises:
        ConfigError: `output` is not empty, or the batch is larger than the data.
        InputError: training data that can't be used.
        RetrievalError: the loss became NaN or infinite; the step is named.
        MissingExtraError: the extra `train` is not installed.
    """
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    claim_output(output, overwrite)
    optimizer = _shortened(recipe.optimizer) if dry_run else recipe.optimizer
    encoder = starting_dense(recipe.model, optimizer.seed)
    examples = _examples(recipe, _limit(recipe.data.limit, dry_run))
    loss = dense_loss(recipe.loss, encoder, optimizer.cached_mini_batch_size)
    classes = (SentenceTransformerTrainer, SentenceTransformerTrainingArguments)
    fit(classes, encoder, examples, loss, optimizer, output)
    _save(encoder, recipe, output)
    return encoder


def train_multi_vector(
    recipe: MultiVectorRecipe, output: Path, *, overwrite: bool = False, dry_run: bool = False
) -> MultiVectorEncoder:
    """Train a multi-vector encoder; the rest as `train_dense`.

    Raises:
        MissingNativeError: Sentence Transformers is older than 6.
    """
    try:
        from sentence_transformers import (
            MultiVectorEncoderTrainer,
            MultiVectorEncoderTrainingArguments,
        )
    except ImportError as error:
        raise MissingNativeError(
            "Training a multi-vector model needs sentence-transformers >= 6.0: upgrade it"
        ) from error

    claim_output(output, overwrite)
    optimizer = _shortened(recipe.optimizer) if dry_run else recipe.optimizer
    encoder = starting_multi_vector(recipe.model, optimizer.seed)
    examples = _examples(recipe, _limit(recipe.data.limit, dry_run))
    loss = multi_vector_loss(recipe.loss, encoder, optimizer.cached_mini_batch_size)
    classes = (MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments)
    fit(classes, encoder, examples, loss, optimizer, output)
    _save(encoder, recipe, output)
    return encoder


def claim_output(output: Path, overwrite: bool) -> None:
    """Make sure that a run destroys nothing.

    Raises:
        ConfigError: `output` holds files and `overwrite` is False.
    """
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise ConfigError(f"{output}: not empty (--overwrite replaces what is there)")


def _examples(recipe: DenseRecipe | MultiVectorRecipe, limit: int | None) -> Any:
    """The training examples that the loss reads."""
    read = read_distillation if recipe.loss.reads_scores else read_contrastive
    examples = read(recipe.data.train, limit)
    recipe.loss.check_columns(examples.column_names)
    return examples


def _save(
    encoder: DenseEncoder | MultiVectorEncoder,
    recipe: DenseRecipe | MultiVectorRecipe,
    output: Path,
) -> None:
    """Write the model and the recipe that made it, on the first process only."""
    if recipe.model.lora is not None:
        merge_adapter(encoder.model)
    if is_first_process():
        encoder.save(output / "model")
        write_json(output / "recipe.json", to_mapping(recipe))


def _shortened(optimizer: OptimizerSettings) -> OptimizerSettings:
    return replace(
        optimizer,
        max_steps=DRY_RUN_STEPS,
        batch_size=min(optimizer.batch_size, DRY_RUN_BATCH),
        mini_batch_size=min(optimizer.mini_batch_size or DRY_RUN_BATCH, DRY_RUN_BATCH // 2),
        log_every=1,
        checkpoint_every=None,
    )


def _limit(limit: int | None, dry_run: bool) -> int | None:
    sample = DRY_RUN_STEPS * DRY_RUN_BATCH * world_size()
    return min(limit or sample, sample) if dry_run else limit
