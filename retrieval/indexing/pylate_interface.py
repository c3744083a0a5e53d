"""PyLate's indexing, retrieval and reranking over our indexes: only the import changes.

    from pylate import indexes, rank, retrieve

becomes

    from retrieval.indexing import pylate_interface as indexes
    from retrieval.indexing import pylate_interface as rank
    from retrieval.indexing import pylate_interface as retrieve

Names and arguments are those of PyLate 1.6. What differs: ids of an index are strings; an id that
is there already is an error, where PyLate keeps both documents; an index that is overridden stays
until its successor is complete; and a best match below 0 stays below 0, where PyLate's reranker
gives 0 to any document that it padded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypedDict, cast

import numpy as np

from retrieval.errors import ConfigError, InputError
from retrieval.indexing.index import Batch, Index
from retrieval.indexing.plaid import PlaidIndex, PlaidSettings
from retrieval.indexing.token_scores import maxsim_scores
from retrieval.indexing.vectors import Vectors, as_array, check_multi_queries, check_multi_vectors
from retrieval.records import Hit

logger = logging.getLogger(__name__)

Embeddings = Any
"""NumPy arrays or torch tensors (tokens, D): a list of them, one of three axes, or a single one."""


class RerankResult(TypedDict):
    """A document and its score."""

    id: int | str
    score: float


class PLAID:
    """`pylate.indexes.PLAID` over our PLAID index; every change is saved at once.

    Attributes:
        index: the PlaidIndex below; None before the first documents.
    """

    is_end_to_end_index = True

    def __init__(
        self,
        index_folder: str = "indexes",
        index_name: str = "colbert",
        override: bool = False,
        use_fast: bool = True,
        nbits: int = 4,
        kmeans_niters: int = 4,
        max_points_per_centroid: int | None = None,
        n_samples_kmeans: int | None = None,
        seed: int = 42,
        use_triton: bool | None = None,
        n_ivf_probe: int | None = None,
        n_full_scores: int | None = None,
        batch_size: int | None = None,
        num_threads: int | None = None,
        show_progress: bool = True,
        device: str | list[str] | None = None,
        low_memory: bool | None = None,
    ) -> None:
        """Open the index `index_folder/index_name`, or make ready to build it.

        Args:
            index_folder: as in PyLate.
            index_name: of the folder inside it.
            override: replace the index that is there when the first documents come.
            use_fast: False asks for Stanford's engine, which is not here.
            nbits: our `bits`.
            kmeans_niters: our `iterations`.
            max_points_per_centroid: without effect, as are `n_samples_kmeans`, `use_triton`,
                `batch_size`, `num_threads`, `device` and `low_memory`: our index has other needs.
            n_samples_kmeans: without effect.
            seed: of what is learned.
            use_triton: without effect.
            n_ivf_probe: our `probes`; our own default where it is not given.
            n_full_scores: our `scored`; the same.
            batch_size: without effect.
            num_threads: without effect.
            show_progress: a search shows none.
            device: without effect.
            low_memory: without effect.

        Raises:
            ConfigError: `use_fast` is False, or a value out of range.
        """
        if not use_fast:
            raise ConfigError("use_fast=False asks for Stanford's PLAID: take PyLate itself for it")
        unused = {
            "max_points_per_centroid": max_points_per_centroid,
            "n_samples_kmeans": n_samples_kmeans,
            "use_triton": use_triton,
            "batch_size": batch_size,
            "num_threads": num_threads,
            "device": device,
            "low_memory": low_memory,
        }
        named = [name for name, value in unused.items() if value is not None]
        if named:
            logger.warning("without effect on this PLAID index: %s", ", ".join(named))
        searching = {"probes": n_ivf_probe, "scored": n_full_scores}
        self._searching: Any = {
            name: value for name, value in searching.items() if value is not None
        }
        chosen: Any = {"bits": nbits, "iterations": kmeans_niters, "seed": seed}
        self._settings = PlaidSettings(**chosen, **self._searching)
        self._folder = Path(index_folder) / index_name
        self._override = override
        self.index: PlaidIndex | None = None
        if not override and (self._folder / "CURRENT").exists():
            self._open()

    def add_documents(
        self, documents_ids: str | Sequence[str], documents_embeddings: Embeddings
    ) -> Self:
        """Add documents; the first ones also train the centroids.

        Raises:
            DuplicateIdError: an id is there already: `update_documents` replaces it.
            InputError: an id is no string, or another number of ids than of documents.
        """
        ids, items = _listed(documents_ids), _arrays(documents_embeddings)
        return self._change(ids, items, lambda index: index.add(ids, items))

    def remove_documents(self, documents_ids: str | Sequence[str]) -> Self:
        """Remove documents; unknown ids are passed over."""
        if self.index is None:
            return self
        gone = _listed(documents_ids)
        return self._change(
            [], [], lambda index: index.delete(each for each in gone if each in index)
        )

    def update_documents(
        self, documents_ids: str | Sequence[str], documents_embeddings: Embeddings
    ) -> Self:
        """Replace documents, and add those that are not there; one change for other readers."""
        ids, items = _listed(documents_ids), _arrays(documents_embeddings)
        return self._change(ids, items, lambda index: index.upsert(ids, items))

    def _change(
        self, ids: list[str], items: list[Vectors], change: Callable[[PlaidIndex], None]
    ) -> Self:
        """Save a change, or build from the first documents; others may write before and after."""
        if self.index is None:
            batch: Batch[Sequence[Vectors]] = Batch(ids, items)
            PlaidIndex.build(
                self._folder, [batch], settings=self._settings, overwrite=self._override
            ).close()
        else:
            with PlaidIndex.open(self._folder, writable=True) as writer:
                change(writer)
                writer.save()
        self._open()
        return self

    def _open(self) -> None:
        self.index = PlaidIndex.open(self._folder)
        self.index.settings = replace(self.index.settings, **self._searching)

    def __call__(
        self,
        queries_embeddings: Embeddings,
        k: int = 10,
        subset: Sequence[str] | Sequence[Sequence[str]] | None = None,
    ) -> list[list[RerankResult]]:
        """Find the best documents for every query; see `ColBERT.retrieve`."""
        if self.index is None:
            raise InputError(f"{self._folder}: no documents yet: call add_documents first")
        return ColBERT(self.index).retrieve(queries_embeddings, k, subset=subset)


class ColBERT:
    """`pylate.retrieve.ColBERT` over the PLAID above, or over any of our multi-vector indexes."""

    def __init__(self, index: PLAID | Index[Any]) -> None:
        self.index = index

    def retrieve(
        self,
        queries_embeddings: Embeddings,
        k: int = 10,
        k_token: int | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        subset: Sequence[str] | Sequence[Sequence[str]] | None = None,
    ) -> list[list[RerankResult]]:
        """Find the best documents for every query.

        Args:
            queries_embeddings: one (tokens, D) for each query.
            k: documents a query at the most.
            k_token: without effect, as in PyLate's own PLAID.
            device: the same.
            batch_size: the same.
            subset: ids that alone may be found: one list for all queries, or one for each.

        Raises:
            InputError: no documents yet, or another number of subsets than of queries.
        """
        index = self.index
        if isinstance(index, PLAID):
            return index(queries_embeddings, k, subset)
        queries = _arrays(queries_embeddings)
        if subset is None or not len(subset) or isinstance(subset[0], str):
            allowed = cast("Sequence[str] | None", subset)
            return [_results(hits) for hits in index.search(queries, k, allowed=allowed)]
        if len(subset) != len(queries):
            raise InputError(f"{len(subset)} subsets for {len(queries)} queries")
        return [
            _results(index.search([query], k, allowed=ids)[0])
            for query, ids in zip(queries, subset)
        ]


def rerank(
    documents_ids: Sequence[Sequence[int | str]],
    queries_embeddings: Embeddings,
    documents_embeddings: Sequence[Embeddings],
    device: str | None = None,
) -> list[list[RerankResult]]:
    """`pylate.rank.rerank`: rank each query's documents by exact MaxSim, best first.

    Args:
        documents_ids: for each query its candidates, by strings or numbers.
        queries_embeddings: one (tokens, D) for each query.
        documents_embeddings: for each query the embeddings of its candidates.
        device: without effect.

    Returns:
        For each query all its candidates; equal scores keep their order, and a document without
        tokens is last, with a score of -inf.

    Raises:
        InputError: lists of different lengths.
        ShapeError, EmbeddingError: embeddings that do not fit, NaN or infinite.
    """
    queries = _arrays(queries_embeddings)
    if not len(queries) == len(documents_ids) == len(documents_embeddings):
        raise InputError(
            f"{len(documents_ids)} lists of ids and {len(documents_embeddings)} of documents for "
            f"{len(queries)} queries"
        )
    ranked = []
    for query, ids, embeddings in zip(queries, documents_ids, documents_embeddings):
        items = _arrays(embeddings)
        if len(items) != len(ids):
            raise InputError(f"{len(ids)} ids for {len(items)} documents")
        checked = check_multi_vectors([str(each) for each in ids], items, query.shape[-1])
        (checked_query,) = check_multi_queries([query], query.shape[-1])
        scores = maxsim_scores(checked_query, checked)
        order = np.argsort(-scores, kind="stable")
        ranked.append([RerankResult(id=ids[row], score=float(scores[row])) for row in order])
    return ranked


def _results(hits: Sequence[Hit]) -> list[RerankResult]:
    return [RerankResult(id=hit.document_id, score=hit.score) for hit in hits]


def _listed(ids: str | Iterable[str]) -> list[str]:
    return [ids] if isinstance(ids, str) else list(ids)


def _arrays(embeddings: Embeddings) -> list[Vectors]:
    """Embeddings in any of PyLate's forms as a list of (tokens, D)."""
    if isinstance(embeddings, Sequence):
        return [as_array(each) for each in embeddings]
    array = as_array(embeddings)
    return [array] if array.ndim == 2 else list(array)
