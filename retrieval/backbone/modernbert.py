"""A transformers ModernBertModel over packed tokens: the model's own modules and parameters.

This is the differentiable forward, for training and for any device. Inference on a processor goes
through `cpu_inference`, which gives the same states faster.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retrieval.backbone import int8, kernels, onednn
from retrieval.backbone.attention_choice import AttentionName, attention_for, resolve
from retrieval.backbone.cpu_inference import CpuModernBert
from retrieval.backbone.cpu_training import KernelAttention, geglu, linear
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

    def __call__(self, batch: PackedBatch, wanted: Tensor | None = None) -> Tensor:
        """Token states after the last norm.

        Args:
            batch: token ids on the model's device.
            wanted: (W,) int64 numbers of the tokens whose states are used, there too; None for all.
                Most of the last layer is computed for them alone.

        Returns:
            (T, H), or (W, H), in the model's dtype, or in autocast's.

        Raises:
            ConfigError: `attention` names one that does not run here.
        """
        weight = self.model.embeddings.tok_embeddings.weight
        if self._is_cpu_inference(weight) and CpuModernBert.takes(self.model):
            if self._cpu is None:
                self._cpu = CpuModernBert(self.model, self._rotary, is_int8=self.is_int8)
            return self._cpu(batch, wanted)
        if self.is_int8:
            raise ConfigError(
                "int8 is for inference on a processor by our compiled kernels (attention 'auto' or "
                "'cpu'): take float32 or bfloat16 for anything else"
            )
        return self._differentiable(batch, wanted)

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

    def _differentiable(self, batch: PackedBatch, wanted: Tensor | None) -> Tensor:
        model = self.model
        config = model.config
        dropout = config.attention_dropout if model.training else 0.0
        weight = model.embeddings.tok_embeddings.weight
        dtype = _product_dtype(weight)
        rows = len(batch.ids)
        parts: _Parts
        if self._takes_kernels(batch.ids.device, dtype, dropout):
            batch = batch.padded(onednn.spare_rows(rows, parts=32))
            parts = _KernelParts(batch, dtype, self._rotary, config)
        else:
            parts = _TorchParts(self.attention, batch, dtype, dropout, self._rotary, config)
        x = model.embeddings(input_ids=batch.ids)
        for layer, kind in zip(model.layers, config.layer_types, strict=True):
            arguments = (layer, x, parts, kind, wanted if layer is model.layers[-1] else None)
            # Every layer has its own flag: Hugging Face can checkpoint every n-th alone.
            if layer.training and layer.gradient_checkpointing:
                x = checkpoint(_layer, *arguments, use_reentrant=False)
            else:
                x = _layer(*arguments)
        states: Tensor = model.final_norm(x[:rows] if wanted is None else x)
        return states

    def _takes_kernels(self, device: torch.device, dtype: torch.dtype, dropout: float) -> bool:
        config = self.model.config
        return (
            device.type == "cpu"
            and not dropout
            and config.hidden_activation == "gelu"
            and resolve(self.attention, "cpu", dtype, False) == "cpu"
            and kernels.are_available(dtype, config.hidden_size // config.num_attention_heads)
        )


def _check_int8(model: Any) -> None:
    if not int8.has_fast_int8():
        logger.warning(
            "int8 may be slower than bfloat16 or float32 here: it is faster with AVX-512 VNNI, and "
            "was not timed on AMX"
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


class _Parts(Protocol):
    """How a layer is computed."""

    def linear(self, layer: Any, x: Tensor) -> Tensor:
        """A linear layer's output."""

    def attend(self, qkv: Tensor, kind: str) -> Tensor:
        """(T, H) from (T, 3 * H), in a layer of this type."""

    def mix(self, mlp: Any, x: Tensor) -> Tensor:
        """The feed-forward block."""


class _KernelParts:
    """By the compiled kernels, and oneDNN."""

    def __init__(
        self, batch: PackedBatch, dtype: torch.dtype, rotary: RotaryTables, config: Any
    ) -> None:
        self._attention = KernelAttention(batch, config.num_attention_heads, rotary)
        self._dtype = dtype
        self._config = config

    def linear(self, layer: Any, x: Tensor) -> Tensor:
        return linear(layer, x, self._dtype)

    def attend(self, qkv: Tensor, kind: str) -> Tensor:
        return self._attention(qkv, kind, _window(self._config, kind))

    def mix(self, mlp: Any, x: Tensor) -> Tensor:
        return self.linear(mlp.Wo, mlp.drop(geglu(self.linear(mlp.Wi, x))))


class _TorchParts:
    """By torch, or by what `attention` names."""

    def __init__(
        self,
        attention: AttentionName,
        batch: PackedBatch,
        dtype: torch.dtype,
        dropout: float,
        rotary: RotaryTables,
        config: Any,
    ) -> None:
        self._attention = attention_for(attention, batch, dtype, dropout=dropout)
        self._dropout = dropout
        self._config = config
        self._tables = {
            kind: [
                each[batch.positions][:, None]
                for each in rotary(kind, batch.longest, batch.ids.device)
            ]
            for kind in set(config.layer_types)
        }

    def linear(self, layer: Any, x: Tensor) -> Tensor:
        out: Tensor = layer(x)
        return out

    def attend(self, qkv: Tensor, kind: str) -> Tensor:
        heads = self._config.num_attention_heads
        to_rotate, v = torch.split(qkv.view(len(qkv), 3 * heads, -1), [2 * heads, heads], dim=1)
        q, k = torch.split(rotate(to_rotate, *self._tables[kind]), heads, dim=1)
        window = _window(self._config, kind)
        return self._attention(q, k, v, window=window, dropout=self._dropout).flatten(1)

    def mix(self, mlp: Any, x: Tensor) -> Tensor:
        mixed: Tensor = mlp(x)
        return mixed


def _window(config: Any, kind: str) -> int | None:
    window: int | None = config.local_attention // 2 if kind == "sliding_attention" else None
    return window


def _layer(layer: Any, x: Tensor, parts: _Parts, kind: str, wanted: Tensor | None) -> Tensor:
    attention = layer.attn
    attended = parts.attend(parts.linear(attention.Wqkv, layer.attn_norm(x)), kind)
    if wanted is not None:
        attended, x = attended[wanted], x[wanted]
    x = x + attention.out_drop(parts.linear(attention.Wo, attended))
    return x + parts.mix(layer.mlp, layer.mlp_norm(x))
