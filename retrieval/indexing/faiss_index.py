"""The FAISS index: single vectors, exactly or approximately, by a factory string or by size."""

from __future__ import annotations

import importlib
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError, IndexFilesError
from retrieval.indexing import versions
from retrieval.indexing.index import Batch, Index, Ranking
from retrieval.indexing.sampling import RowSample
from retrieval.indexing.vectors import Vectors, check_queries, check_vectors
from retrieval.indexing.versions import Draft, Version

# The type stubs that FAISS ships lack its search parameters, so that it is imported untyped.
faiss: Any = importlib.import_module("faiss")

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

FLAT_UP_TO = 50_000
"""Rows that a scan reads in some 10 ms at width 384: nothing is gained by an approximation."""
HNSW_UP_TO = 1_000_000
"""Rows whose vectors and links, 1.8 KB each at width 384, still fit into an ordinary memory."""
_NARROW = 0.1
"""Below this share of allowed rows a graph meets too few of them: they are scanned instead."""
_FILE = "index.faiss"
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, kw_only=True)
class FaissSettings:
    """Settings of the FAISS index.

    Attributes:
        factory: a FAISS factory string, such as "Flat", "HNSW32", "IVF1024,Flat", "IVF1024,PQ48",
            "OPQ48,IVF1024,PQ48", or "auto": "Flat" up to 50,000 rows, "HNSW32" up to a million,
            and above it IVF-PQ with a byte for each four components, a sixteenth of the memory.
        metric: "inner_product", or "l2", whose score is minus the squared distance.
        nprobe: lists that IVF looks at; "auto" is one in 32, and at least 16.
        ef_search: length of HNSW's candidate list; "auto" is 128. Never less than 2 * k.
        ef_construction: the same while HNSW is built.
        sample: vectors that are held in memory to learn lists and codebooks from.
        seed: of the sample and of what is learned. HNSW's links also depend on the order in
            which FAISS's threads finish.
    """

    factory: str = "auto"
    metric: Literal["inner_product", "l2"] = "inner_product"
    nprobe: int | Literal["auto"] = "auto"
    ef_search: int | Literal["auto"] = "auto"
    ef_construction: int = 80
    sample: int = 1 << 18
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in ("inner_product", "l2"):
            raise ConfigError(f'metric is {self.metric!r}, expected "inner_product" or "l2"')
        for name in ("nprobe", "ef_search"):
            value = getattr(self, name)
            if value != "auto" and (isinstance(value, str) or value < 1):
                raise ConfigError(f'{name} is {value!r}, expected at least 1 or "auto"')
        for name, least in (("ef_construction", 1), ("sample", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least {least}")


class FaissIndex(Index[Vectors]):
    """Vectors in a FAISS index, taken as they are: scale them to unit length for cosine scores.

    FAISS numbers rows by position; deleted rows stay in its file and are filtered out of every
    search. A filter widens the search by as much as it leaves out; where it is narrow, or where
    too few hits come back, all allowed rows are scored.

    Source: Douze et al. 2024, "The Faiss library", arXiv:2401.08281.
    """

    kind = "faiss"
    settings_type = FaissSettings

    def __init__(self, settings: FaissSettings | None = None, **keywords: Any) -> None:
        super().__init__(settings, **keywords)
        self._faiss: Any = None
        self._is_saved = False

    def _learn(self, batches: Iterable[Batch[Vectors]]) -> None:
        sample = RowSample(self.settings.sample, self.settings.seed)
        width = None
        for batch in batches:
            if len(batch.ids):
                vectors = check_vectors(batch.ids, batch.items, width)
                width = vectors.shape[1]
                sample.add(vectors)
        if width is None:
            return
        self._faiss = self._make(width, sample.seen)
        if not self._faiss.is_trained:
            rows = sample.rows()
            logger.info("FAISS learns from %d of %d vectors", len(rows), sample.seen)
            try:
                self._faiss.train(rows)
            except RuntimeError as error:
                factory = self._factory(width, sample.seen)
                raise ConfigError(
                    f"FAISS can't learn {factory!r} from {len(rows)} vectors: {_cause(error)}"
                ) from error

    def _factory(self, width: int, rows: int) -> str:
        if self.settings.factory != "auto":
            return str(self.settings.factory)
        if rows <= FLAT_UP_TO:
            return "Flat"
        if rows <= HNSW_UP_TO:
            return "HNSW32"
        lists: int = 1 << round(math.log2(4 * math.sqrt(rows)))
        # FAISS asks for 39 vectors a list to learn from.
        learnable: int = 1 << int(math.log2(min(rows, self.settings.sample) / 39))
        parts = max(part for part in range(1, max(1, width // 4) + 1) if width % part == 0)
        return f"IVF{min(lists, learnable)},PQ{parts}"

    def _make(self, width: int, rows: int) -> Any:
        """An empty FAISS index.

        Raises:
            ConfigError: a factory string that FAISS or this class does not take.
        """
        factory = self._factory(width, rows)
        metric = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
        try:
            made = faiss.index_factory(width, factory, metric[self.settings.metric])
        except RuntimeError as error:
            raise ConfigError(
                f"FAISS can't make {factory!r} of width {width}: {_cause(error)}"
            ) from error
        core = _core(made)
        scanned = faiss.downcast_index(core.storage) if isinstance(core, faiss.IndexHNSW) else core
        if not isinstance(scanned, (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexIVF)):
            raise ConfigError(
                f"{factory!r} can't be searched with a filter: expected Flat, SQ, HNSW over one "
                "of them, or IVF, all with or without a transform before it"
            )
        self._set_seed(core)
        return made

    def _set_seed(self, core: Any) -> None:
        seed = self.settings.seed
        if isinstance(core, faiss.IndexHNSW):
            core.hnsw.rng = faiss.RandomGenerator(seed)
            core.hnsw.efConstruction = self.settings.ef_construction
        if isinstance(core, faiss.IndexIVF):
            trained = [core.cp, core.pq.cp] if hasattr(core, "pq") else [core.cp]
            if hasattr(core, "do_polysemous_training"):
                # Reorders codebooks for a search by Hamming distance that is not used here, at
                # about five seconds for each byte of a code.
                core.do_polysemous_training = False
            for clustering in trained:
                clustering.seed = seed
                # Small samples are our users' choice: FAISS would print a line for each codebook.
                clustering.min_points_per_centroid = 1

    def _append(self, ids: Sequence[str], items: Vectors) -> None:
        vectors = check_vectors(ids, items, self._faiss.d if self._faiss is not None else None)
        if self._faiss is None:
            self._learn([Batch(ids, vectors)])
        self._faiss.add(np.ascontiguousarray(vectors))
        self._is_saved = False

    def _search(
        self, queries: Vectors, k: int, mask: NDArray[np.bool_] | None
    ) -> Iterator[Ranking]:
        vectors = self._transform(check_queries(queries, self._faiss.d))
        bits = None if mask is None else np.packbits(mask, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        share = 1.0 if mask is None else float(mask.mean())
        if share < _NARROW:
            scores, positions = self._scan(vectors, k, selector)
        else:
            scores, positions = self._approximate(vectors, k, selector, share)
            # FAISS fills up with the position -1 where it met too few rows.
            short = (positions < 0).any(axis=1)
            if short.any():
                scores[short], positions[short] = self._scan(vectors[short], k, selector)
        if self.settings.metric == "l2":
            scores = -scores
        for row_scores, row_positions in zip(scores, positions):
            found = row_positions >= 0
            yield row_positions[found], row_scores[found]

    def _transform(self, vectors: Floats) -> Floats:
        """Apply what comes before the index proper: a rotation, PCA."""
        whole = faiss.downcast_index(self._faiss)
        if isinstance(whole, faiss.IndexPreTransform):
            for step in range(whole.chain.size()):
                vectors = faiss.downcast_VectorTransform(whole.chain.at(step)).apply(vectors)
        return np.ascontiguousarray(vectors)

    def _approximate(self, vectors: Floats, k: int, selector: Any, share: float) -> tuple[Any, Any]:
        """Search as the settings say, and the wider the fewer rows are allowed."""
        core, settings = _core(self._faiss), self.settings
        if isinstance(core, faiss.IndexIVF):
            nprobe = max(16, core.nlist // 32) if settings.nprobe == "auto" else settings.nprobe
            wider = min(core.nlist, math.ceil(nprobe / share))
            parameters = faiss.SearchParametersIVF(nprobe=wider, sel=selector)
        elif isinstance(core, faiss.IndexHNSW):
            ef_search = 128 if settings.ef_search == "auto" else settings.ef_search
            wider = math.ceil(max(ef_search, 2 * k) / share)
            parameters = faiss.SearchParametersHNSW(efSearch=wider, sel=selector)
        else:
            parameters = faiss.SearchParameters(sel=selector)
        found: tuple[Any, Any] = core.search(vectors, k, params=parameters)
        return found

    def _scan(self, vectors: Floats, k: int, selector: Any) -> tuple[Any, Any]:
        """Score every allowed row: all lists of IVF, HNSW's vectors without its graph."""
        core = _core(self._faiss)
        if isinstance(core, faiss.IndexIVF):
            parameters = faiss.SearchParametersIVF(nprobe=core.nlist, sel=selector)
        else:
            core = faiss.downcast_index(core.storage) if isinstance(core, faiss.IndexHNSW) else core
            parameters = faiss.SearchParameters(sel=selector)
        found: tuple[Any, Any] = core.search(vectors, k, params=parameters)
        return found

    def _write(self, draft: Draft) -> None:
        if self._is_saved:
            draft.keep(_FILE)
        elif self._faiss is not None:
            faiss.write_index(self._faiss, str(draft.path / _FILE))

    def _saved(self, version: Version) -> None:
        self._is_saved = self._faiss is not None

    def _write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> None:
        if self._faiss is not None:
            faiss.write_index(_without_deleted(self._faiss, live), str(draft.path / _FILE))

    def _read(self, version: Version) -> None:
        if _FILE not in version.files:
            return
        # FAISS trusts what it reads: a flipped bit can give wrong answers, hang or take gigabytes.
        versions.check_bytes(version.path, _FILE)
        try:
            self._faiss = faiss.read_index(str(version.path / _FILE))
        except RuntimeError as error:
            raise IndexFilesError(
                f"{version.path / _FILE}: FAISS can't read it ({_cause(error)}): rebuild the index"
            ) from error
        self._is_saved = True
        self._check(version.path)

    def _check(self, version: Path) -> None:
        found = 0 if self._faiss is None else self._faiss.ntotal
        if found != self._storage.ids.rows:
            raise IndexFilesError(
                f"{version / _FILE}: {found} vectors for {self._storage.ids.rows} ids: "
                "rebuild the index"
            )


def _core(index: Any) -> Any:
    """The index behind the transforms."""
    found = faiss.downcast_index(index)
    return (
        faiss.downcast_index(found.index) if isinstance(found, faiss.IndexPreTransform) else found
    )


def _without_deleted(index: Any, live: NDArray[np.bool_]) -> Any:
    """A copy with the live rows alone, numbered anew in their order; what was learned stays."""
    copy = faiss.clone_index(index)
    core, old = _core(copy), _core(index)
    if isinstance(core, faiss.IndexIVF):
        _copy_lists(old, core, live)
    else:
        # Codes that are decoded and encoded again are the same codes.
        core.reset()
        rows = np.flatnonzero(live)
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            core.add(old.reconstruct_batch(rows[at : at + _ROWS_AT_ONCE]))
    copy.ntotal = core.ntotal
    return copy


def _copy_lists(old: Any, new: Any, live: NDArray[np.bool_]) -> None:
    numbers = np.cumsum(live) - 1
    lists = faiss.ArrayInvertedLists(old.nlist, old.code_size)
    for at in range(old.nlist):
        size = old.invlists.list_size(at)
        if not size:
            continue
        positions = faiss.rev_swig_ptr(old.invlists.get_ids(at), size)
        codes = faiss.rev_swig_ptr(old.invlists.get_codes(at), size * old.code_size)
        is_live = live[positions]
        kept = np.ascontiguousarray(numbers[positions[is_live]])
        bytes_ = np.ascontiguousarray(codes.reshape(size, -1)[is_live])
        if len(kept):
            lists.add_entries(at, len(kept), faiss.swig_ptr(kept), faiss.swig_ptr(bytes_))
    new.replace_invlists(lists, True)
    lists.this.disown()
    new.ntotal = int(np.count_nonzero(live))


def _cause(error: RuntimeError) -> str:
    """FAISS's message without the C++ signature and the line of source before it."""
    return re.split(r"\.(?:cpp|h):\d+: (?:Error: )?", str(error))[-1].strip()
