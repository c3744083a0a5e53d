"""Let a Sentence Transformers model run its ModernBERT without padding in its own forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieval.backbone.attention_choice import AttentionName
from retrieval.backbone.modernbert import PackedModernBert, is_modernbert
from retrieval.backbone.packing import PackedBatch
from retrieval.encoders.inference import is_text_transformer

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


@contextmanager
def unpadded(model: Any, *, attention: AttentionName = "auto") -> Iterator[bool]:
    """Drop padding before the backbone of `model` and put it back behind it, while this is open.

    For training: losses, trainers, autocast, gradient checkpointing and cached gradients see the
    model that they know, with the same parameters, saved as ever. A state at a padded place is
    zero, which no module looks at. `torch.nn.DataParallel` copies the model and is not supported;
    DistributedDataParallel is.

    Args:
        model: a `SentenceTransformer` or `MultiVectorEncoder` of Sentence Transformers 6.
        attention: as in `PackedModernBert`.

    Yields:
        Whether its backbone is one that runs packed; if not, nothing is changed.
    """
    transformer = model[0]
    can_pack = is_text_transformer(transformer) and is_modernbert(transformer.auto_model)
    if not can_pack:
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
        self._attention: AttentionName = attention
        self._packed = PackedModernBert(transformer.auto_model, attention=attention)

    def __call__(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        backbone = self._transformer.auto_model
        rows = None
        if features.keys() | options.keys() <= _KNOWN_FEATURES and not _shows_its_inside(backbone):
            rows = _rows(features)
        if rows is None:
            padded: dict[str, Any] = self._padded(features, **options)
            return padded
        if self._packed.model is not backbone:
            self._packed = PackedModernBert(backbone, attention=self._attention)
        ids = features["input_ids"]
        places, lengths, key_lengths = rows
        on_device = torch.from_numpy(places).to(ids.device, non_blocking=True)
        batch = PackedBatch(ids.flatten()[on_device], lengths, key_lengths)
        states = self._packed(batch)
        filled = states.new_zeros(ids.numel(), states.shape[1]).index_copy(0, on_device, states)
        features[self._transformer.module_output_name] = filled.view(*ids.shape, -1)
        return features


def _rows(features: dict[str, Any]) -> tuple[Any, Any, Any] | None:
    """Places of the tokens in the flattened batch, longest text first, with their lengths.

    None where the batch is not one of right-padded texts. One copy to the host, of the masks.
    """
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
    width = is_token.shape[1]
    positions = np.arange(width)
    ordered = lengths[order]
    places = (order[:, None] * width + positions)[positions < ordered[:, None]]
    key_lengths = None
    if expansion is not None and not np.array_equal(is_key, is_token):
        key_lengths = is_key.sum(1, dtype=np.int32)[order]
    return places, ordered, key_lengths


def _shows_its_inside(backbone: Any) -> bool:
    config = backbone.config
    return bool(config.output_hidden_states or config.output_attentions)
