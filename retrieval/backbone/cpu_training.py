"""ModernBERT training on a processor: our kernels between oneDNN's products, with gradients.

Queries and keys are turned inside of attention, which sees nothing but the tokens and keeps, for
the gradient, its output and a number for each token and head. In bfloat16, softmax and rotation are
computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retrieval.backbone import kernels, onednn
from retrieval.backbone.packing import PackedBatch

Tables = Callable[[str, int, torch.device], tuple[Tensor, Tensor]]
"""Cosines and sines of a type of layer, for so many positions at least, as `RotaryTables` has."""


class KernelAttention:
    """Attention of one batch by the compiled kernels; differentiable once."""

    def __init__(self, batch: PackedBatch, heads: int, rotary: Tables) -> None:
        self._batch = batch
        self._heads = heads
        self._rotary = rotary

    def __call__(self, qkv: Tensor, kind: str, window: int | None) -> Tensor:
        """Attend.

        Args:
            qkv: (T, 3 * H) queries, keys and values, not rotated; float32 or bfloat16.
            kind: the layer's type, by which its queries and keys are turned.
            window: keys with |i - j| <= window are seen; None for all.

        Returns:
            (T, H); zeros for a token that may attend to none.
        """
        batch = self._batch
        cosines, sines = self._rotary(kind, batch.longest, qkv.device)
        kernel = kernels.Attention(
            heads=self._heads,
            offsets=batch.offsets,
            key_lengths=batch.key_lengths,
            window=window,
            cosines=cosines,
            sines=sines,
        )
        out: Tensor = _Attention.apply(qkv, kernel)  # type: ignore[no-untyped-call]
        return out


def geglu(x: Tensor) -> Tensor:
    """GELU of the first half of each row of x (T, 2 * I) times the second half; differentiable."""
    out: Tensor = _GeGLU.apply(x)  # type: ignore[no-untyped-call]
    return out


def linear(layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The output of a linear layer; differentiable.

    Args:
        layer: anything that can be called but a plain `torch.nn.Linear` is called.
        x: (T, I).
        dtype: of the product, as autocast has it.
    """
    out: Tensor
    if not _is_plain(layer) or not onednn.is_available(dtype):
        out = layer(x)
        return out
    bias = None if layer.bias is None else layer.bias.to(dtype)
    out = _Linear.apply(x.to(dtype), layer.weight.to(dtype), bias)  # type: ignore[no-untyped-call]
    return out


def _is_plain(layer: Any) -> bool:
    """Whether a linear layer is its weight and bias, and nothing that hooks do (pruning, say)."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(layer) is torch.nn.Linear and not any(getattr(layer, each) for each in hooks)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return onednn.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            onednn.linear(gradient, weight.t(), None) if of_x else None,
            # As fast as oneDNN here, or faster.
            gradient.t() @ x if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, kernel: kernels.Attention) -> Tensor:
        qkv = qkv.contiguous()
        normalisers = torch.empty(len(qkv), kernel.heads)
        out = kernel.attend(qkv, normalisers)
        ctx.save_for_backward(qkv, out, normalisers)
        ctx.kernel = kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        qkv, out, normalisers = ctx.saved_tensors
        return ctx.kernel.gradient(qkv, out, normalisers, gradient.contiguous()), None


class _GeGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return kernels.geglu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return kernels.geglu_gradient(x, gradient.contiguous())
