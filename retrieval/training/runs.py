"""A training run: recipe in, checkpoint and the merged recipe out, on Sentence Transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from retrieval.config import to_mapping
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import MissingNativeError
from retrieval.files import write_json
from retrieval.training.adapters import merge_adapter
from retrieval.training.checkpoints import sync_tree
from retrieval.training.curves import plot_curves
from retrieval.training.examples import read_examples
from retrieval.training.fitting import Job, OptimizerSettings, fit
from retrieval.training.losses import dense_loss, multi_vector_loss
from retrieval.training.model_card import write_model_card
from retrieval.training.processes import is_first_process, wait_for_all, world_size
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.run_folder import (
    CURVES,
    LOG,
    MODEL,
    check_same_run,
    claim_output,
    is_finished,
    start_of_run,
    write_start,
    write_summary,
)
from retrieval.training.run_log import RunLog
from retrieval.training.starting_models import starting_dense, starting_multi_vector
from retrieval.training.watching import DevSets, WatchSettings, open_dev_set

logger = logging.getLogger(__name__)

DRY_RUN_STEPS = 2
DRY_RUN_BATCH = 4

Encoder = TypeVar("Encoder", DenseEncoder, MultiVectorEncoder)


def train_dense(
    recipe: DenseRecipe,
    output: Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    dev_sets: DevSets | None = None,
    progress: bool = False,
) -> DenseEncoder:
    """Train a single-vector encoder by the loss of the recipe, alone or under `accelerate`.

    Args:
        recipe: model, data, loss, optimiser and what to look at.
        output: gets `model/` (a Sentence Transformers checkpoint with a card), `recipe.json`,
            `log.jsonl`, `curves.png`, `summary.json` and, on the way, `checkpoints/`.
        overwrite: replace what is in `output`.
        dry_run: two steps on a tiny sample, to see that everything fits together.
        resume: go on with the unfinished run in `output`, from its last complete checkpoint: the
            numbers are those of a run that was never interrupted. A finished one is only loaded.
        dev_sets: what makes the dev set of the recipe's [watch] table:
            `retrieval.evaluation.dev_set.MeasuredSet`.
        progress: show on stderr how far it is.

    Returns:
        The trained encoder.

    Raises:
        ConfigError: `output` is not empty, the batch is larger than the data, or the run to be
            resumed had another recipe, other data or another model.
        InputError: training data that can't be used.
        RetrievalError: the loss became NaN or infinite; step and batch are named.
        InterruptedRunError: SIGINT or SIGTERM stopped it, after a checkpoint.
        MissingExtraError: the extra `train` is not installed.
    """
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    return _run(
        recipe,
        output,
        _Options(overwrite, dry_run, resume, dev_sets, progress),
        classes=(SentenceTransformerTrainer, SentenceTransformerTrainingArguments),
        begin=starting_dense,
        make_loss=dense_loss,
    )


def train_multi_vector(
    recipe: MultiVectorRecipe,
    output: Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    dev_sets: DevSets | None = None,
    progress: bool = False,
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

    return _run(
        recipe,
        output,
        _Options(overwrite, dry_run, resume, dev_sets, progress),
        classes=(MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments),
        begin=starting_multi_vector,
        make_loss=multi_vector_loss,
    )


class _Options(NamedTuple):
    overwrite: bool
    dry_run: bool
    resume: bool
    dev_sets: DevSets | None
    progress: bool


def _run(
    recipe: Any,
    output: Path,
    options: _Options,
    *,
    classes: tuple[Any, Any],
    begin: Callable[[Any, int], Encoder],
    make_loss: Callable[[Any, Encoder, int | None], torch.nn.Module],
) -> Encoder:
    """Train, and write what the run came to; the summary comes last and says that all is there."""
    dry_run, resume = options.dry_run, options.resume
    _claim(output, overwrite=options.overwrite, resume=resume)
    optimizer = _shortened(recipe.optimizer) if dry_run else recipe.optimizer
    watch = WatchSettings() if dry_run else recipe.watch
    encoder = begin(recipe.model, optimizer.seed)
    examples = _examples(recipe, _limit(recipe.data.limit, dry_run), optimizer.seed)
    start = start_of_run(
        to_mapping(recipe),
        examples,
        encoder.reference.fingerprint,
        processes=world_size(),
        dry_run=dry_run,
    )
    if resume:
        check_same_run(output, start)
        if is_finished(output):
            logger.warning("%s: the run is finished, there is nothing to resume", output)
            return type(encoder).load(output / MODEL)
    elif is_first_process():
        write_start(output, start)
    training, dev_set = open_dev_set(watch, examples, options.dev_sets)
    log = RunLog(output / LOG, is_writer=is_first_process())
    # Distillation compares a query with its own documents only, which many queries may share.
    has_in_batch_negatives = recipe.loss.kind == "contrastive"
    job = Job(
        has_in_batch_negatives=has_in_batch_negatives,
        output=output,
        log=log,
        watch=watch,
        dev_set=dev_set,
        resume=resume,
        progress=options.progress,
    )
    loss = make_loss(recipe.loss, encoder, optimizer.cached_mini_batch_size)
    outcome = fit(classes, encoder, training, loss, optimizer, job)
    if recipe.model.lora is not None:
        merge_adapter(encoder.model)
    if is_first_process():
        encoder.save(output / MODEL)
        write_json(output / "recipe.json", start["recipe"])
        write_model_card(
            output / MODEL,
            start,
            is_multi_vector=encoder.is_multi_vector,
            examples=len(training),
            scores=outcome.scores,
            cost=outcome.cost,
        )
        plot_curves(log.records(), output / CURVES)
        sync_tree(output / MODEL)
        write_summary(output, outcome.scores, outcome.cost, encoder.reference.fingerprint)
    wait_for_all()
    return encoder


def _examples(recipe: DenseRecipe | MultiVectorRecipe, limit: int | None, seed: int) -> Any:
    """The training examples that the loss reads."""
    examples = read_examples(recipe.data, scored=recipe.loss.reads_scores, limit=limit, seed=seed)
    recipe.loss.check_columns(examples.column_names)
    return examples


def _claim(output: Path, *, overwrite: bool, resume: bool) -> None:
    # The first process decides for all: the others may come when it has written already.
    if is_first_process() or resume:
        claim_output(output, overwrite, resume=resume)


def _shortened(optimizer: OptimizerSettings) -> OptimizerSettings:
    return replace(
        optimizer,
        max_steps=DRY_RUN_STEPS,
        batch_size=min(optimizer.batch_size, DRY_RUN_BATCH),
        mini_batch_size=min(optimizer.mini_batch_size or DRY_RUN_BATCH, DRY_RUN_BATCH // 2),
        log_every=1,
        checkpoint_every=None,
        checkpoint_minutes=None,
    )


def _limit(limit: int | None, dry_run: bool) -> int | None:
    sample = DRY_RUN_STEPS * DRY_RUN_BATCH * world_size()
    return min(limit or sample, sample) if dry_run else limit
