"""A training run: recipe in, checkpoint and the merged recipe out, on Sentence Transformers."""

from __future__ import annotations

import importlib
import math
import os
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from retrieval.backbone.precision import uses_bfloat16
from retrieval.config import to_mapping
from retrieval.encoders.checkpoints import checkpoint_kind
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.unpadded import unpadded
from retrieval.errors import ConfigError, MissingNativeError, RetrievalError
from retrieval.files import write_json
from retrieval.training.examples import read_contrastive, read_distillation
from retrieval.training.recipes import (
    DenseModelSettings,
    DenseRecipe,
    MultiVectorModelSettings,
    MultiVectorRecipe,
    OptimizerSettings,
)

DRY_RUN_STEPS = 2
DRY_RUN_BATCH = 4


def train_dense(
    recipe: DenseRecipe, output: Path, *, overwrite: bool = False, dry_run: bool = False
) -> DenseEncoder:
    """Train a single-vector encoder with in-batch negatives, alone or under `accelerate`.

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
    encoder = _dense_encoder(recipe.model, optimizer.seed)
    examples = read_contrastive(recipe.data.train, _limit(recipe.data.limit, dry_run))
    losses = _dense_losses()
    options: dict[str, Any] = {"scale": recipe.scale, "gather_across_devices": _world_size() > 1}
    loss = (
        losses.CachedMultipleNegativesRankingLoss(
            encoder.model, mini_batch_size=optimizer.mini_batch_size, **options
        )
        if optimizer.is_cached
        else losses.MultipleNegativesRankingLoss(encoder.model, **options)
    )
    classes = (SentenceTransformerTrainer, SentenceTransformerTrainingArguments)
    _fit(classes, encoder, examples, loss, optimizer, output)
    _save(encoder, recipe, output)
    return encoder


def train_multi_vector(
    recipe: MultiVectorRecipe, output: Path, *, overwrite: bool = False, dry_run: bool = False
) -> MultiVectorEncoder:
    """Train a ColBERT by in-batch negatives or by a teacher's scores; the rest as `train_dense`.

    Raises:
        MissingNativeError: Sentence Transformers is older than 6.
    """
    try:
        from sentence_transformers import (
            MultiVectorEncoderTrainer,
            MultiVectorEncoderTrainingArguments,
        )
        from sentence_transformers.multi_vector_encoder import losses
    except ImportError as error:
        raise MissingNativeError(
            "Training a multi-vector model needs sentence-transformers >= 6.0: upgrade it"
        ) from error

    claim_output(output, overwrite)
    optimizer = _shortened(recipe.optimizer) if dry_run else recipe.optimizer
    encoder = _multi_vector_encoder(recipe.model, optimizer.seed)
    limit = _limit(recipe.data.limit, dry_run)
    options: dict[str, Any] = {"scale": recipe.scale, "gather_across_devices": _world_size() > 1}
    loss: torch.nn.Module
    if recipe.loss == "distillation":
        examples = read_distillation(recipe.data.train, limit)
        loss = losses.MultiVectorDistillKLDivLoss(
            encoder.model,
            temperature=recipe.temperature,
            mini_batch_size=optimizer.mini_batch_size,
        )
    else:
        examples = read_contrastive(recipe.data.train, limit)
        loss = (
            losses.CachedMultiVectorMultipleNegativesRankingLoss(
                encoder.model, mini_batch_size=optimizer.mini_batch_size or 0, **options
            )
            if optimizer.is_cached
            else losses.MultiVectorMultipleNegativesRankingLoss(encoder.model, **options)
        )
    classes = (MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments)
    _fit(classes, encoder, examples, loss, optimizer, output)
    _save(encoder, recipe, output)
    return encoder


def claim_output(output: Path, overwrite: bool) -> None:
    """Make sure that a run destroys nothing.

    Raises:
        ConfigError: `output` holds files and `overwrite` is False.
    """
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise ConfigError(f"{output}: not empty (--overwrite replaces what is there)")


def _dense_encoder(model: DenseModelSettings, seed: int) -> DenseEncoder:
    if checkpoint_kind(model.backbone) == "dense":
        return DenseEncoder.load(model.backbone)
    settings = asdict(model)
    return DenseEncoder.from_backbone(settings.pop("backbone"), **settings, seed=seed)


def _multi_vector_encoder(model: MultiVectorModelSettings, seed: int) -> MultiVectorEncoder:
    if checkpoint_kind(model.backbone) == "multi_vector":
        return MultiVectorEncoder.load(model.backbone)
    settings = asdict(model)
    return MultiVectorEncoder.from_backbone(settings.pop("backbone"), **settings, seed=seed)


def _dense_losses() -> Any:
    """The losses' module, which moved in Sentence Transformers 6."""
    try:
        return importlib.import_module("sentence_transformers.sentence_transformer.losses")
    except ImportError:
        return importlib.import_module("sentence_transformers.losses")


