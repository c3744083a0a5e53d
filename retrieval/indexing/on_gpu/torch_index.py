"""The PLAID index with its searches and its k-means on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from retrieval.indexing.index import Ranking
from retrieval.indexing.on_gpu.devices import Device, find_device
from retrieval.indexing.on_gpu.kmeans import TorchCentroidSearch
from retrieval.indexing.on_gpu.torch_search import TorchSearcher
from retrieval.indexing.plaid.codec import ResidualCodec
from retrieval.indexing.plaid.kmeans import Nearest
from retrieval.indexing.plaid.plaid_index import PlaidIndex
from retrieval.indexing.plaid.quality import SearchPlan
from retrieval.indexing.plaid.searcher import Searcher
from retrieval.indexing.plaid.settings import PlaidSettings
from retrieval.indexing.plaid.values import Floats


class TorchPlaidIndex(PlaidIndex):
    """`PlaidIndex` for batches on a GPU: the same files, the same hits, the same methods.

    It opens what `PlaidIndex` has built, and the other way round. It begins on the GPU where there
    is one, else on the CPU; `to` moves it. Searching copies the index to the device once, and
    again after a change; all queries of a search go together, as many as `memory_bytes` allows.

        index = TorchPlaidIndex.open(folder).to("cuda:1")
        hits = index.search(queries, k=10)

    `settings.engine` says what packs the residuals of a build, which stays on the CPU.
    """

    def __init__(self, settings: PlaidSettings | None = None, **keywords: Any) -> None:
        super().__init__(settings, **keywords)
        self._device = find_device()
        self._memory_bytes = 1 << 31

    def to(self, device: Device, *, memory_bytes: int = 1 << 31) -> Self:
        """Search and learn on this device from now on; returns the index itself.

        Args:
            device: "cuda", "cuda:1", "cpu".
            memory_bytes: that a search may take there beside the index, as in `TorchSearcher`.

        Raises:
            ConfigError: there is no such device.
        """
        self._device = find_device(device)
        self._memory_bytes = memory_bytes
        self._searcher = self._nearest = None
        return self

    def _centroid_search(self, centroids: Floats) -> Nearest:
        return TorchCentroidSearch(centroids, self._device)

    def _make_searcher(self, codec: ResidualCodec) -> TorchSearcher:
        return TorchSearcher(codec, self._segments, self._device, memory_bytes=self._memory_bytes)

    def _rankings(
        self, searcher: Searcher, queries: Sequence[Floats], plan: SearchPlan
    ) -> Iterator[Ranking]:
        """As `quality.ranking`, all queries together."""
        assert isinstance(searcher, TorchSearcher)
        rankings = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        waiting = [at for at, query in enumerate(queries) if len(query) and plan.k]
        effort = plan.effort
        while waiting:
            asked = [queries[at] for at in waiting]
            if plan.few is not None:
                found = searcher.rank_many(asked, plan.few, effort)
            else:
                found = searcher.search_many(asked, effort, plan.allowed)
            for at, (positions, scores) in zip(waiting, found):
                rankings[at] = positions[: plan.k], scores[: plan.k]
            if plan.few is not None or effort.probes >= searcher.centroids:
                break
            waiting = [at for at in waiting if len(rankings[at][0]) < plan.k]
            effort = effort._replace(probes=min(searcher.centroids, 2 * effort.probes))
        yield from rankings
