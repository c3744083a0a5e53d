"""ModernBERT inference on a processor: oneDNN's products with packed weights, our kernels between.

Everything of one batch runs on the calling thread's share of torch's threads; the kernels run on
the calling thread alone. Several threads, each with a batch and one torch thread, use all cores
without a barrier in every operation (see `encoders.forward`).
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.backbone import kernels
from retrieval.backbone.packing import PackedBatch
from retrieval.backbone.rotary import RotaryTables

# oneDNN chooses a weight's layout for products of about so many rows.
PACKED_ROWS = 1024


class CpuModernBert:
    """The layers of one model with their weights packed; packed again when they have changed."""

    def __init__(self, model: Any, rotary: RotaryTables) -> None:
        self._model = model
        self._rotary = rotary
        self._version: tuple[tuple[int, int], ...] = ()
        self._layers: list[_Layer] = []
        self._packing = Lock()

    @staticmethod
    def takes(model: Any) -> bool:
        """Whether our kernels cover this model: plain linear layers, float32 or bfloat16, GELU."""
        config = model.config
        weight = model.embeddings.tok_embeddings.weight
        return (
            kernels.are_available(weight.dtype, config.hidden_size // config.num_attention_heads)
            and config.hidden_activation == "gelu"
            and all(
                type(each) is torch.nn.Linear and each.weight.dtype == weight.dtype
                for layer in model.layers
                for each in (layer.attn.Wqkv, layer.attn.Wo, layer.mlp.Wi, layer.mlp.Wo)
            )
        )

    def __call__(self, batch: PackedBatch) -> Tensor:
        """(T, H) token states after the last norm; no gradients."""
        with torch.inference_mode():
            with self._packing:
                self._refresh()
            embedding = self._model.embeddings.tok_embeddings.weight
            x = self._first_norm(F.embedding(batch.ids, embedding))
            for layer in self._layers:
                x = layer(x, batch, self._rotary)
            return self._last_norm(x)

    def _refresh(self) -> None:
        version = tuple((each.data_ptr(), _version(each)) for each in self._model.parameters())
        if version == self._version:
            return
        config = self._model.config
        self._first_norm = _Norm(self._model.embeddings.norm)
        self._last_norm = _Norm(self._model.final_norm)
        self._layers = [
            _Layer(layer, kind, config)
            for layer, kind in zip(self._model.layers, config.layer_types, strict=True)
        ]
        self._version = version


class _Layer:
    def __init__(self, layer: Any, kind: str, config: Any) -> None:
        self.kind = kind
        self.heads: int = config.num_attention_heads
        self.window = config.local_attention // 2 if kind == "sliding_attention" else None
        has_norm = isinstance(layer.attn_norm, torch.nn.LayerNorm)
        self.attention_norm = _Norm(layer.attn_norm) if has_norm else None
        self.qkv = _Linear(layer.attn.Wqkv)
        self.attention_out = _Linear(layer.attn.Wo)
        self.mlp_norm = _Norm(layer.mlp_norm)
        self.mlp_in = _Linear(layer.mlp.Wi)
        self.mlp_out = _Linear(layer.mlp.Wo)

    def __call__(self, x: Tensor, batch: PackedBatch, rotary: RotaryTables) -> Tensor:
        qkv = self.qkv(x if self.attention_norm is None else self.attention_norm(x))
        cosines, sines = rotary(self.kind, batch.longest, x.device)
        attended = kernels.attention(
            qkv,
            heads=self.heads,
            offsets=batch.offsets,
            key_lengths=batch.key_lengths,
            window=self.window,
            cosines=cosines,
            sines=sines,
        )
        x = self.attention_out.plus(attended, x)
        return self.mlp_out.plus(kernels.geglu(self.mlp_in(self.mlp_norm(x))), x)


class _Norm:
    def __init__(self, norm: Any) -> None:
        self.weight = norm.weight.float().contiguous()
        self.bias = None if norm.bias is None else norm.bias.float().contiguous()
        self.epsilon: float = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return kernels.layer_norm(x, self.weight, self.bias, self.epsilon)


class _Linear:
    """A linear layer, through oneDNN with a packed weight where torch offers that."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        self.weight = linear.weight
        self.bias = linear.bias
        self.packed: Tensor | None = None
        if _can_pack(linear.weight.dtype):
            weight = linear.weight.detach()
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer's output and `residual` added up."""
        if self.packed is None:
            return F.linear(x, self.weight, self.bias).add_(residual)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, self.packed, self.bias, "add"
        )
        return out


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether torch offers oneDNN's packed linear layers (it names them as its own affair)."""
    operators = torch.ops.mkldnn
    if not torch._C._has_mkldnn or not hasattr(operators, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(operators._is_mkldnn_bf16_supported())


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version
