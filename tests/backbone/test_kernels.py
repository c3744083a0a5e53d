"""Every instruction set's kernels compute what torch computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval import native
from retrieval.backbone import kernels
from retrieval.errors import ConfigError
from tests.backbone.attention_cases import attend_in_torch, offsets_of, tables

INSTRUCTION_SETS = native.instruction_sets()
needs_library = pytest.mark.skipif(not INSTRUCTION_SETS, reason="needs the compiled kernels")

# One rounding to bfloat16's 8 bits is 1/256 of a value; results here are of size 1 to 4.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 4e-2}
DTYPES = list(TOLERANCES)


def check(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=TOLERANCES[dtype], rtol=1e-2)


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [2, 16, 20, 24, 64, 96, 128])
@pytest.mark.parametrize("window", [None, 5, 64], ids=lambda each: f"window {each}")
@pytest.mark.parametrize("some", [False, True], ids=["all keys", "some keys"])
def test_attention_is_that_of_torch(
    instruction_set: str, dtype: torch.dtype, width: int, window: int | None, some: bool
) -> None:
    lengths = [1, 2, 7, 8, 17, 33, 64, 65, 130, 1, 300]
    key_lengths = [max(1, length // 3) for length in lengths] if some else None
    generator = torch.Generator().manual_seed(width)
    qkv = torch.randn(sum(lengths), 3 * 3 * width, generator=generator).to(dtype)
    cosines, sines = tables(300, width)
    found = kernels.Attention(
        heads=3,
        offsets=offsets_of(lengths),
        key_lengths=None if key_lengths is None else np.asarray(key_lengths, np.int32),
        window=window,
        cosines=cosines,
        sines=sines,
    ).attend(qkv)
    expected = attend_in_torch(
        qkv,
        heads=3,
        lengths=lengths,
        key_lengths=key_lengths,
        window=window,
        cosines=cosines,
        sines=sines,
    )
    check(found, expected, dtype)


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 64], ids=lambda each: f"window {each}")
def test_attention_over_many_blocks_of_keys_is_that_of_torch(
    instruction_set: str, dtype: torch.dtype, window: int | None
) -> None:
    lengths = [1_100, 513, 512, 511]
    qkv = torch.randn(sum(lengths), 3 * 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    # Scores that grow along the keys, so that every block has a larger maximum than the last.
    qkv[:, 64:128] *= torch.linspace(0.1, 3, len(qkv))[:, None].to(dtype)
    cosines, sines = tables(1_100, 64)
    found = kernels.Attention(
        heads=1,
        offsets=offsets_of(lengths),
        key_lengths=None,
        window=window,
        cosines=cosines,
        sines=sines,
    ).attend(qkv)
    expected = attend_in_torch(
        qkv,
        heads=1,
        lengths=lengths,
        key_lengths=None,
        window=window,
        cosines=cosines,
        sines=sines,
    )
    check(found, expected, dtype)


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_huge_scores_neither_overflow_nor_vanish(instruction_set: str, dtype: torch.dtype) -> None:
    qkv = torch.randn(40, 3 * 16, generator=torch.Generator().manual_seed(0))
    qkv[:, :32] *= 100  # scores of some thousands: each query sees one key alone
    qkv = qkv.to(dtype)
    cosines, sines = torch.ones(40, 8), torch.zeros(40, 8)
    found = kernels.Attention(
        heads=1,
        offsets=offsets_of([40]),
        key_lengths=None,
        window=None,
        cosines=cosines,
        sines=sines,
    ).attend(qkv)
    scores = qkv[:, :16].float() @ qkv[:, 16:32].float().T
    check(found, qkv[scores.argmax(1), 32:].float(), dtype)


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_token_that_sees_no_key_gives_zeros(instruction_set: str, dtype: torch.dtype) -> None:
    qkv = torch.randn(30, 3 * 16).to(dtype)
    cosines, sines = tables(30, 16)
    found = kernels.Attention(
        heads=1,
        offsets=offsets_of([30]),
        key_lengths=np.asarray([4], np.int32),
        window=5,
        cosines=cosines,
        sines=sines,
    ).attend(qkv)
    # The last key is number 3, and number 8 is the last query that sees it.
    assert (found[:9].float().abs().sum(1) > 0).all()
    assert torch.equal(found[9:], torch.zeros(21, 16, dtype=dtype))


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 5, 16, 40, 100, 256])
@pytest.mark.parametrize("has_bias", [False, True])
def test_layer_norm_is_that_of_torch(
    instruction_set: str, dtype: torch.dtype, width: int, has_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(9, width, generator=generator) * 3 + 2).to(dtype)
    weight = torch.randn(width, generator=generator)
    bias = torch.randn(width, generator=generator) if has_bias else None
    found = kernels.layer_norm(x, weight, bias, 1e-5)
    check(found, F.layer_norm(x.float(), (width,), weight, bias, 1e-5), dtype)


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 5, 16, 37, 384])
def test_geglu_is_that_of_torch(instruction_set: str, dtype: torch.dtype, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2 * width, generator=generator) * 3
    x[0, :width] = torch.linspace(-12, 12, width)  # the flat ends of GELU
    x = x.to(dtype)
    first, gate = x.float().chunk(2, dim=-1)
    check(kernels.geglu(x), F.gelu(first) * gate, dtype)


@needs_library
def test_an_unknown_instruction_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'mmx' is not to be had here, expected one of .*'port"):
        native.choose_instruction_set("mmx")


@needs_library
def test_the_portable_kernels_are_always_there_and_last() -> None:
    assert INSTRUCTION_SETS[-1] == "portable"


def test_without_the_library_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    assert not kernels.are_available(torch.float32, 64)
    assert native.instruction_sets() == []
    with pytest.raises(ConfigError, match="expected one of"):
        native.choose_instruction_set("portable")


@needs_library
def test_odd_widths_and_other_dtypes_have_no_kernels() -> None:
    assert kernels.are_available(torch.bfloat16, 64)
    assert not kernels.are_available(torch.float16, 64)
    assert not kernels.are_available(torch.float32, 63)
    assert not kernels.are_available(torch.float32, 1_024)
