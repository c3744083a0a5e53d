"""Best matches by the compiled library are those of torch, on every instruction set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from retrieval import native
from retrieval.training.batch_maxsim import _in_blocks, maxsim_of_all
from retrieval.training.native_matches import best_matches, is_supported

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs the compiled kernels")

Batch = tuple[Tensor, Tensor, Tensor | None]


def batch(rows: int, shape: tuple[int, int, int], kept: float | None = None) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    keep = None if kept is None else torch.rand(shape[:2], generator=generator) < kept
    return (
        torch.randn(rows, shape[2], generator=generator),
        torch.randn(shape, generator=generator),
        keep,
    )


@pytest.mark.parametrize("rows", [1, 15, 16, 33, 256, 257, 600])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (2, 8, 24), (5, 9, 128)], ids=str)
@pytest.mark.parametrize("kept", [None, 0.0, 0.5, 1.0])
def test_matches_are_those_of_torch(
    instruction_set: str, rows: int, shape: tuple[int, int, int], kept: float | None
) -> None:
    case = batch(rows, shape, kept)
    best, token = best_matches(*case)
    expected, expected_token = _in_blocks(*case)
    torch.testing.assert_close(best, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(token, expected_token)  # no two products are nearly equal here


def test_the_first_of_equal_products_is_named(instruction_set: str) -> None:
    queries = torch.eye(3)
    documents = torch.tensor([2, 0, 1, 0, 1, 2, 0])
    best, token = best_matches(queries, queries[documents][None], None)
    assert best.tolist() == [[1.0, 1.0, 1.0]]
    assert token.tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("place", [0, 3, 8])
def test_what_is_no_number_stays_and_reaches_the_loss(instruction_set: str, place: int) -> None:
    queries, documents, _ = batch(20, (2, 9, 8))
    documents[1, place, 2] = torch.nan
    best, token = best_matches(queries, documents, None)
    assert best[0].isfinite().all()
    assert best[1].isnan().all()
    assert (token[1] == place).all()
    assert maxsim_of_all(queries[None], documents[None]).isnan().tolist() == [[False, True]]


def test_infinite_products_are_matched_as_by_torch(instruction_set: str) -> None:
    queries, documents, _ = batch(4, (1, 9, 8))
    queries[0], queries[1] = 1.0, -1.0
    documents[0, 5] = torch.inf
    best, token = best_matches(queries[:2], documents, None)
    expected, expected_token = _in_blocks(queries[:2], documents, None)
    torch.testing.assert_close(best, expected)
    assert torch.equal(token, expected_token)


def test_threads_and_layouts_change_no_bit() -> None:
    queries, documents, keep = batch(300, (11, 20, 32), 0.7)
    assert keep is not None
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(best_matches(queries, documents, keep))
            found.append(
                best_matches(
                    queries.T.contiguous().T,
                    documents.mT.contiguous().mT,
                    keep.T.contiguous().T,
                )
            )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_nothing_is_matched_without_documents_or_queries() -> None:
    assert [each.shape for each in best_matches(*batch(4, (0, 9, 8)))] == [(0, 4)] * 2
    assert [each.shape for each in best_matches(*batch(0, (2, 9, 8)))] == [(2, 0)] * 2
    best, token = best_matches(*batch(4, (2, 0, 8)))
    assert best.eq(-torch.inf).all()
    assert token.eq(0).all()


def test_other_devices_and_portable_kernels_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not is_supported(torch.device("meta"))
    for name, expected in (("portable", False), (None, False), ("avx2", True)):
        monkeypatch.setattr(native, "instruction_set", lambda name=name: name)
        assert is_supported(torch.device("cpu")) is expected
