"""MaxSim of a batch against Sentence Transformers' own: scores, gradients, masks, autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sentence_transformers.multi_vector_encoder import scoring
from torch import Tensor
from torch.nn.functional import normalize

from retrieval.training import batch_maxsim, native_matches
from retrieval.training.batch_maxsim import (
    EMPTY_SCORE,
    maxsim_of_all,
    maxsim_of_own,
    maxsim_of_pairs,
)

Scores = Callable[..., Tensor]

PEERS: dict[str, tuple[Scores, Scores]] = {
    "all": (maxsim_of_all, scoring.colbert_scores),
    "own": (maxsim_of_own, scoring.colbert_kd_scores),
    "pairs": (maxsim_of_pairs, scoring.colbert_scores_pairwise),
}


def batch(kind: str, seed: int = 0) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Four queries of up to five tokens, and documents of up to nine, some skipped within."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 9) if kind == "pairs" else (4, 3, 9)
    vectors = [
        normalize(torch.randn(*size, 8, generator=generator), dim=-1) for size in ((4, 5), shape)
    ]
    lengths = torch.randint(2, 10, shape[:-1], generator=generator)
    keep = torch.arange(9) < lengths[..., None]
    keep[..., 1] = False
    asked = torch.arange(5) < torch.tensor([5, 3, 1, 4])[:, None]
    return vectors, {"queries_mask": asked, "documents_mask": keep}


def scores_and_gradients(
    function: Scores, vectors: list[Tensor], masks: dict[str, Tensor]
) -> list[Tensor]:
    leaves = [each.clone().requires_grad_() for each in vectors]
    found = function(*leaves, **masks)
    weights = torch.linspace(-1, 1.5, found.numel()).view(found.shape)
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [each.grad for each in leaves if each.grad is not None]
    assert len(gradients) == 2
    return [found.detach(), *gradients]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("block", [None, 1, 200, 1 << 20])
@pytest.mark.parametrize("kind", PEERS)
def test_scores_and_gradients_are_autograds(
    kind: str, block: int | None, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block is not None:  # without the library, or on another device
        monkeypatch.setattr(native_matches, "is_supported", lambda device: False)
        monkeypatch.setitem(batch_maxsim._BLOCK, "cpu", block)
    ours, theirs = PEERS[kind]
    vectors, masks = batch(kind)
    for own, other in zip(
        scores_and_gradients(ours, vectors, masks if masked else {}),
        scores_and_gradients(theirs, vectors, masks if masked else {}),
        strict=True,
    ):
        assert own.dtype == torch.float32
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", PEERS)
def test_what_is_masked_changes_nothing_and_gets_no_gradient(kind: str) -> None:
    ours, _ = PEERS[kind]
    (queries, documents), masks = batch(kind)
    asked, keep = masks["queries_mask"], masks["documents_mask"]
    clean = scores_and_gradients(ours, [queries, documents], masks)
    loud = [
        torch.where(mask[..., None], each, 100.0)
        for each, mask in ((queries, asked), (documents, keep))
    ]
    for own, other in zip(scores_and_gradients(ours, loud, masks), clean, strict=True):
        torch.testing.assert_close(own, other)
    assert not clean[1][~asked].any()
    assert not clean[2][~keep].any()
    assert clean[1][asked].any(-1).all()


@pytest.mark.parametrize("kind", PEERS)
def test_a_document_without_tokens_scores_as_with_sentence_transformers(kind: str) -> None:
    ours, theirs = PEERS[kind]
    vectors, masks = batch(kind)
    masks["documents_mask"][1] = False
    own, other = (scores_and_gradients(each, vectors, masks) for each in (ours, theirs))
    assert (own[0] == EMPTY_SCORE).any()
    for one, another in zip(own, other, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-5)
    assert not own[2][1].any()


def test_padding_loses_to_a_negative_match() -> None:
    queries, documents = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[[-1.0, 0.0], [0.0, 0.0]]]])
    mask = torch.tensor([[[True, False]]])
    assert maxsim_of_all(queries, documents, documents_mask=mask).tolist() == [[-1.0]]


def test_the_first_of_equal_matches_has_the_gradient() -> None:
    queries = torch.tensor([[[1.0, 0.0]]])
    documents = torch.tensor([[[[0.5, 0.0], [0.5, 0.0]]]], requires_grad=True)
    maxsim_of_all(queries, documents).sum().backward()  # type: ignore[no-untyped-call]
    assert documents.grad is not None
    assert documents.grad[0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_autocast_does_not_round_similarities() -> None:
    vectors, masks = batch("all")
    exact = scores_and_gradients(maxsim_of_all, vectors, masks)
    with torch.autocast("cpu", torch.bfloat16):
        found = scores_and_gradients(maxsim_of_all, vectors, masks)
        rounded = PEERS["all"][1](*vectors, **masks)
    for own, other in zip(found, exact, strict=True):
        assert torch.equal(own, other)
    assert float((rounded - exact[0]).abs().max()) > 1e-3  # what it is spared


def test_half_precision_vectors_have_gradients_of_their_own_dtype() -> None:
    vectors, masks = batch("all")
    halves = [each.bfloat16() for each in vectors]
    found, *gradients = scores_and_gradients(maxsim_of_all, halves, masks)
    assert found.dtype == torch.float32
    assert [each.dtype for each in gradients] == [torch.bfloat16] * 2
    expected = maxsim_of_all(*[each.float() for each in halves], **masks)
    torch.testing.assert_close(found, expected)
