"""oneDNN's linear layers are torch's, from any layout, and meet few numbers of rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from retrieval.backbone import onednn

ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 1 / 64}


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_outputs_are_those_of_torch(dtype: torch.dtype, has_bias: bool) -> None:
    if not onednn.is_available(dtype):
        pytest.skip("torch has no such product on this processor")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(37, 48, generator=generator).to(dtype)
    weight = (torch.randn(20, 48, generator=generator) / 7).to(dtype)
    bias = torch.randn(20, generator=generator).to(dtype) if has_bias else None
    addend = torch.randn(37, 20, generator=generator).to(dtype)
    right = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    as_stored = weight.t().contiguous().t()  # the same numbers, column by column
    for each in (weight, as_stored, onednn.pack(weight)):
        out = onednn.linear(x, each, bias)
        torch.testing.assert_close(out.float(), right, atol=1e-5, rtol=ROUNDING[dtype])
        out = onednn.linear_plus(x, each, bias, addend)
        torch.testing.assert_close(
            out.float(), right + addend.float(), atol=ROUNDING[dtype], rtol=ROUNDING[dtype]
        )


def test_other_dtypes_are_left_to_torch() -> None:
    assert not onednn.is_available(torch.float64)
    assert not onednn.is_available(torch.float16)


def test_numbers_of_rows_are_few_and_little_is_added() -> None:
    """For each, oneDNN keeps a compiled product: that made memory grow with the corpus."""
    rows = range(1, 8_193)
    for parts, most in ((8, 120), (32, 288)):
        computed = [each + onednn.spare_rows(each, parts=parts) for each in rows]
        assert len(set(computed)) <= most
        assert len({each for each in computed if 512 <= each <= 1_024}) == parts + 1
        share = 1 + 1 / parts
        assert all(each <= given * share + 1 for given, each in zip(rows, computed, strict=True))
