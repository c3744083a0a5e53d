"""The one door to attention: which implementation runs, chosen once and logged once."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from retrieval.backbone.attention import GroupedAttention, VarlenAttention
from retrieval.backbone.packing import PackedBatch
from retrieval.errors import ConfigError, MissingExtraError

logger = logging.getLogger(__name__)

AttentionName = Literal["auto", "cpu", "varlen", "flash", "sdpa"]
"""cpu: compiled kernels or torch by groups; varlen: torch's own variable-length kernel; flash:
flash-attn 2 or 3; sdpa: torch by padded groups, on any device."""

_HALVES = (torch.float16, torch.bfloat16)

# Of NVIDIA's: flash attention needs Ampere.
_OLDEST_CAPABILITY = (8, 0)


class Attention(Protocol):
    """Attends within the sequences of the batch that it was made for; see `GroupedAttention`."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, window: int | None, dropout: float = 0.0
    ) -> Tensor:
        """Attend."""


def attention_for(
    name: AttentionName, batch: PackedBatch, dtype: torch.dtype, *, dropout: float = 0.0
) -> Attention:
    """Attention of one batch.

    Args:
        name: "auto" takes varlen, then flash, then sdpa on a GPU, and cpu on a processor.
        batch: its device decides.
        dtype: of queries and keys.
        dropout: of attention weights; what varlen and flash-attn 3 can't do.

    Raises:
        ConfigError: the named one does not run on this device, dtype or dropout.
        MissingExtraError: flash-attn is not installed.
    """
    chosen = resolve(name, batch.ids.device.type, dtype, dropout > 0)
    if chosen == "varlen":
        return VarlenAttention(batch, _torch_varlen)
    if chosen == "flash":
        return VarlenAttention(batch, _flash)
    # A processor loses nothing by many small products, a GPU loses more than by padding.
    return GroupedAttention(batch, max_padding=0.0 if chosen == "cpu" else float("inf"))


@cache
def resolve(
    name: AttentionName, device: str, dtype: torch.dtype, has_dropout: bool
) -> AttentionName:
    """What "auto" stands for here, logged once; a named one is checked.

    Raises:
        ConfigError: as in `attention_for`.
        MissingExtraError: as in `attention_for`.
    """
    if name not in get_args(AttentionName):
        raise ConfigError(f"attention is {name!r}, expected one of {get_args(AttentionName)}")
    chosen = name
    if name == "auto":
        chosen = _best(device, dtype, has_dropout)
    elif reason := _reason_against(name, device, dtype, has_dropout):
        raise ConfigError(f"attention={name!r} {reason}: take 'auto' or 'sdpa'")
    elif name == "flash" and not _is_installed("flash"):
        raise MissingExtraError("attention='flash'", "flash")
    logger.info("attention on %s in %s: %s", device, dtype, chosen)
    return chosen


def _best(device: str, dtype: torch.dtype, has_dropout: bool) -> AttentionName:
    if device == "cpu":
        return "cpu"
    for name in ("varlen", "flash"):
        if not _reason_against(name, device, dtype, has_dropout) and _is_installed(name):
            return name
    return "sdpa"


def _reason_against(name: str, device: str, dtype: torch.dtype, has_dropout: bool) -> str | None:
    if name == "cpu" and device != "cpu":
        return f"runs on a processor, not on {device}"
    if name not in ("varlen", "flash"):
        return None
    if device != "cuda":
        return f"runs on a CUDA device, not on {device}"
    if dtype not in _HALVES:
        return f"takes float16 or bfloat16, not {dtype}"
    if torch.cuda.get_device_capability() < _OLDEST_CAPABILITY:
        return "takes a GPU of compute capability 8.0 or later"
    if has_dropout and not _has_dropout(name):
        return "has no dropout of attention weights"
    if name == "varlen" and not _is_installed("varlen"):
        return f"needs a torch whose varlen_attn has a window (2.12 has), not {torch.__version__}"
    return None


def _is_installed(name: str) -> bool:
    return _varlen_attn() is not None if name == "varlen" else _flash_attn() is not None


def _has_dropout(name: str) -> bool:
    """flash-attn 2 alone has it."""
    kernel = _flash_attn()
    return name == "flash" and (
        kernel is None or "dropout_p" in inspect.signature(kernel).parameters
    )


@cache
def _varlen_attn() -> Callable[..., Any] | None:
    """torch.nn.attention.varlen.varlen_attn, where it has a window (torch 2.10's has none)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    found: Callable[..., Any] = varlen_attn
    return found if "window_size" in inspect.signature(found).parameters else None


@cache
def _flash_attn() -> Callable[..., Any] | None:
    """flash-attn 3's function, or 2's, or None."""
    for module in ("flash_attn_interface", "flash_attn"):
        try:
            found = __import__(module)
        except ImportError:
            continue
        function: Callable[..., Any] = found.flash_attn_varlen_func
        return function
    return None


def _torch_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    query_offsets: Tensor,
    key_offsets: Tensor,
    longest_query: int,
    longest_key: int,
    window: int | None,
    dropout: float,
) -> Tensor:
    """Torch's kernel; source: https://docs.pytorch.org/docs/main/nn.attention.varlen.html."""
    kernel = _varlen_attn()
    assert kernel is not None, "resolve() was not asked"
    size = (-1, -1) if window is None else (window, window)
    out: Tensor = kernel(
        q, k, v, query_offsets, key_offsets, longest_query, longest_key, window_size=size
    )
    return out


def _flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    query_offsets: Tensor,
    key_offsets: Tensor,
    longest_query: int,
    longest_key: int,
    window: int | None,
    dropout: float,
) -> Tensor:
    """flash-attn 2 or 3; source: https://github.com/Dao-AILab/flash-attention."""
    kernel = _flash_attn()
    assert kernel is not None, "resolve() was not asked"
    options: dict[str, Any] = {"dropout_p": dropout} if dropout else {}
    if window is not None:
        options["window_size"] = (window, window)
    out = kernel(q, k, v, query_offsets, key_offsets, longest_query, longest_key, **options)
    # Older versions of flash-attn 3 return the log-sum-exp beside it.
    result: Tensor = out[0] if isinstance(out, tuple) else out
    return result
