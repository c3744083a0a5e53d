"""What a training recipe can say: model, data, loss and optimiser, as checked dataclasses."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Literal

from retrieval.backbone.precision import Precision
from retrieval.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the training examples come from."""

    train: tuple[str, ...]
    """JSONL files (.gz too) with `anchor`/`query`, `positive` and any `negative*` columns, or, for
    distillation, `query`, `documents` and `scores`; paths from the current folder."""
    limit: int | None = None
    """Read at most this many examples."""


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
    def is_cached(self) -> bool:
        """Whether a batch is too large for one forward pass."""
        return self.mini_batch_size is not None and self.mini_batch_size < self.batch_size


@dataclass(frozen=True, kw_only=True)
class DenseModelSettings:
    """The single-vector encoder to start from."""

    backbone: str
    """Folder or hub name of a transformers model, or of a dense encoder to train on."""
    pooling: Literal["mean", "cls"] = "mean"
    width: int | None = None
    query_length: int | None = 64
    document_length: int | None = 512
    query_prefix: str = ""
    document_prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class MultiVectorModelSettings:
    """The ColBERT to start from."""

    backbone: str
    """Folder or hub name of a transformers model, or of a ColBERT to train on."""
    width: int = 128
    query_length: int = 32
    document_length: int = 180
    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_expansion: bool = True
    attend_to_expansion: bool = False
    skiplist: tuple[str, ...] = tuple(string.punctuation)


@dataclass(frozen=True, kw_only=True)
class DenseRecipe:
    """In-batch contrastive training of a single-vector encoder."""

    model: DenseModelSettings
    data: DataSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    scale: float = 20.0
    """One over the temperature that divides cosine similarities."""
    about: str = ""
    """Source, hardware and expected result, for readers."""


@dataclass(frozen=True, kw_only=True)
class MultiVectorRecipe:
    """Contrastive training of a ColBERT, or distillation from a teacher's scores."""

    model: MultiVectorModelSettings
    data: DataSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    loss: Literal["contrastive", "distillation"] = "contrastive"
    scale: float = 1.0
    """Contrastive: multiplies MaxSim scores."""
    temperature: float = 1.0
    """Distillation: divides both the teacher's and the student's scores."""
    about: str = ""
    """Source, hardware and expected result, for readers."""
