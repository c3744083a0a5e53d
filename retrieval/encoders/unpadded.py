"""Let a Sentence Transformers model run its ModernBERT without padding in its own forward."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.backbone.attention_choice import AttentionName
from retrieval.backbone.modernbert import PackedModernBert, is_modernbert
from retrieval.backbone.packing import Int32s, PackedBatch, to_device
from retrieval.encoders.inference import is_text_transformer
from retrieval.errors import ConfigError

logger = logging.getLogger(__name__)

# What the packed forward knows the meaning of; anything else goes the model's own way.
_KNOWN_FEATURES = frozenset(
    {
        "attention_mask",
        "input_ids",
        "modality",
        "prompt_length",
        "query_expansion_positions",
        "task",
        "token_type_ids",
    }
)


class _Places(NamedTuple):
    """Where the tokens of a padded batch are, longest text first.

    Attributes:
        flat: (T,) numbers of the tokens in the flattened batch.
        lengths: (N,) tokens of each text.
        key_lengths: as in `PackedBatch`.
    """

    flat: NDArray[np.int64]
    lengths: Int32s
    key_lengths: Int32s | None


@contextmanager
def unpadded(model: Any, *, attention: AttentionName = "auto") -> Iterator[bool]:
    """Drop padding before the backbone of `model` and put it back behind it, while this is open.

    For training: losses, trainers, autocast, gradient checkpointing, cached gradients and
    DistributedDataParallel see the model that they know, with the same parameters, saved as ever.
    The states at padded places are zeros, which no module looks at.

    Args:
        model: a `SentenceTransformer` or `MultiVectorEncoder` of Sentence Transformers 6.
        attention: as in `PackedModernBert`.

    Yields:
        Whether its backbone is one that runs packed; if not, nothing is changed.
    """
    transformer = model[0]
    if not is_text_transformer(transformer) or not is_modernbert(transformer.auto_model):
        yield False
        return
    transformer.forward = _UnpaddedForward(transformer, attention)
    try:
        yield True
    finally:
        del transformer.forward


class _UnpaddedForward:
    """Takes the place of `Transformer.forward` on one instance."""

    def __init__(self, transformer: Any, attention: AttentionName) -> None:
        self._transformer = transformer
        self._padded = transformer.forward
        self._has_warned = False
        self._attention: AttentionName = attention
        self._packed = PackedModernBert(transformer.auto_model, attention=attention)

    def __call__(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        backbone = self._transformer.auto_model
        places = None
        if features.keys() | options.keys() <= _KNOWN_FEATURES and not _shows_its_inside(backbone):
            places = _places(features)
        if places is None:
            if not self._has_warned:
                logger.warning(
                    "batches run with their padding: they are not of right-padded texts alone, or "
                    "more than their last states is asked for (features %s)",
                    sorted({**features, **options}),
                )
            self._has_warned = True
            padded: dict[str, Any] = self._padded(features, **options)
            return padded
        ids = features["input_ids"]
        if ids.device != backbone.device:
            raise ConfigError(
                f"the batch is on {ids.device}, the model on {backbone.device}: under "
                "torch.nn.DataParallel padding can't be dropped; start with torchrun or one GPU"
            )
        if self._packed.model is not backbone:
            self._packed = PackedModernBert(backbone, attention=self._attention)
        flat = to_device(places.flat, ids.device)
        batch = PackedBatch(ids.flatten()[flat], places.lengths, places.key_lengths)
        states = self._packed(batch)
        filled = states.new_zeros(ids.numel(), states.shape[1]).index_copy(0, flat, states)
        features[self._transformer.module_output_name] = filled.view(*ids.shape, -1)
        return features


def _places(features: dict[str, Any]) -> _Places | None:
    """None where the batch is not one of right-padded texts; copies its masks to the host once."""
    if "attention_mask" not in features:
        return None
    attended: Tensor = features["attention_mask"].bool()
    expansion: Tensor | None = features.get("query_expansion_positions")
    masks = attended if expansion is None else torch.cat([attended, attended | expansion.bool()])
    on_host = masks.cpu().numpy()
    is_key, is_token = on_host[: len(attended)], on_host[-len(attended) :]
    for mask in (is_key, is_token):
        if not mask[:, 0].all() or (mask[:, 1:] > mask[:, :-1]).any():
            return None
    lengths = is_token.sum(1, dtype=np.int32)
    order = np.argsort(-lengths, kind="stable")
    positions = np.arange(is_token.shape[1])
    places = order[:, None] * is_token.shape[1] + positions
    key_lengths = None
    if not np.array_equal(is_key, is_token):
        key_lengths = is_key.sum(1, dtype=np.int32)[order]
    return _Places(places[positions < lengths[order, None]], lengths[order], key_lengths)


def _shows_its_inside(backbone: Any) -> bool:
    return bool(backbone.config.output_hidden_states or backbone.config.output_attentions)