def _fit(
    classes: tuple[Any, Any],
    encoder: DenseEncoder | MultiVectorEncoder,
    examples: Any,
    loss: torch.nn.Module,
    optimizer: OptimizerSettings,
    output: Path,
) -> None:
    """Run the trainer class of `classes` with arguments of the other."""
    trainer_class, arguments_class = classes
    smallest = optimizer.batch_size * _world_size()
    if len(examples) < smallest:
        raise ConfigError(
            f"{len(examples)} training examples do not fill one batch of {smallest}: lower "
            "optimizer.batch_size"
        )
    tasks = {
        column: "query" if column == "query" else "document"
        for column in examples.column_names
        if column != "label"
    }
    prompts = {column: encoder.model.prompts.get(task) or "" for column, task in tasks.items()}
    device = encoder.model.device.type
    checkpoints = optimizer.checkpoint_every
    arguments = arguments_class(
        output_dir=str(output / "checkpoints"),
        num_train_epochs=optimizer.epochs,
        max_steps=optimizer.max_steps or -1,
        per_device_train_batch_size=optimizer.batch_size,
        learning_rate=optimizer.lr,
        # A fraction below 1 is a share of all steps.
        warmup_steps=optimizer.warmup_fraction,
        weight_decay=optimizer.weight_decay,
        lr_scheduler_type=optimizer.schedule,
        bf16=uses_bfloat16(optimizer.precision, device),
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and _world_size() > 1 else None,
        seed=optimizer.seed,
        # A positive that comes twice in a batch would be its own negative.
        batch_sampler="no_duplicates",
        dataloader_drop_last=True,
        logging_steps=optimizer.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps" if checkpoints else "no",
        save_steps=checkpoints or 500,
        save_total_limit=2,
        report_to="none",
        # Tells each column's task, and with it the length that its texts are cut to.
        router_mapping=tasks,
        prompts={column: prompt for column, prompt in prompts.items() if prompt} or None,
    )
    trainer = trainer_class(
        model=encoder.model,
        args=arguments,
        train_dataset=examples,
        loss=loss,
        callbacks=[_stop_at_nan()],
    )
    with unpadded(encoder.model) if optimizer.unpadded else nullcontext():
        trainer.train()
    encoder.model.eval()


def _save(
    encoder: DenseEncoder | MultiVectorEncoder,
    recipe: DenseRecipe | MultiVectorRecipe,
    output: Path,
) -> None:
    """Write the model and the recipe that made it, on the first process only."""
    if int(os.environ.get("RANK", 0)) == 0:
        encoder.save(output / "model")
        write_json(output / "recipe.json", to_mapping(recipe))


def _stop_at_nan() -> Any:
    from transformers import TrainerCallback

    class StopAtNaN(TrainerCallback):
        """Ends a run whose loss is no number: every later step would be wasted."""

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loss = (kwargs.get("logs") or {}).get("loss")
            if loss is not None and not math.isfinite(float(loss)):
                raise RetrievalError(
                    f"the loss is {loss} at step {state.global_step}: lower optimizer.lr, or try "
                    "optimizer.precision=float32"
                )

    return StopAtNaN()


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
    sample = DRY_RUN_STEPS * DRY_RUN_BATCH * _world_size()
    return min(limit or sample, sample) if dry_run else limit


def _world_size() -> int:
    """Processes that train together, as `torchrun` and `accelerate launch` announce them."""
    return int(os.environ.get("WORLD_SIZE", 1))
