"""Packing loses nothing: offsets, positions, rows with padding again, and batches by budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrieval.backbone.packing import PackedBatch, pack, pack_padded, token_batches, unpack

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def test_sequences_lie_end_to_end_with_their_positions_and_owners() -> None:
    batch = pack([[7, 8, 9], [5], [6, 6]])
    assert batch.ids.tolist() == [7, 8, 9, 5, 6, 6]
    assert batch.ids.dtype == torch.int64
    assert batch.lengths.tolist() == [3, 1, 2]
    assert batch.offsets.tolist() == [0, 3, 4, 6]
    assert batch.offsets_on_device.dtype == torch.int32
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.sequence_of.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.longest == 3
    assert batch.is_key is None


def test_only_a_sequences_first_tokens_are_keys() -> None:
    batch = pack([[7, 8, 9], [5, 5]], key_lengths=[1, 2])
    assert batch.is_key is not None
    assert batch.is_key.tolist() == [True, False, False, True, True]


def test_padding_is_a_text_of_its_own_behind_the_others() -> None:
    batch = pack([[7, 8, 9], [5, 5]], key_lengths=[1, 2])
    padded = batch.padded(3)
    assert padded.ids.tolist() == [7, 8, 9, 5, 5, 0, 0, 0]
    assert padded.offsets.tolist() == [0, 3, 5, 8]
    assert padded.key_lengths is not None
    assert padded.key_lengths.tolist() == [1, 2, 3]
    assert pack([[7]]).padded(1).key_lengths is None
    assert batch.padded(0) is batch


@given(LENGTHS)
def test_dropping_the_padding_and_putting_it_back_changes_nothing(lengths: list[int]) -> None:
    numbers = np.asarray(lengths, np.int32)
    mask = torch.arange(max(lengths)) < torch.from_numpy(numbers)[:, None]
    ids = torch.arange(1, mask.numel() + 1).view(mask.shape) * mask
    batch = pack_padded(ids, mask.long())
    assert batch.lengths.tolist() == lengths
    assert torch.equal(unpack(batch.ids[:, None], batch.lengths)[:, :, 0], ids)


def test_unpacking_hands_each_token_its_own_gradient() -> None:
    states = torch.randn(6, 2, requires_grad=True)
    weights = torch.randn(3, 3, 2)
    lengths = np.asarray([3, 1, 2], np.int32)
    torch.autograd.backward((unpack(states, lengths) * weights).sum())
    kept = weights[torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()]
    assert states.grad is not None
    torch.testing.assert_close(states.grad, kept)


@given(LENGTHS, st.integers(1, 100), st.integers(1, 4))
def test_batches_hold_every_text_once_longest_first_within_the_budget(
    lengths: list[int], budget: int, parts: int
) -> None:
    numbers = np.asarray(lengths, np.int32)
    batches = token_batches(numbers, budget, parts=parts)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (np.diff(numbers[order]) <= 0).all()
    assert all(len(each) == 1 or numbers[each].sum() <= budget for each in batches)


def test_the_last_two_batches_are_halved_only_within_the_budget() -> None:
    lengths = np.array([20, 15, 9, 9, 1], np.int32)
    batches = token_batches(lengths, 20)
    assert [lengths[each].sum() for each in batches] == [20, 15, 19]
    lengths = np.array([20, 10, 10, 1], np.int32)
    assert [lengths[each].sum() for each in token_batches(lengths, 20)] == [20, 10, 11]
    lengths = np.array([90, 1], np.int32)
    assert [lengths[each].sum() for each in token_batches(lengths, 20)] == [90, 1]


def test_batches_are_as_full_as_the_budget_allows() -> None:
    batches = token_batches(np.full(100, 10, np.int32), 35)
    assert [len(each) for each in batches] == [3] * 32 + [2, 2], "no small one at the end"


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_every_worker_gets_a_share_of_a_small_window(parts: int) -> None:
    lengths = np.full(24, 10, np.int32)
    batches = token_batches(lengths, 10_000, parts=parts)
    assert [len(each) for each in batches] == [24 // parts] * parts


def test_no_texts_make_no_batches() -> None:
    assert token_batches(np.zeros(0, np.int32), 100) == []


def test_a_batch_can_hold_a_single_token() -> None:
    batch = PackedBatch(torch.tensor([4]), np.int32([1]))  # type: ignore[arg-type]
    assert batch.offsets.tolist() == [0, 1]
    assert batch.positions.tolist() == [0]
