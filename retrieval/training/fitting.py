"""The optimisation of a run: settings, and Sentence Transformers' trainer made from them."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from retrieval.backbone.precision import Precision, uses_bfloat16
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.unpadded import unpadded
from retrieval.errors import ConfigError, RetrievalError
from retrieval.training.processes import world_size


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
    """Steps between two checkpoints; None keeps only the final model."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"warmup_fraction is {self.warmup_fraction}, expected 0 up to 1")

    @property
    def cached_mini_batch_size(self) -> int | None:
        """Texts in a forward pass where a batch takes several of them, else None."""
        size = self.mini_batch_size
        return size if size is not None and size < self.batch_size else None


def fit(
    classes: tuple[Any, Any],
    encoder: DenseEncoder | MultiVectorEncoder,
    examples: Any,
    loss: torch.nn.Module,
    optimizer: OptimizerSettings,
    output: Path,
) -> None:
    """Train `encoder` in place with the trainer class of `classes` and arguments of the other.

    Raises:
        ConfigError: the batch is larger than the data.
        RetrievalError: the loss became NaN or infinite; the step is named.
    """
    trainer_class, arguments_class = classes
    smallest = optimizer.batch_size * world_size()
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
        ddp_backend="gloo" if device == "cpu" and world_size() > 1 else None,
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
