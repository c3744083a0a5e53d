"""MaxSim of a batch in training, of whose similarities only the best matches get a gradient.

The signatures are those of Sentence Transformers' `colbert_scores`, `colbert_kd_scores` and
`colbert_scores_pairwise`, in whose losses these functions stand. Similarities are computed in
float32 whatever autocast says: in bfloat16 a score of 32 tokens is up to a hundredth off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retrieval.training import native_matches

# Q queries, M query tokens, R query tokens of all queries, B queries with documents of their own,
# N documents of each, P documents of all, T document tokens, D width

EMPTY_SCORE = -1e9
"""Of a document none of whose tokens count, as Sentence Transformers has it: below any real one,
and still finite when a loss scales or squares it."""

# Similarities that exist at a time: on a processor what stays in its cache.
_BLOCK = {"cpu": 1 << 18}
_LARGE_BLOCK = 1 << 26


def maxsim_of_all(
    queries_QMD: Tensor,
    documents_BNTD: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
) -> Tensor:
    """Scores of every query with every document; differentiable.

    Args:
        queries_QMD: (Q, M, D).
        documents_BNTD: (B, N, T, D), on the same device.
        queries_mask: (Q, M), nonzero for tokens that are summed; None for all.
        documents_mask: (B, N, T), nonzero for tokens that may be matched; None for all.

    Returns:
        (Q, B * N) float32; `EMPTY_SCORE`, without a gradient, for a document without tokens. Of
        equal best matches one has the whole gradient: the one that `torch.max` names.
    """
    keep_PT = None if documents_mask is None else documents_mask.flatten(0, 1).bool()
    best_PR = _best_matches(queries_QMD.flatten(0, 1), documents_BNTD.flatten(0, 1), keep_PT)
    best_PQM = best_PR.view(-1, *queries_QMD.shape[:2])
    return _sum(best_PQM, queries_mask, keep_PT).T


def maxsim_of_own(
    queries_QMD: Tensor,
    documents_QNTD: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
) -> Tensor:
    """Scores of every query with the documents of its own; (Q, N), else as `maxsim_of_all`."""
    count = len(queries_QMD)
    query_masks = _rows(queries_mask, count)
    document_masks = _rows(documents_mask, count)
    scores = [
        _sum(_best_matches(query, documents, keep), query_mask, keep)
        for query, documents, query_mask, keep in zip(
            queries_QMD.unbind(), documents_QNTD.unbind(), query_masks, document_masks, strict=True
        )
    ]
    return torch.stack(scores)


def maxsim_of_pairs(
    queries_QMD: Tensor,
    documents_QTD: Tensor,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
) -> Tensor:
    """Scores of every query with the document beside it; (Q,), else as `maxsim_of_all`."""
    keep_Q1T = None if documents_mask is None else documents_mask[:, None]
    return maxsim_of_own(queries_QMD, documents_QTD[:, None], queries_mask, keep_Q1T)[:, 0]


def _rows(mask: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * count if mask is None else mask.bool().unbind()


def _sum(best: Tensor, queries_mask: Tensor | None, keep_PT: Tensor | None) -> Tensor:
    """(P, ..., M) matches summed over a query's tokens."""
    if queries_mask is not None:
        best = best.masked_fill(~queries_mask.bool(), 0.0)
    scores = best.sum(-1)
    if keep_PT is None:
        return scores
    is_empty = ~keep_PT.any(-1)
    return scores.masked_fill(is_empty.view(-1, *[1] * (scores.ndim - 1)), EMPTY_SCORE)


def _best_matches(queries_RD: Tensor, documents_PTD: Tensor, keep_PT: Tensor | None) -> Tensor:
    """(P, R) float32 similarity of every query token with its nearest kept token of a document."""
    with torch.autocast(queries_RD.device.type, enabled=False):
        best: Tensor = _BestMatches.apply(  # type: ignore[no-untyped-call]
            queries_RD.float(), documents_PTD.float(), keep_PT
        )
    return best


class _BestMatches(torch.autograd.Function):
    """Autograd's own way has all R x P x T similarities at a time, and as many gradients."""

    @staticmethod
    def forward(
        ctx: Any, queries_RD: Tensor, documents_PTD: Tensor, keep_PT: Tensor | None
    ) -> Tensor:
        is_native = native_matches.is_supported(queries_RD.device)
        find = native_matches.best_matches if is_native else _in_blocks
        best_PR, token_PR = find(queries_RD, documents_PTD, keep_PT)
        ctx.save_for_backward(queries_RD, documents_PTD, token_PR)
        return best_PR

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PR: Tensor) -> tuple[Tensor, Tensor, None]:
        queries_RD, documents_PTD, token_PR = ctx.saved_tensors
        of_queries, of_documents = torch.zeros_like(queries_RD), torch.zeros_like(documents_PTD)
        parts = zip(gradient_PR[..., None], token_PR, documents_PTD, of_documents, strict=True)
        for gradient_R1, token_R, document_TD, of_document in parts:
            of_queries.addcmul_(gradient_R1, document_TD[token_R])
            of_document.index_add_(0, token_R, gradient_R1 * queries_RD)
        return of_queries, of_documents, None


def _in_blocks(
    queries_RD: Tensor, documents_PTD: Tensor, keep_PT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `native_matches.best_matches`, on any device."""
    count, tokens, _ = documents_PTD.shape
    best_PR = queries_RD.new_empty(count, len(queries_RD))
    token_PR = torch.empty_like(best_PR, dtype=torch.int64)
    block = _BLOCK.get(queries_RD.device.type, _LARGE_BLOCK)
    step = max(1, block // max(1, len(queries_RD) * tokens))
    for first in range(0, count, step):
        part = slice(first, first + step)
        # (p, R, T): documents first, so that what is kept of a block lies together.
        similarity = torch.matmul(queries_RD, documents_PTD[part].mT)
        if keep_PT is not None:
            # Padding must lose even to a negative match.
            similarity.masked_fill_(~keep_PT[part, None], -torch.inf)
        torch.max(similarity, -1, out=(best_PR[part], token_PR[part]))
    return best_PR, token_PR
