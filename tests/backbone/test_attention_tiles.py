"""Attention on AMX tiles, emulated, is that of torch and of the portable kernels."""

from __future__ import annotations

import ctypes
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from retrieval import native
from retrieval.backbone import kernels
from retrieval.backbone.rotary import rotate
from tests.tiles import VECTORS_OF

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs the compiled kernels")


def attend(
    instruction_set: str,
    qkv: Tensor,
    lengths: list[int],
    *,
    heads: int,
    window: int | None,
    key_lengths: list[int] | None = None,
) -> Tensor:
    native.choose_instruction_set(instruction_set)
    cosines, sines = tables(max(lengths), qkv.shape[1] // 3 // heads)
    return kernels.Attention(
        heads=heads,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        key_lengths=None if key_lengths is None else np.asarray(key_lengths, np.int32),
        window=window,
        cosines=cosines,
        sines=sines,
    ).attend(qkv)


def tables(positions: int, width: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(positions)[:, None] / 100.0 ** (torch.arange(0, width, 2) / width)
    return angles.cos(), angles.sin()


def attend_in_torch(
    qkv: Tensor,
    lengths: list[int],
    *,
    heads: int,
    window: int | None,
    key_lengths: list[int] | None = None,
) -> Tensor:
    """Every score of every sequence, in float32."""
    width = qkv.shape[1] // 3 // heads
    outputs = []
    for one, keys in zip(torch.split(qkv, lengths), key_lengths or lengths, strict=True):
        length = len(one)
        q, k, v = one.float().view(length, 3, heads, width).permute(1, 2, 0, 3)
        table = tables(length, width)
        q, k = (rotate(each, *table).bfloat16().float() for each in (q, k))
        position = torch.arange(length)
        is_seen = (position < keys).expand(length, length)
        if window is not None:
            is_seen = is_seen & ((position[:, None] - position).abs() <= window)
        scores = (q @ k.mT / width**0.5).masked_fill(~is_seen, -torch.inf)
        outputs.append((scores.softmax(-1).nan_to_num(0) @ v).transpose(0, 1).flatten(1))
    return torch.cat(outputs).bfloat16()


def random_qkv(tokens: int, hidden: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, 3 * hidden, generator=generator).bfloat16()


def check(found: Tensor, expected: Tensor) -> None:
    # Tiles take probabilities rounded to bfloat16; both sides round the output, by up to 1/256.
    torch.testing.assert_close(found.float(), expected.float(), atol=1 / 128, rtol=1 / 64)


@pytest.mark.parametrize("width", [32, 64, 96, 256])
@pytest.mark.parametrize("window", [None, 0, 5, 64, 2**31 - 1], ids=lambda each: f"window {each}")
@pytest.mark.parametrize("some", [False, True], ids=["all keys", "some keys"])
def test_tiles_attend_as_torch_does(
    emulated: str, width: int, window: int | None, some: bool
) -> None:
    # Around one and two tiles, a block of 256 keys or queries, and nothing at all.
    lengths = [1, 2, 15, 16, 17, 31, 32, 33, 0, 65, 256, 257, 300]
    key_lengths = [length // 3 for length in lengths] if some else None
    qkv = random_qkv(sum(lengths), 2 * width, seed=width)
    found = attend(emulated, qkv, lengths, heads=2, window=window, key_lengths=key_lengths)
    expected = attend_in_torch(qkv, lengths, heads=2, window=window, key_lengths=key_lengths)
    check(found, expected)
    sees_nothing = (expected == 0).all(1)
    assert sees_nothing.any() == some
    assert torch.equal(sees_nothing, (found == 0).all(1))


@pytest.mark.parametrize("window", [None, 700], ids=lambda each: f"window {each}")
def test_later_keys_with_larger_scores_outweigh_earlier_blocks(
    emulated: str, window: int | None
) -> None:
    qkv = random_qkv(1_100, 64)
    qkv[:, 64:128] *= torch.linspace(0.1, 4, 1_100)[:, None].bfloat16()
    found = attend(emulated, qkv, [1_100], heads=1, window=window)
    check(found, attend_in_torch(qkv, [1_100], heads=1, window=window))


def test_scores_of_thousands_neither_overflow_nor_vanish(emulated: str) -> None:
    qkv = random_qkv(40, 64)
    qkv[:, :128] *= 50
    found = attend(emulated, qkv, [40], heads=1, window=None)
    expected = attend_in_torch(qkv, [40], heads=1, window=None)
    assert expected.float().abs().amax(1).min() > 0.5
    check(found, expected)


def test_the_longest_sequences_attend_within_their_windows(emulated: str) -> None:
    qkv = random_qkv(8_192, 32)
    found, expected = (
        attend(each, qkv, [8_192], heads=1, window=64) for each in (emulated, "portable")
    )
    check(found, expected)


@pytest.mark.slow
def test_the_longest_sequences_attend_to_everything(emulated: str) -> None:
    qkv = random_qkv(8_192, 32)
    found, expected = (
        attend(each, qkv, [8_192], heads=1, window=None) for each in (emulated, "portable")
    )
    check(found, expected)


@pytest.mark.parametrize("window", [None, 64], ids=lambda each: f"window {each}")
def test_a_sequence_does_not_depend_on_those_beside_it(emulated: str, window: int | None) -> None:
    lengths = [20, 300, 1, 64]
    qkv = random_qkv(sum(lengths), 64)
    together = attend(emulated, qkv, lengths, heads=1, window=window)
    alone = [
        attend(emulated, one.clone(), [len(one)], heads=1, window=window)
        for one in torch.split(qkv, lengths)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_widths_that_fill_no_tile_take_the_kernels_without_tiles(emulated: str) -> None:
    qkv = random_qkv(50, 48)
    found, expected = (
        attend(each, qkv, [50], heads=1, window=5) for each in (emulated, VECTORS_OF[emulated])
    )
    assert torch.equal(found, expected)


def test_emulation_is_only_taken_on_request(emulated: str) -> None:
    assert native.instruction_set() == emulated
    assert not set(VECTORS_OF) & set(native.instruction_sets())


# Each with the number of its arguments, the one that it writes to, and a number of it to change.
CHECKED = {"attention": (8, 1, 1_000), "attention_gradient": (10, 4, 5_000)}


@pytest.mark.parametrize("name", CHECKED)
def test_the_library_tells_a_right_function_from_a_wrong_one(emulated: str, name: str) -> None:
    library = native.library()
    assert library is not None
    arguments, written, number = CHECKED[name]
    function = getattr(library, f"retrieval_{name}")
    is_right = getattr(library, f"retrieval_{name}_is_right")

    def right(*addresses: int) -> None:
        function(1, *[ctypes.c_void_p(each) for each in addresses])

    def nothing(*_: int) -> None:
        pass

    def one_number_wrong(*addresses: int) -> None:
        right(*addresses)
        ctypes.c_uint16.from_address(addresses[written] + 2 * number).value ^= 1 << 15

    callback = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)
    verdicts = [is_right(callback(each)) for each in (right, nothing, one_number_wrong)]
    assert verdicts == [1, 0, 0]


def test_an_instruction_set_that_failed_its_check_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Function:
        def __init__(self, value: int | bytes) -> None:
            self.value = value

        def __call__(self) -> int | bytes:
            return self.value

    broken = SimpleNamespace(
        retrieval_abi_version=Function(native.ABI_VERSION),
        retrieval_instruction_set=Function(b""),
        retrieval_current_instruction_set=Function(b"avx512_bf16"),
        retrieval_rejected_instruction_set=Function(b"avx512_amx"),
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda path: broken)
    with caplog.at_level(logging.INFO, "retrieval.native"):
        found: object = native.library.__wrapped__()
    assert found is broken
    assert caplog.messages == [
        "avx512_amx gave wrong results in the library's check of itself: not used",
        "compiled kernels: avx512_bf16",
    ]
