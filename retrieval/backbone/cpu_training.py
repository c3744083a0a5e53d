"""ModernBERT training on a processor: our kernels between torch's products, with gradients.

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

from retrieval.backbone import kernels
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
