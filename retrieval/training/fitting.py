"""The optimisation of a run: settings, and Sentence Transformers' trainer made from them."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from retrieval.backbone.precision import Precision, uses_bfloat16
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.unpadded import unpadded
from retrieval.errors import ConfigError, RetrievalError
from retrieval.training import checkpoints
from retrieval.training.interruption import InterruptedRunError, Interruption
from retrieval.training.loss_guard import check_weights
from retrieval.training.model_card import Cost
from retrieval.training.processes import world_size
from retrieval.training.run_folder import BEST
from retrieval.training.run_log import RunLog
from retrieval.training.watching import BM25, METRIC, DevSet, Scores, WatchSettings


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Length, batches and learning rate of a run."""

    epochs: float = 1.0
    max_steps: int | None = None
    """Stop after this many steps, whatever `epochs` says."""
    batch_size: int = 64
    """Examples a device and a step; their other positives are the negatives."""
    mini_batch_size: int | None = 32
    """Texts in a forward pass: GradCache bounds the memory by it (Gao et al. 2021,
    arXiv:2101.06983). None, or a value not below `batch_size`, takes one pass."""
    lr: float = 8e-5
    warmup_fraction: float = 0.05
    weight_decay: float = 0.0
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    precision: Precision = "auto"
    unpadded: bool = True
    """Run a ModernBERT without padding: the same losses in a fraction of the time."""
    seed: int = 0
    log_every: int = 10
    """Steps between two logged losses."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints; None leaves it to `checkpoint_minutes`."""
    checkpoint_minutes: float | None = 30.0
    """Minutes between two checkpoints; with None here and there only an interrupted run has one."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "lr", "checkpoint_every", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"warmup_fraction is {self.warmup_fraction}, expected 0 up to 1")

    @property
    def cached_mini_batch_size(self) -> int | None:
        """Texts in a forward pass where a batch takes several of them, else None."""
        size = self.mini_batch_size
        return size if size is not None and size < self.batch_size else None


@dataclass(frozen=True, kw_only=True)
class Job:
    """Where a run writes, what looks at it, and whether it goes on with an earlier one."""

    output: Path
    log: RunLog
    watch: WatchSettings = field(default_factory=WatchSettings)
    dev_set: DevSet | None = None
    resume: bool = False
    """Go on from the last complete checkpoint, or from the start where there is none."""
    progress: bool = False
    has_in_batch_negatives: bool = True
    """Keep a text from coming twice in a batch."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.output / checkpoints.FOLDER


class Outcome(NamedTuple):
    """What a run came to."""

    scores: Scores | None
    cost: Cost


