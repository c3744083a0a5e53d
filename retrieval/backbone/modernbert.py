"""A transformers ModernBertModel over packed tokens: the model's own modules and parameters.

This is the differentiable forward, for training and for any device. Inference on a processor goes
through `cpu_inference`, which gives the same states faster.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retrieval.backbone import int8
from retrieval.backbone.attention_choice import Attention, AttentionName, attention_for, resolve
from retrieval.backbone.cpu_inference import CpuModernBert
from retrieval.backbone.packing import PackedBatch
from retrieval.backbone.rotary import RotaryTables, rotate, supports_tables
from retrieval.errors import ConfigError

logger = logging.getLogger(__name__)


class PackedModernBert:
    """Runs a ModernBERT without padding.

    Attributes:
        model: the `transformers.ModernBertModel`; its parameters are used where they are, so it
            can be trained, moved and saved as ever.
        attention: how attention is computed; "auto" takes the fastest that the device has.
        is_int8: whether inference rounds the operands of the linear layers to 8 bits.
    """

    def __init__(
        self, model: Any, *, attention: AttentionName = "auto", is_int8: bool = False
    ) -> None:
        """Wrap a model.

        Raises:
            ConfigError: not a ModernBERT, or one that can't run in int8.
        """
        if not is_modernbert(model):
            raise ConfigError(
                f"{type(model).__name__} is no ModernBERT that can run packed: encode with it as "
                "Sentence Transformers does"
            )
        self.model = model
        self.attention: AttentionName = attention
        self.is_int8 = is_int8
        if is_int8:
            _check_int8(model)
        self._rotary = RotaryTables(model)
        self._cpu: CpuModernBert | None = None

    def __call__(self, batch: PackedBatch) -> Tensor:
        """Token states after the last norm.

        Args:
            batch: token ids on the model's device.

        Returns:
            (T, H) in the model's dtype, or in autocast's.

        Raises:
            ConfigError: `attention` names one that does not run here.
        """
        weight = self.model.embeddings.tok_embeddings.weight
        if self._is_cpu_inference(weight) and CpuModernBert.takes(self.model):
            if self._cpu is None:
                self._cpu = CpuModernBert(self.model, self._rotary, is_int8=self.is_int8)
            return self._cpu(batch)
        if self.is_int8:
            raise ConfigError(
                "int8 is for inference on a processor by our compiled kernels (attention 'auto' or "
                "'cpu'): take float32 or bfloat16 for anything else"
            )
        return self._differentiable(batch)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: the model, and nothing that can be computed from it again."""
        return {**self.__dict__, "_cpu": None}

    def _is_cpu_inference(self, weight: Tensor) -> bool:
        return (
            weight.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not self.model.training
            and not torch.is_autocast_enabled("cpu")
            and resolve(self.attention, "cpu", weight.dtype, False) == "cpu"
        )

    def _differentiable(self, batch: PackedBatch) -> Tensor:
        model = self.model
        config = model.config
        dropout = config.attention_dropout if model.training else 0.0
        x = model.embeddings(input_ids=batch.ids)
        tables = {
            kind: [
                each[batch.positions][:, None]
                for each in self._rotary(kind, batch.longest, x.device)
            ]
            for kind in set(config.layer_types)
        }
        attention = attention_for(self.attention, batch, _product_dtype(x), dropout=dropout)
        for layer, kind in zip(model.layers, config.layer_types, strict=True):
            window = config.local_attention // 2 if kind == "sliding_attention" else None
            arguments = (layer, x, attention, window, tables[kind], dropout)
            # Every layer has its own flag: Hugging Face can checkpoint every n-th alone.
            if layer.training and layer.gradient_checkpointing:
                x = checkpoint(_layer, *arguments, use_reentrant=False)
            else:
                x = _layer(*arguments)
        states: Tensor = model.final_norm(x)
        return states


def _check_int8(model: Any) -> None:
    if not int8.has_fast_int8():
        logger.warning(
            "int8 is slower than bfloat16 or float32 here: it is for AVX-512 VNNI without AMX"
        )
    widths = (model.config.hidden_size, model.config.intermediate_size)
    if any(width % 4 for width in widths):
        raise ConfigError(f"int8 takes widths that are multiples of 4, not {widths}")


def is_modernbert(model: object) -> bool:
    """Whether this is a transformers ModernBERT backbone (possibly with LoRA layers in it).

    One whose rotary angles depend on the longest text of a batch counts as another architecture.
    """
    config = getattr(model, "config", None)
    is_one = getattr(config, "model_type", None) == "modernbert" and hasattr(model, "layers")
    return is_one and supports_tables(model)


def _product_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _layer(
    layer: Any,
    x: Tensor,
    attention: Attention,
    window: int | None,
    table: list[Tensor],
    dropout: float,
) -> Tensor:
    attend = layer.attn
    qkv = attend.Wqkv(layer.attn_norm(x)).view(len(x), -1, attend.head_dim)
    heads = qkv.shape[1] // 3
    to_rotate, v = torch.split(qkv, [2 * heads, heads], dim=1)
    q, k = torch.split(rotate(to_rotate, *table), heads, dim=1)
    out = attention(q, k, v, window=window, dropout=dropout).flatten(1)
    x = x + attend.out_drop(attend.Wo(out))
    mixed: Tensor = x + layer.mlp(layer.mlp_norm(x))
    return mixed
