"""The stages of a search in torch, for many queries at a time; the answers of `numpy_search`.

Queries are filled up with zeros to the longest of their batch, which changes no sum; documents are
never padded: the tokens of all candidates are one run of rows, reduced by its owners.

Legend: B queries, M query tokens, K centroids, P probes, N documents of all segments, C candidates
of each query, F = B * C, T rows of tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.indexing.on_gpu.devices import Device, find_device, stack_queries
from retrieval.indexing.on_gpu.exact import chosen_scores, has_kernel
from retrieval.indexing.on_gpu.runs import maximum_by_owner, repeat, runs
from retrieval.indexing.on_gpu.segments import to_tensors
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.numpy_search import Effort, Mask, Positions
from retrieval.indexing.plaid.segment import Segment
from retrieval.indexing.plaid.values import Floats

_MEMORY_BYTES = 1 << 31

Ranked = tuple[Positions, Floats]


class _Rows(NamedTuple):
    """The tokens of some of the candidates, candidate after candidate."""

    numbers: Tensor
    """(T,) of the tokens in the index."""
    owners: Tensor
    """(T,) whose tokens they are, counted from the first of these candidates."""
    queries: Tensor
    """(T,) the queries that the candidates are of."""
    cuts: list[tuple[int, slice]]
    """Each query with its run of rows."""
    candidates: int
    """How many there are."""


class TorchSearcher:
    """Searches segments that share a codec; positions count through all of them.

    All arrays are copied to the device once. Products are of float32, or of TF32 where torch was
    told so. The host waits for the device once at each stage, to learn how many rows there are,
    whatever the number of queries.
    """

    def __init__(
        self,
        codec: ResidualCodec,
        segments: Sequence[Segment],
        device: Device | None = None,
        *,
        memory_bytes: int = _MEMORY_BYTES,
    ) -> None:
        """Copy the segments.

        Args:
            codec: of all segments.
            segments: in the order of their documents.
            device: as in `find_device`.
            memory_bytes: that a search may take beside the index; fewer queries then go together.
                One query takes 4 bytes for each of its tokens and each document and 12 for each of
                its tokens and each centroid, whatever is said here.

        Raises:
            ConfigError: there is no such device.
        """
        self.centroids = len(codec.centroids)
        self._device = find_device(device)
        self._index = to_tensors(codec, segments, self._device)
        self._memory_bytes = memory_bytes

    def search(self, query_MD: Floats, effort: Effort, mask: Mask | None) -> Ranked:
        """As `NumpySearcher.search`."""
        return self.search_many([query_MD], effort, mask)[0]

    def rank(self, query_MD: Floats, positions: Positions, effort: Effort) -> Ranked:
        """As `NumpySearcher.rank`."""
        return self.rank_many([query_MD], positions, effort)[0]

    @torch.inference_mode()
    def search_many(
        self, queries: Sequence[Floats], effort: Effort, mask: Mask | None
    ) -> list[Ranked]:
        """As `search`, for each of B arrays (M_b, D), each M_b at least 1."""
        allowed = None if mask is None else torch.from_numpy(np.array(mask)).to(self._device)
        documents = self._index.documents
        ranked: list[Ranked] = [_nothing() for _ in queries]
        if not documents:
            return ranked
        for numbers, queries_BMD, is_token_BM in self._batches(queries, documents):
            similarities_BMK = queries_BMD @ self._index.centroids_KD.T
            scores_BN = self._candidates(similarities_BMK, is_token_BM, effort.probes)
            if allowed is not None:
                scores_BN.masked_fill_(~allowed, -torch.inf)
            found = scores_BN.topk(min(effort.candidates, documents), dim=1)
            del scores_BN
            scores_BC, found_BC = found.values, found.indices
            similarities_BKM = similarities_BMK.transpose(1, 2).contiguous()
            del similarities_BMK
            if found_BC.shape[1] > effort.scored_at_once:
                by_centroids_BC = self._centroid_scores(
                    similarities_BKM, found_BC, scores_BC > -torch.inf
                )
                scores_BC, found_BC = _best(by_centroids_BC, found_BC, effort.scored_at_once)
            is_there_BC = scores_BC > -torch.inf
            finished = self._finish(
                queries_BMD, is_token_BM, similarities_BKM, found_BC, is_there_BC, effort
            )
            for number, each in zip(numbers, finished):
                ranked[number] = each
        return ranked

    @torch.inference_mode()
    def rank_many(
        self, queries: Sequence[Floats], positions: Positions, effort: Effort
    ) -> list[Ranked]:
        """As `rank`, the same documents for each of the queries."""
        ranked: list[Ranked] = [_nothing() for _ in queries]
        if not len(positions):
            return ranked
        chosen = torch.from_numpy(np.array(positions, np.int64)).to(self._device)
        for numbers, queries_BMD, is_token_BM in self._batches(queries, len(positions)):
            similarities_BMK = queries_BMD @ self._index.centroids_KD.T
            similarities_BKM = similarities_BMK.transpose(1, 2).contiguous()
            found_BC = chosen.expand(len(numbers), -1)
            is_there_BC = torch.ones_like(found_BC, dtype=torch.bool)
            finished = self._finish(
                queries_BMD, is_token_BM, similarities_BKM, found_BC, is_there_BC, effort
            )
            for number, each in zip(numbers, finished):
                ranked[number] = each
        return ranked

    def _batches(
        self, queries: Sequence[Floats], documents: int
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Queries of like lengths with their numbers, and which of the tokens are real."""
        order = sorted(range(len(queries)), key=lambda at: len(queries[at]), reverse=True)
        bytes_of_a_token = 4 * documents + 12 * len(self._index.centroids_KD)
        while order:
            longest = len(queries[order[0]])
            count = max(1, self._memory_bytes // 2 // (longest * bytes_of_a_token))
            numbers, order = order[:count], order[count:]
            lengths = torch.tensor([len(queries[at]) for at in numbers])
            is_token_BM = torch.arange(longest) < lengths[:, None]
            stacked_BMD = stack_queries([queries[at] for at in numbers], self._device)
            yield numbers, stacked_BMD, is_token_BM.to(self._device)

    def _candidates(self, similarities_BMK: Tensor, is_token_BM: Tensor, probes: int) -> Tensor:
        """(B, N) estimates, as `NumpySearcher.candidates` makes them; -inf for what was not met."""
        index, (queries, tokens, _) = self._index, similarities_BMK.shape
        best_BMP, chosen_BMP = similarities_BMK.topk(probes, dim=2)
        starts = index.list_starts[chosen_BMP]
        lengths = (index.list_starts[chosen_BMP + 1] - starts) * is_token_BM[:, :, None]
        starts, best, ends = starts.flatten(), best_BMP.flatten(), lengths.flatten().cumsum(0)
        # A document's part where none of its centroids was probed: it can't exceed the last one's.
        parts_BMN = best_BMP[:, :, -1:].repeat(1, 1, index.documents)
        is_met_BN = torch.zeros((queries, index.documents), dtype=torch.bool, device=self._device)
        total = int(ends[-1])
        entries_at_once = max(1, self._memory_bytes // 4 // 64)
        for at in range(0, total, entries_at_once):
            entries = torch.arange(at, min(total, at + entries_at_once), device=self._device)
            lists = torch.searchsorted(ends, entries, right=True)
            places = starts[lists] + entries - ends[lists] + lengths.flatten()[lists]
            found = index.list_documents[places].long()
            of_token = lists // probes
            parts_BMN.view(-1).scatter_reduce_(
                0, of_token * index.documents + found, best[lists], "amax"
            )
            is_met_BN.view(-1)[of_token // tokens * index.documents + found] = True
        return parts_BMN.sum(dim=1).masked_fill_(~is_met_BN, -torch.inf)

    def _finish(
        self,
        queries_BMD: Tensor,
        is_token_BM: Tensor,
        similarities_BKM: Tensor,
        found_BC: Tensor,
        is_there_BC: Tensor,
        effort: Effort,
    ) -> list[Ranked]:
        scores_BC = self._residual_scores(
            queries_BMD, is_token_BM, similarities_BKM, found_BC, is_there_BC, effort.margin
        )
        if effort.rescored and self._index.tokens is not None:
            scores_BC, found_BC = _best(scores_BC, found_BC, effort.rescored)
            scores_BC = self._exact_scores(queries_BMD, found_BC, scores_BC > -torch.inf)
        # Equal scores in order of position.
        found_BC, order_BC = found_BC.sort(dim=1)
        scores_BC = scores_BC.gather(1, order_BC)
        scores_BC, order_BC = scores_BC.sort(dim=1, descending=True, stable=True)
        positions, scores = found_BC.gather(1, order_BC).cpu().numpy(), scores_BC.cpu().numpy()
        counts = (scores > -np.inf).sum(axis=1)
        return [
            (each[:count].copy(), score[:count].copy())
            for each, score, count in zip(positions, scores, counts)
        ]

    def _centroid_scores(
        self, similarities_BKM: Tensor, found_BC: Tensor, is_there_BC: Tensor
    ) -> Tensor:
        def products(rows: _Rows) -> Tensor:
            return self._by_centroid(similarities_BKM, rows)

        return self._maxsim(found_BC, is_there_BC, similarities_BKM.shape[2], products)

    def _residual_scores(
        self,
        queries_BMD: Tensor,
        is_token_BM: Tensor,
        similarities_BKM: Tensor,
        found_BC: Tensor,
        is_there_BC: Tensor,
        margin: float,
    ) -> Tensor:
        # Nothing comes near to what only fills a query up.
        margins_BM = margin * torch.linalg.vector_norm(queries_BMD, dim=2)
        margins_BM.masked_fill_(~is_token_BM, -torch.inf)

        def products(rows: _Rows) -> Tensor:
            by_centroid = self._by_centroid(similarities_BKM, rows)
            found = _products(self._index.decode(rows.numbers), queries_BMD, rows.cuts)
            found += by_centroid
            found *= self._index.scales[rows.numbers].float()[:, None]
            if margin < math.inf:
                least = maximum_by_owner(by_centroid, rows.owners, rows.candidates)[rows.owners]
                is_near = (by_centroid >= least - margins_BM[rows.queries]).any(dim=1)
                found.masked_fill_(~is_near[:, None], -torch.inf)
            return found

        return self._maxsim(found_BC, is_there_BC, queries_BMD.shape[1], products)

    def _exact_scores(self, queries_BMD: Tensor, found_BC: Tensor, is_there_BC: Tensor) -> Tensor:
        tokens_TD = self._index.tokens
        assert tokens_TD is not None, "exact scores are asked for where tokens are kept"
        if has_kernel(tokens_TD):
            lengths_BC = self._lengths(found_BC, is_there_BC)
            return chosen_scores(queries_BMD, tokens_TD, self._index.offsets[found_BC], lengths_BC)

        def products(rows: _Rows) -> Tensor:
            return _products(tokens_TD[rows.numbers].float(), queries_BMD, rows.cuts)

        return self._maxsim(found_BC, is_there_BC, queries_BMD.shape[1], products)

    def _by_centroid(self, similarities_BKM: Tensor, rows: _Rows) -> Tensor:
        queries, centroids, tokens = similarities_BKM.shape
        at = rows.queries * centroids + self._index.codes[rows.numbers]
        return similarities_BKM.view(queries * centroids, tokens)[at]

    def _lengths(self, found_BC: Tensor, is_there_BC: Tensor) -> Tensor:
        """(B, C) tokens of the candidates; none of those that are not there."""
        lengths_BC = self._index.offsets[found_BC + 1] - self._index.offsets[found_BC]
        return lengths_BC * is_there_BC

    def _maxsim(
        self,
        found_BC: Tensor,
        is_there_BC: Tensor,
        query_tokens: int,
        products: Callable[[_Rows], Tensor],
    ) -> Tensor:
        """(B, C) sums over query tokens of the largest of each candidate's products.

        Args:
            found_BC: positions.
            is_there_BC: False scores -inf.
            query_tokens: M.
            products: makes (T, M) of some rows.
        """
        lengths_F = self._lengths(found_BC, is_there_BC).flatten()
        ends_F = lengths_F.cumsum(0)
        ends = ends_F.cpu().numpy()
        shifts_F = self._index.offsets[found_BC].flatten() + lengths_F - ends_F
        best_FM = torch.empty((len(ends), query_tokens), device=self._device)
        # Residuals and their numbers, three arrays of products, and the rows' own numbers.
        bytes_of_a_row = 12 * self._index.width + 12 * query_tokens + 64
        limit = max(1, self._memory_bytes // 4 // bytes_of_a_row)
        columns = found_BC.shape[1]
        for first, last in runs(ends, limit):
            before, end = int(ends[first - 1]) if first else 0, int(ends[last - 1])
            owners = repeat(lengths_F[first:last], end - before)
            numbers = torch.arange(before, end, device=self._device) + shifts_F[first:last][owners]
            cuts = _cuts(ends, first, last, columns)
            rows = _Rows(numbers, owners, (owners + first) // columns, cuts, last - first)
            best_FM[first:last] = maximum_by_owner(products(rows), owners, last - first)
        return best_FM.sum(dim=1).view_as(found_BC)


def _best(scores_BC: Tensor, found_BC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    best = scores_BC.topk(min(count, scores_BC.shape[1]), dim=1)
    return best.values, found_BC.gather(1, best.indices)


def _cuts(ends: NDArray[np.int64], first: int, last: int, columns: int) -> list[tuple[int, slice]]:
    """Each query of the candidates from `first` to `last`, and its run among their rows."""
    before = start = int(ends[first - 1]) if first else 0
    cuts = []
    for query in range(first // columns, (last - 1) // columns + 1):
        end = int(ends[min(last, (query + 1) * columns) - 1])
        cuts.append((query, slice(start - before, end - before)))
        start = end
    return cuts


def _products(rows_TD: Tensor, queries_BMD: Tensor, cuts: list[tuple[int, slice]]) -> Tensor:
    """(T, M) each row with the tokens of its own query."""
    found_TM = rows_TD.new_empty((len(rows_TD), queries_BMD.shape[1]))
    for query, run in cuts:
        torch.mm(rows_TD[run], queries_BMD[query].T, out=found_TM[run])
    return found_TM


def _nothing() -> Ranked:
    return np.empty(0, np.int64), np.empty(0, np.float32)
