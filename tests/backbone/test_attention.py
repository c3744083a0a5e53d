"""Attention over a packed stream is softmax over each sequence by itself, window included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from retrieval.backbone.attention import GroupedAttention
from retrieval.backbone.attention_choice import Attention, attention_for
from retrieval.backbone.packing import PackedBatch, pack

TOLERANCE = 1e-5  # float32; sums of at most 200 products in another order
SHUFFLED = [5, 1, 17, 5, 4, 30, 9, 8, 1]
KEYS = [3, 1, 2, 5, 0, 30, 4, 8, 0]


def states(batch: PackedBatch, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, len(batch.ids), 2, 8)
    return list(torch.randn(shape, generator=generator).requires_grad_().unbind(0))


def batch_of(lengths: Sequence[int], key_lengths: Sequence[int] | None = None) -> PackedBatch:
    return pack([[1] * length for length in lengths], key_lengths)


def one_by_one(
    q: Tensor, k: Tensor, v: Tensor, *, batch: PackedBatch, window: int | None
) -> Tensor:
    """The definition: a matrix of weights for each sequence; no key gives zeros."""
    outs = []
    key_lengths = batch.lengths if batch.key_lengths is None else batch.key_lengths
    for start, length, keys in zip(batch.offsets, batch.lengths, key_lengths):
        one_q, one_k, one_v = (each[start : start + length] for each in (q, k, v))
        i, j = torch.arange(length)[:, None], torch.arange(length)
        is_seen = (j < int(keys)).expand(int(length), -1)
        if window is not None:
            is_seen = is_seen & ((i - j).abs() <= window)
        scores = torch.einsum("ihd,jhd->hij", one_q, one_k) / one_q.shape[-1] ** 0.5
        weights = scores.masked_fill(~is_seen, -torch.inf).softmax(-1)
        weights = torch.where(is_seen, weights, 0.0)
        outs.append(torch.einsum("hij,jhd->ihd", weights, one_v))
    return torch.cat(outs)


def make(name: str, batch: PackedBatch) -> Attention:
    if name.startswith("grouped"):
        return GroupedAttention(batch, max_padding=float(name.split()[1]))
    return attention_for(name, batch, torch.float32)  # type: ignore[arg-type]


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("name", ["grouped 0", "grouped 0.5", "grouped inf", "varlen", "flash"])
@pytest.mark.parametrize("window", [None, 1, 4, 16])
@pytest.mark.parametrize("key_lengths", [None, KEYS, SHUFFLED], ids=["all", "some", "named"])
def test_every_path_is_softmax_over_each_sequence(
    name: str, window: int | None, key_lengths: list[int] | None
) -> None:
    batch = batch_of(SHUFFLED, key_lengths)
    q, k, v = states(batch)
    out = make(name, batch)(q, k, v, window=window)
    expected = one_by_one(q, k, v, batch=batch, window=window)
    torch.testing.assert_close(out, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("name", ["grouped 0", "grouped inf", "varlen"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_lengths", [None, KEYS], ids=["all", "some"])
def test_every_path_has_the_definitions_gradients(
    name: str, window: int | None, key_lengths: list[int] | None
) -> None:
    batch = batch_of(SHUFFLED, key_lengths)
    inputs = states(batch)
    weights = torch.randn(len(batch.ids), 2, 8)
    found = torch.autograd.grad((make(name, batch)(*inputs, window=window) * weights).sum(), inputs)
    expected = torch.autograd.grad(
        (one_by_one(*inputs, batch=batch, window=window) * weights).sum(), inputs
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("lengths", [[64], [65], [66], [127, 128, 129, 130], [1] * 200, [200, 1]])
def test_the_window_includes_its_edges_at_every_length(lengths: list[int]) -> None:
    batch = batch_of(lengths)
    q, k, v = states(batch)
    out = GroupedAttention(batch, max_padding=0)(q, k, v, window=64)
    torch.testing.assert_close(
        out, one_by_one(q, k, v, batch=batch, window=64), atol=TOLERANCE, rtol=0
    )


def test_a_key_just_outside_the_window_changes_nothing_and_one_on_its_edge_does() -> None:
    batch = batch_of([40])
    q, k, v = states(batch)
    attention = GroupedAttention(batch, max_padding=0)
    out = attention(q, k, v, window=4)
    with torch.no_grad():
        v = v.clone()
        v[20] += 10
    change = (attention(q, k, v, window=4) - out).abs().amax((1, 2))
    assert (change > 1e-3).nonzero().flatten().tolist() == list(range(16, 25))


def test_a_sequence_never_sees_its_neighbours() -> None:
    batch = batch_of([6, 9, 20])
    q, k, v = states(batch)
    other = states(batch, seed=1)
    mixed = [torch.cat([a[:6], b[6:15], a[15:]]) for a, b in zip((q, k, v), other)]
    for window in (None, 4):
        attention = GroupedAttention(batch, max_padding=float("inf"))
        before, after = attention(q, k, v, window=window), attention(*mixed, window=window)
        kept = [*range(6), *range(15, 35)]
        torch.testing.assert_close(before[kept], after[kept], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("window", [None, 4])
def test_dropout_drops_weights_at_its_rate_and_repeats_with_the_seed(window: int | None) -> None:
    batch = batch_of([40] * 30)
    q, k, v = states(batch)
    v = torch.ones_like(v)
    attention = GroupedAttention(batch, max_padding=0)
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(attention(q, k, v, window=window, dropout=0.25))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    # The values are all 1, so an output is the sum of its weights: 1 on average, never without.
    assert float(outs[0].detach().mean()) == pytest.approx(1, abs=0.02)
    assert float(outs[0].detach().std()) > 0.1


@pytest.mark.usefixtures("kernels_on_cpu")
def test_the_kernel_is_never_given_a_window_with_fewer_keys_than_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from retrieval.backbone import attention_choice

    kernel: Any = attention_choice._varlen_attn()
    calls: list[tuple[int, tuple[int, int]]] = []

    def watched(q: Tensor, k: Tensor, *arguments: Any, **options: Any) -> Tensor:
        calls.append((len(q) - len(k), options["window_size"]))
        out: Tensor = kernel(q, k, *arguments, **options)
        return out

    monkeypatch.setattr(attention_choice, "_varlen_attn", lambda: watched)
    batch = batch_of(SHUFFLED, KEYS)
    attention = make("varlen", batch)
    for window in (None, 4, 100):
        attention(*states(batch), window=window)
    # The window of 100 is wider than any sequence and so is none.
    assert calls == [(sum(SHUFFLED) - sum(KEYS), (-1, -1))] * 2


def test_a_windowed_kernel_with_fewer_keys_would_be_wrong(kernels_on_cpu: None) -> None:
    """Why the one above holds: the kernels align such a window at the end of the sequence."""
    from retrieval.backbone import attention_choice

    batch = batch_of([12], [7])
    q, k, v = states(batch)
    kernel: Any = attention_choice._varlen_attn()
    offsets, key_offsets = (torch.tensor([0, n], dtype=torch.int32) for n in (12, 7))
    out = kernel(q, k[:7], v[:7], offsets, key_offsets, 12, 7, window_size=(4, 4))
    assert (out - one_by_one(q, k, v, batch=batch, window=4)).abs().max() > 0.1
