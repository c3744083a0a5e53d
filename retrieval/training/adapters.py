"""Low-rank adapters (LoRA) through PEFT: a small part of the weights is trained, then merged."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from retrieval.errors import ConfigError, MissingExtraError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Adapters in the backbone's linear layers (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = 16
    alpha: int = 32
    """Over `rank`, what multiplies an adapter's output."""
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("Wqkv", "Wo", "Wi")
    """Names of the layers; by default all linear ones of a ModernBERT."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"model.lora has rank {self.rank} and dropout {self.dropout}, expected a rank of "
                "at least 1 and a dropout from 0 up to 1"
            )


def add_adapter(model: Any, settings: LoraSettings, seed: int) -> None:
    """Put adapters into the backbone of a Sentence Transformers model and freeze its weights.

    What comes after the backbone, such as a ColBERT's projection, is trained as ever. Token
    embeddings are frozen, those of new prefix tokens too.

    Args:
        model: a `SentenceTransformer` or `MultiVectorEncoder`.
        settings: of the adapters.
        seed: draws their first weights.

    Raises:
        MissingExtraError: the extra `lora` is not installed.
        ConfigError: the backbone has no layer of the given names.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError("Training with LoRA", "lora") from error
    names = {name.rpartition(".")[2] for name, _ in model[0].auto_model.named_modules()}
    unknown = sorted(set(settings.target_modules) - names)
    if unknown or not settings.target_modules:
        raise ConfigError(
            f"model.lora.target_modules: the backbone has no layers {unknown}; it has "
            f"{sorted(name for name in names if name and not name.isdigit())}"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config)
    counts = [
        sum(each.numel() for each in model.parameters() if each.requires_grad == is_trained)
        for is_trained in (True, False)
    ]
    logger.info("LoRA trains %d of %d parameters", counts[0], sum(counts))


def has_adapter(model: Any) -> bool:
    """Whether a Sentence Transformers model has adapters that were not merged."""
    return bool(getattr(model[0].auto_model, "_hf_peft_config_loaded", False))


def merge_adapter(model: Any) -> None:
    """Add the adapters to the weights that they adapt: a model as if they had never been there."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    backbone = model[0].auto_model
    for parent in list(backbone.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                setattr(parent, name, layer.get_base_layer())
    del backbone.peft_config
    backbone._hf_peft_config_loaded = False
    backbone.requires_grad_(True)
