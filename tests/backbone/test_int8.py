"""Linear layers in int8: every instruction set against the definition, and whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval import DenseEncoder, MultiVectorEncoder, native
from retrieval.backbone import int8
from retrieval.backbone.modernbert import PackedModernBert
from retrieval.backbone.packing import pack
from retrieval.errors import ConfigError
from tests.tiles import VECTORS_OF

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs the compiled kernels")

# Rows, depth, columns: single rows, ends of tiles, depths and panels that are not full.
SHAPES = [(1, 4, 1), (7, 36, 50), (13, 256, 200), (700, 64, 96)]


def make_rows(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Rows of very different size, one of them zeros, one without a negative number.
    x = torch.randn(rows, width, generator=generator) * torch.logspace(-3, 2, rows)[:, None]
    if rows > 2:
        x[1] = 0
        x[2] = x[2].abs() + 1
    return x.to(dtype)


def assert_rounded(found: int8.QuantizedRows, exact: Tensor) -> None:
    """Every number is off by half a step of its row at the most, and zero is exact."""
    low, high = exact.amin(1).clamp_max(0), exact.amax(1).clamp_min(0)
    steps = (high - low) / 255
    # The zero point is rounded too, so that a row's end may lose another half step.
    error = (found.dequantized() - exact).abs()
    assert (error <= 1.01 * steps[:, None] + 1e-6).all()
    assert error.mean() <= 0.3 * steps.mean() + 1e-6
    zeros = found.values == found.zeros[:, None]
    assert (exact.abs()[zeros] <= 1.01 * steps[:, None].expand_as(exact)[zeros]).all()


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 36, 256])
def test_rows_are_rounded_to_255_steps_of_their_own_range(dtype: torch.dtype, width: int) -> None:
    x = make_rows(13, width, dtype)
    assert_rounded(int8.quantize(x), x.float())


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_activation_are_torch_s_before_they_are_rounded(dtype: torch.dtype) -> None:
    x = torch.randn(9, 72, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight, bias = torch.linspace(0.5, 2, 72), torch.linspace(-1, 1, 72)
    found = int8.quantized_layer_norm(x, weight, bias, 1e-5)
    assert_rounded(found, F.layer_norm(x.float(), (72,), weight, bias, 1e-5))
    gated = int8.quantized_geglu(x)
    assert_rounded(gated, F.gelu(x[:, :36].float()) * x[:, 36:].float())


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
def test_products_are_exact_but_for_the_last_rounding(
    dtype: torch.dtype, rows: int, depth: int, columns: int
) -> None:
    x = int8.quantize(make_rows(rows, depth, dtype))
    weight = torch.randn(columns, depth, generator=torch.Generator().manual_seed(2))
    bias = torch.linspace(-1, 1, columns)
    residual = make_rows(rows, columns, dtype, seed=3)
    scales = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scales).round() * scales
    exact = x.dequantized() @ rounded.T + bias
    layer = int8.Int8Linear(weight, bias)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8
    assert_near(layer(x), exact, tolerance)
    assert_near(layer.plus(x, residual), exact + residual.float(), tolerance)


def assert_near(found: Tensor, expected: Tensor, relative: float) -> None:
    largest = expected.abs().amax(1, keepdim=True).clamp_min(1)
    assert ((found.float() - expected).abs() / largest).max() <= relative


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 40])
@pytest.mark.parametrize(("depth", "columns"), [(64, 96), (128, 1), (192, 200), (36, 50)])
def test_products_on_tiles_are_those_of_vectors(
    emulated: str, rows: int, depth: int, columns: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = int8.Int8Linear(torch.randn(columns, depth, generator=generator), None)
    x = int8.quantize(make_rows(rows, depth, dtype))
    found = linear(x)
    native.choose_instruction_set(VECTORS_OF[emulated])
    torch.testing.assert_close(found, linear(x), rtol=1e-6, atol=0)


@pytest.mark.usefixtures("instruction_set")
def test_states_do_not_depend_on_what_else_is_in_the_batch(make_model: Any, token_ids: Any) -> None:
    packed = PackedModernBert(make_model(), is_int8=True)
    ids = token_ids([40, 7, 129, 1])
    with torch.no_grad():
        together = packed(pack(ids))
        alone = torch.cat([packed(pack([each])) for each in ids])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [DenseEncoder, MultiVectorEncoder])
def test_vectors_are_near_those_of_float32(tiny_backbone: Path, tmp_path: Path, kind: Any) -> None:
    """The quality bound: a cosine of 0.99 for every vector, on a model of random weights."""
    kind.from_backbone(tiny_backbone).save(tmp_path)
    texts = ["read a file", "", "def f(x):\n    return x", "the path " * 100]
    exact, rounded = (
        [np.atleast_2d(each) for each in kind.load(tmp_path, dtype=dtype).encode_documents(texts)]
        for dtype in ("float32", "int8")
    )
    for expected, found in zip(exact, rounded, strict=True):
        assert ((expected * found).sum(1) >= 0.99).all()
    assert any(not np.array_equal(*pair) for pair in zip(exact, rounded, strict=True))


def test_int8_is_refused_where_it_would_not_be_int8(make_model: Any, token_ids: Any) -> None:
    packed = PackedModernBert(make_model(), is_int8=True)
    with pytest.raises(ConfigError, match="int8 is for inference"):
        packed(pack(token_ids([3])))  # with gradients
    with pytest.raises(ConfigError, match="multiples of 4, not"):
        PackedModernBert(make_model(intermediate_size=50), is_int8=True)


def test_int8_of_another_architecture_is_refused(minilm_path: Path) -> None:
    encoder = DenseEncoder.load(minilm_path, dtype="int8", device="cpu")
    with pytest.raises(ConfigError, match="int8 is for a ModernBERT"):
        next(encoder.encode_documents(["a text"]))
