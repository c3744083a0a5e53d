"""oneDNN's linear layers on a processor, where torch offers them.

They are torch's own for its compiled models. As `torch.nn.functional.linear` multiplies float32 by
another library and copies the bias first, these take less time; in bfloat16 the bias makes the
difference.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# A weight's layout is chosen for products of about so many rows.
PACKED_ROWS = 1024


@cache
def is_available(dtype: torch.dtype) -> bool:
    """Whether torch offers linear layers of this dtype (it names them as its own affair)."""
    operators = torch.ops.mkldnn
    if not torch._C._has_mkldnn or not hasattr(operators, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def pack(weight: Tensor) -> Tensor:
    """A weight (O, I) in a layout for oneDNN alone."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_ROWS)
    return packed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's output (T, O); no gradients.

    Args:
        x: (T, I).
        weight: (O, I), of any strides, or packed.
        bias: (O,).
    """
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def linear_plus(x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor) -> Tensor:
    """`linear` and `addend` (T, O) added up."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, addend, weight, bias, "add")
    return out


def spare_rows(rows: int, *, parts: int) -> int:
    """Rows to add so that there are few different numbers of them.

    oneDNN compiles a product for every number of rows that it meets, and keeps the last thousand:
    some 0.3 to 0.7 MB each, for every thread.

    Args:
        rows: that there are.
        parts: a power of two; between two powers of two there are so many numbers of rows, or more
            of them where they would be 128 apart.
    """
    return -rows % min(128, 1 << max(0, rows.bit_length() - parts.bit_length()))
