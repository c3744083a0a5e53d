"""ModernBERT inference on a processor: oneDNN's products with packed weights, our kernels between.

With `is_int8` the products of the linear layers are ours too, in 8 bits.

Everything of one batch runs on the calling thread's share of torch's threads; the kernels run on
the calling thread alone. Several threads, each with a batch and one torch thread, use all cores
without a barrier in every operation (see `encoders.workers`).
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from retrieval.backbone import int8, kernels, onednn
from retrieval.backbone.packing import PackedBatch
from retrieval.backbone.rotary import RotaryTables

# Counts the steps of every optimizer: the fused ones (the trainer's default) change parameters
# without changing torch's own counter of a parameter's versions.
_optimizer_steps = 0


def _count_optimizer_step(*_: object) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_optimizer_step)


class CpuModernBert:
    """The layers of one model with their weights packed; packed again when they have changed."""

    def __init__(self, model: Any, rotary: RotaryTables, *, is_int8: bool = False) -> None:
        self._model = model
        self._rotary = rotary
        self._is_int8 = is_int8
        self._version: tuple[int, tuple[tuple[int, int], ...]] = (-1, ())
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

    def __call__(self, batch: PackedBatch, wanted: Tensor | None = None) -> Tensor:
        """(T, H) token states after the last norm, or (W, H), of those wanted; no gradients."""
        with torch.no_grad():
            with self._packing:
                self._refresh()
            embedding = self._model.embeddings.tok_embeddings.weight
            rows = len(batch.ids)
            ids = F.pad(batch.ids, (0, onednn.spare_rows(rows, parts=8)))
            x = self._first_norm(F.embedding(ids, embedding))
            if wanted is not None:
                rows = len(wanted)
                wanted = F.pad(wanted, (0, onednn.spare_rows(rows, parts=8)))
            for layer in self._layers[:-1]:
                x = layer(x, batch, self._rotary)
            x = self._layers[-1](x, batch, self._rotary, wanted)
            return self._last_norm(x)[:rows]

    def _refresh(self) -> None:
        parameters = tuple((each.data_ptr(), _version(each)) for each in self._model.parameters())
        version = (_optimizer_steps, parameters)
        if version == self._version:
            return
        config = self._model.config
        self._first_norm = _Norm(self._model.embeddings.norm)
        self._last_norm = _Norm(self._model.final_norm)
        products: _Products | _Int8Products = _Int8Products() if self._is_int8 else _Products()
        self._layers = [
            _Layer(layer, kind, config, products)
            for layer, kind in zip(self._model.layers, config.layer_types, strict=True)
        ]
        self._version = version


class _Layer:
    def __init__(
        self, layer: Any, kind: str, config: Any, products: _Products | _Int8Products
    ) -> None:
        self.kind = kind
        self.heads: int = config.num_attention_heads
        self.window = config.local_attention // 2 if kind == "sliding_attention" else None
        self.products: Any = products
        has_norm = isinstance(layer.attn_norm, torch.nn.LayerNorm)
        self.attention_norm = _Norm(layer.attn_norm) if has_norm else None
        self.qkv = products.linear(layer.attn.Wqkv)
        self.attention_out = products.linear(layer.attn.Wo)
        self.mlp_norm = _Norm(layer.mlp_norm)
        self.mlp_in = products.linear(layer.mlp.Wi)
        self.mlp_out = products.linear(layer.mlp.Wo)

    def __call__(
        self, x: Tensor, batch: PackedBatch, rotary: RotaryTables, wanted: Tensor | None = None
    ) -> Tensor:
        take = self.products
        norm = self.attention_norm
        qkv = self.qkv(take.rows(x) if norm is None else take.norm(x, norm))
        cosines, sines = rotary(self.kind, batch.longest, x.device)
        attended = kernels.Attention(
            heads=self.heads,
            offsets=batch.offsets,
            key_lengths=batch.key_lengths,
            window=self.window,
            cosines=cosines,
            sines=sines,
        ).attend(qkv)
        if wanted is not None:
            attended, x = attended[wanted], x[wanted]
        x = self.attention_out.plus(take.rows(attended), x)
        return self.mlp_out.plus(take.geglu(self.mlp_in(take.norm(x, self.mlp_norm))), x)


class _Norm:
    def __init__(self, norm: Any) -> None:
        self.weight = norm.weight.float().contiguous()
        self.bias = None if norm.bias is None else norm.bias.float().contiguous()
        self.epsilon: float = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return kernels.layer_norm(x, self.weight, self.bias, self.epsilon)


class _Products:
    """What the linear layers take and are, in the model's own number format."""

    def linear(self, linear: torch.nn.Linear) -> _Linear:
        return _Linear(linear)

    def rows(self, x: Tensor) -> Tensor:
        return x

    def norm(self, x: Tensor, norm: _Norm) -> Tensor:
        return norm(x)

    def geglu(self, x: Tensor) -> Tensor:
        return kernels.geglu(x)


class _Int8Products:
    """The same in 8 bits; norms and activations round their own results."""

    def linear(self, linear: torch.nn.Linear) -> int8.Int8Linear:
        return int8.Int8Linear(linear.weight, linear.bias)

    def rows(self, x: Tensor) -> int8.QuantizedRows:
        return int8.quantize(x)

    def norm(self, x: Tensor, norm: _Norm) -> int8.QuantizedRows:
        return int8.quantized_layer_norm(x, norm.weight, norm.bias, norm.epsilon)

    def geglu(self, x: Tensor) -> int8.QuantizedRows:
        return int8.quantized_geglu(x)


class _Linear:
    """A linear layer, through oneDNN with a packed weight where torch offers that."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        self.weight = linear.weight
        self.bias = linear.bias
        self.packed: Tensor | None = None
        if onednn.is_available(linear.weight.dtype):
            self.packed = onednn.pack(linear.weight)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        return onednn.linear(x, self.packed, self.bias)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer's output and `residual` added up."""
        if self.packed is None:
            return F.linear(x, self.weight, self.bias).add_(residual)
        return onednn.linear_plus(x, self.packed, self.bias, residual)


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version
