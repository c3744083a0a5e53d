"""Linear layers in int8 on a processor: 8-bit rows with scales of their own, 8-bit weights.

An activation x of a token is scale * (value - zero) with unsigned 8-bit values; a weight is scale *
value with signed ones and a scale for each output. Nothing is calibrated: the range of a row is
its own, so that a vector does not depend on what else is in the batch.

Source: Jacob et al. 2018, arXiv:1712.05877 (affine quantization); Dettmers et al. 2022,
arXiv:2208.07339 (ranges by row and by output).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from retrieval import native
from retrieval.backbone.kernels import IS_BFLOAT16, pointer


class _RowSource(ctypes.Structure):
    _fields_ = (
        ("input", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
    )


class _QuantizedRows(ctypes.Structure):
    _fields_ = (
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
    )


class _Int8Product(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("depth", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("column_scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("column_sums", ctypes.c_void_p),
    )


@dataclass(frozen=True, eq=False)
class QuantizedRows:
    """Rows as x = scale * (value - zero).

    Attributes:
        values: (T, K) uint8.
        scales: (T,) float32.
        zeros: (T,) int32.
        dtype: of the rows that they were made of, and of the products with them.
    """

    values: Tensor
    scales: Tensor
    zeros: Tensor
    dtype: torch.dtype

    def dequantized(self) -> Tensor:
        """(T, K) float32."""
        return (self.values - self.zeros[:, None].float()) * self.scales[:, None]


def has_fast_int8() -> bool:
    """Whether this processor multiplies bytes faster than bfloat16 (AVX-512 VNNI)."""
    library = native.library()
    return library is not None and bool(library.retrieval_has_fast_int8())


def quantize(x: Tensor) -> QuantizedRows:
    """Rows of x (T, K), contiguous float32 or bfloat16, in 8 bits."""
    return _quantized(native.loaded().retrieval_quantize, x, x.shape[1])


def quantized_layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float
) -> QuantizedRows:
    """Rows of x (T, H) after a layer norm, in 8 bits; weight and bias are (H,) float32."""
    function = native.loaded().retrieval_quantized_layer_norm
    return _quantized(function, x, x.shape[1], weight, bias, epsilon)


def quantized_geglu(x: Tensor) -> QuantizedRows:
    """GELU of the first half of each row of x (T, 2 * I) times the second half, in 8 bits."""
    return _quantized(native.loaded().retrieval_quantized_geglu, x, x.shape[1] // 2)


class Int8Linear:
    """A linear layer whose weight was rounded to 8 bits, with a scale for each output."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round and pack a weight (N, K); K is a multiple of 4."""
        weight = weight.detach().float()
        columns, depth = weight.shape
        scales = weight.abs().amax(1).clamp_min(1e-30) / 127
        values = (weight / scales[:, None]).round().to(torch.int8)
        panel = native.loaded().retrieval_panel_columns()
        padded = torch.zeros(-(-columns // panel) * panel, depth, dtype=torch.int8)
        padded[:columns] = values
        # (panels, K / 4, panel, 4): what one register tile reads lies together.
        self._weight = padded.view(-1, panel, depth // 4, 4).transpose(1, 2).contiguous()
        self._scales = scales.contiguous()
        self._sums = values.sum(1, dtype=torch.int32)
        self._bias = None if bias is None else bias.detach().float().contiguous()
        self._columns, self._depth = columns, depth

    def __call__(self, x: QuantizedRows) -> Tensor:
        """(T, N) in the dtype that x was made of."""
        return self._product(x, None)

    def plus(self, x: QuantizedRows, residual: Tensor) -> Tensor:
        """The layer's output and `residual` (T, N) added up."""
        return self._product(x, residual)

    def _product(self, x: QuantizedRows, residual: Tensor | None) -> Tensor:
        rows = len(x.values)
        out = torch.empty(rows, self._columns, dtype=x.dtype)
        product = _Int8Product(
            rows,
            self._depth,
            self._columns,
            pointer(self._weight),
            pointer(self._scales),
            pointer(self._bias),
            pointer(self._sums),
        )
        native.loaded().retrieval_multiply_int8(
            IS_BFLOAT16[x.dtype],
            ctypes.byref(_pointers(x)),
            ctypes.byref(product),
            pointer(residual),
            pointer(out),
        )
        return out


def _quantized(
    function: Callable[..., None],
    x: Tensor,
    width: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    epsilon: float = 0.0,
) -> QuantizedRows:
    rows = len(x)
    out = QuantizedRows(
        torch.empty(rows, width, dtype=torch.uint8),
        torch.empty(rows, dtype=torch.float32),
        torch.empty(rows, dtype=torch.int32),
        x.dtype,
    )
    source = _RowSource(pointer(x), rows, width, pointer(weight), pointer(bias), epsilon)
    function(IS_BFLOAT16[x.dtype], ctypes.byref(source), ctypes.byref(_pointers(out)))
    return out


def _pointers(rows: QuantizedRows) -> _QuantizedRows:
    return _QuantizedRows(pointer(rows.values), pointer(rows.scales), pointer(rows.zeros))
