"""What a training recipe can say: model, data, loss and optimiser, as checked dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

from retrieval.training.examples import DataSettings
from retrieval.training.fitting import OptimizerSettings
from retrieval.training.loss_settings import DenseLossSettings, MultiVectorLossSettings
from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings
from retrieval.training.watching import WatchSettings


@dataclass(frozen=True, kw_only=True)
class DenseRecipe:
    """Training of a single-vector encoder."""

    model: DenseModelSettings
    data: DataSettings
    loss: DenseLossSettings = field(default_factory=DenseLossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    about: str = ""
    """Source, hardware and expected result, for readers."""


@dataclass(frozen=True, kw_only=True)
class MultiVectorRecipe:
    """Training of a ColBERT."""

    model: MultiVectorModelSettings
    data: DataSettings
    loss: MultiVectorLossSettings = field(default_factory=MultiVectorLossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    about: str = ""
    """Source, hardware and expected result, for readers."""