def fit(
    classes: tuple[Any, Any],
    encoder: DenseEncoder | MultiVectorEncoder,
    examples: Any,
    loss: torch.nn.Module,
    optimizer: OptimizerSettings,
    job: Job,
) -> Outcome:
    """Train `encoder` in place.

    Args:
        classes: trainer and training arguments of Sentence Transformers.
        encoder: the model to start from.
        examples: a dataset, with columns as `loss` takes them.
        loss: over the encoder's model.
        optimizer: length, batches and learning rate.
        job: everything else.

    Raises:
        ConfigError: the batch is larger than the data, or `watch.report_to` can't be had.
        RetrievalError: the loss became NaN or infinite; step and batch are named.
        InterruptedRunError: SIGINT or SIGTERM stopped it, after a checkpoint.
    """
    # Imports the trainers' packages, which only training needs.
    from transformers import PrinterCallback

    from retrieval.training.callbacks import DevWatcher, LogWriter, ProgressLine, load_best
    from retrieval.training.trainer import lasting

    trainer_class, arguments_class = classes
    _check_batch(optimizer, examples)
    _check_reporters(job.watch.report_to)
    trainer = lasting(trainer_class)(
        model=encoder.model,
        args=_arguments(arguments_class, encoder, examples, optimizer, job),
        train_dataset=examples,
        loss=loss,
    )
    trainer.remove_callback(PrinterCallback)  # our own line of progress, on stderr
    interruption = Interruption()
    trainer.begin_watching(interruption, optimizer.checkpoint_minutes)
    writer = LogWriter(trainer, job.log)
    trainer.add_callback(writer)
    best = job.output / BEST
    if job.dev_set is not None:
        watcher = DevWatcher(
            trainer,
            encoder=encoder,
            dev_set=job.dev_set,
            watch=job.watch,
            log=job.log,
            writer=writer,
            best=best,
        )
        trainer.add_callback(watcher)
    line = ProgressLine()
    if job.progress:
        trainer.add_callback(line)
    last = checkpoints.last_checkpoint(job.checkpoints) if job.resume else None
    began = time.perf_counter()
    packed = unpadded(encoder.model) if optimizer.unpadded else nullcontext()
    with packed, interruption.listening(), line:
        if last is None or not trainer.resume_finished(last):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        trainer.guard.check()
    encoder.model.eval()
    step, steps = trainer.state.global_step, trainer.state.max_steps
    if trainer.stopped_by and step < steps:
        raise InterruptedRunError(
            f"stopped by {trainer.stopped_by} after step {step} of {steps}: --resume goes on from "
            f"{checkpoints.last_checkpoint(job.checkpoints) or 'the start'}"
        )
    if step < steps:
        raise RetrievalError(
            f"the data gave {step} of {steps} steps: too few examples differ in all their texts to "
            f"fill batches of {optimizer.batch_size}; lower optimizer.batch_size"
        )
    check_weights(encoder.model, step)
    kept = load_best(encoder.model, best) if job.watch.keep == "best" else None
    seconds = max(time.perf_counter() - began, job.log.last("seconds") or 0.0)
    return Outcome(_scores(job.log, kept), Cost(step, seconds, _peak_bytes()))


def _scores(log: RunLog, kept_step: int | None) -> Scores | None:
    """The measurements of a run, as its log has them; the last ones where no step is named."""
    measured = {each["step"]: each[METRIC] for each in log.records() if METRIC in each}
    if not measured:
        return None
    step = max(measured) if kept_step is None else kept_step
    return Scores(start=measured[0], end=measured[step], step=step, bm25=log.first(BM25))


def _peak_bytes() -> int:
    """Memory in use at most so far: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _check_reporters(names: Sequence[str]) -> None:
    from transformers.integrations import integration_utils

    available = integration_utils.get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    missing = [name for name in names if name not in available]
    if missing:
        raise ConfigError(
            f"watch.report_to names {', '.join(missing)}, which transformers does not find here: "
            f"run `pip install {' '.join(missing)}`, or leave it out (log.jsonl and curves.png are "
            "written anyway)"
        )


def _check_batch(optimizer: OptimizerSettings, examples: Any) -> None:
    smallest = optimizer.batch_size * world_size()
    if len(examples) < smallest:
        raise ConfigError(
            f"{len(examples)} training examples do not fill one batch of {smallest}: lower "
            "optimizer.batch_size"
        )


def _arguments(
    arguments_class: Any,
    encoder: DenseEncoder | MultiVectorEncoder,
    examples: Any,
    optimizer: OptimizerSettings,
    job: Job,
) -> Any:
    """The settings in Sentence Transformers' terms."""
    tasks = {
        column: "query" if column == "query" else "document"
        for column in examples.column_names
        if column != "label"
    }
    prompts = {column: encoder.model.prompts.get(task) or "" for column, task in tasks.items()}
    device = encoder.model.device.type
    return arguments_class(
        output_dir=str(job.checkpoints),
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
        ddp_backend="gloo" if device == "cpu" and world_size() > 1 else None,
        seed=optimizer.seed,
        # A positive that comes twice in a batch would be its own negative.
        batch_sampler="no_duplicates" if job.has_in_batch_negatives else "batch_sampler",
        dataloader_drop_last=True,
        logging_steps=optimizer.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps" if optimizer.checkpoint_every else "no",
        save_steps=optimizer.checkpoint_every or 500,
        # The trainer sees one checkpoint at a time; ours are counted in checkpoints.py.
        save_total_limit=None,
        report_to=list(job.watch.report_to) or "none",
        disable_tqdm=True,
        # Tells each column's task, and with it the length that its texts are cut to.
        router_mapping=tasks,
        prompts={column: prompt for column, prompt in prompts.items() if prompt} or None,
    )
