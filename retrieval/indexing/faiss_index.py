"""The FAISS index: single vectors, exactly or approximately, by a factory string or by size."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError, IndexFilesError
from retrieval.indexing.faiss_binary import BINARY_FILES, BinaryCodes, rescore
from retrieval.indexing.faiss_choice import choose_factory
from retrieval.indexing.faiss_files import FaissFile, faiss
from retrieval.indexing.index import Batch, Index, Ranking
from retrieval.indexing.sampling import RowSample
from retrieval.indexing.vectors import Vectors, check_queries, check_vectors
from retrieval.indexing.versions import Draft, Version

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Opened = TypeVar("Opened")

_NARROW = 0.1
"""Below this share of allowed rows a graph meets too few of them: they are scanned instead."""
_HEADROOM = 0.1
"""By which the range of 8-bit components is widened on both sides, as a share of it."""
_FILE = "index.faiss"
_ROWS_AT_ONCE = 1 << 14
_BINARY = "Binary,"


@dataclass(frozen=True, kw_only=True)
class FaissSettings:
    """Settings of the FAISS index.

    Attributes:
        factory: a FAISS factory string, such as "Flat", "SQ8", "HNSW32", "HNSW32_SQ8",
            "IVF1024,Flat", "IVF1024,PQ48" or "OPQ48,IVF1024,PQ48"; "Binary,Flat", "Binary,SQfp16"
            or "Binary,SQ8" for one bit a component, whose best rows are scored again with the
            vectors named behind the comma; or "auto", as `choose_factory` says: "Flat" up to
            50,000 rows, "HNSW32" up to a million, "Binary,SQ8" up to ten, IVF-PQ above, and
            smaller kinds where `memory_mb` asks for them.
        memory_mb: of "auto": millions of bytes that a search may keep at hand; None is no limit.
        metric: "inner_product", or "l2", whose score is minus the squared distance.
        nprobe: lists that IVF looks at; "auto" is one in 32, and at least 16.
        ef_search: length of HNSW's candidate list; "auto" is 128. Never less than 2 * k.
        ef_construction: the same while HNSW is built.
        rescored: rows that Binary scores again; "auto" is one in 1,000, and at least 200 and
            10 * k.
        sample: vectors that are held in memory to learn lists and codebooks from.
        seed: of the sample and of what is learned. HNSW's links also depend on the order in
            which FAISS's threads finish.
    """

    factory: str = "auto"
    memory_mb: int | None = None
    metric: Literal["inner_product", "l2"] = "inner_product"
    nprobe: int | Literal["auto"] = "auto"
    ef_search: int | Literal["auto"] = "auto"
    ef_construction: int = 80
    rescored: int | Literal["auto"] = "auto"
    sample: int = 1 << 18
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in ("inner_product", "l2"):
            raise ConfigError(f'metric is {self.metric!r}, expected "inner_product" or "l2"')
        for name in ("nprobe", "ef_search", "rescored"):
            value = getattr(self, name)
            if value != "auto" and (isinstance(value, str) or value < 1):
                raise ConfigError(f'{name} is {value!r}, expected at least 1 or "auto"')
        if self.memory_mb is not None and self.memory_mb < 1:
            raise ConfigError(f"memory_mb is {self.memory_mb}, expected at least 1")
        for name, least in (("ef_construction", 1), ("sample", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least {least}")


class FaissIndex(Index[Vectors]):
    """Vectors in a FAISS index, taken as they are: scale them to unit length for cosine scores.

    FAISS numbers rows by position; deleted rows stay in its file and are filtered out of every
    search. A filter widens the search by as much as it leaves out; where it is narrow, or where
    too few hits come back, all allowed rows are scored. An index that is opened is mapped: pages
    come into memory as searches touch them, and are shared between processes.

    Source: Douze et al. 2024, "The Faiss library", arXiv:2401.08281.
    """

    kind = "faiss"
    settings_type = FaissSettings

    def __init__(self, settings: FaissSettings | None = None, **keywords: Any) -> None:
        super().__init__(settings, **keywords)
        self._file: FaissFile | None = None
        self._bits: BinaryCodes | None = None
        self._is_saved = False

    @property
    def _faiss(self) -> Any:
        """FAISS's own index; None before the first row."""
        return self._file.index if self._file is not None else None

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
        factory = self._factory(width, sample.seen)
        made = self._make(width, factory)
        rows = sample.rows()
        if not made.is_trained:
            logger.info("FAISS learns from %d of %d vectors", len(rows), sample.seen)
            try:
                made.train(rows)
            except RuntimeError as error:
                raise ConfigError(
                    f"FAISS can't learn {factory!r} from {len(rows)} vectors: {_cause(error)}"
                ) from error
        self._file = FaissFile(made)
        self._bits = BinaryCodes.learn(rows) if factory.startswith(_BINARY) else None

    def _factory(self, width: int, rows: int) -> str:
        settings = self.settings
        if settings.factory != "auto":
            return str(settings.factory)
        return choose_factory(rows, width, sample=settings.sample, memory_mb=settings.memory_mb)

    def _make(self, width: int, factory: str) -> Any:
        """An empty FAISS index; of Binary the one that re-scores.

        Raises:
            ConfigError: a factory string that FAISS or this class does not take.
        """
        is_binary = factory.startswith(_BINARY)
        metric = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
        try:
            made = faiss.index_factory(
                width, factory.removeprefix(_BINARY), metric[self.settings.metric]
            )
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
        if is_binary and not isinstance(made, (faiss.IndexFlat, faiss.IndexScalarQuantizer)):
            raise ConfigError(
                f"{factory!r} can't re-score: expected Flat, SQ8 or SQfp16 behind {_BINARY!r}"
            )
        self._prepare(core)
        if hasattr(scanned, "sq"):
            # Rows that come later may lie outside of the sample's range, where they are cut off.
            scanned.sq.rangestat_arg = _HEADROOM
        return made

    def _prepare(self, core: Any) -> None:
        """Set what FAISS learns with; it has no effect once rows are there."""
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
        if self._file is None:
            self._learn([Batch(ids, vectors)])
        assert self._file is not None
        self._file.add(vectors)
        if self._bits is not None:
            self._bits.add(vectors)
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
        if self._bits is not None:
            wanted = settings.rescored
            if isinstance(wanted, str):
                wanted = max(200, 10 * k, core.ntotal // 1000)
            count = min(max(wanted, k), core.ntotal)
            return rescore(core, vectors, self._bits.candidates(vectors, count, selector), k)
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
        if self._file is not None and self._is_saved:
            for name in (_FILE, *(BINARY_FILES if self._bits is not None else ())):
                draft.keep(name)
        elif self._file is not None:
            self._file.write(draft.path / _FILE)
            if self._bits is not None:
                self._bits.write(draft.path)

    def _saved(self, version: Version) -> None:
        self._is_saved = self._file is not None

    def _write_compacted(self, draft: Draft, live: NDArray[np.bool_]) -> None:
        if self._file is not None:
            self._file.own()  # FAISS ends the process where a mapped array is emptied
            FaissFile(_without_deleted(self._faiss, live)).write(draft.path / _FILE)
            if self._bits is not None:
                self._bits.only(live).write(draft.path)

    def _read(self, version: Version) -> None:
        if _FILE not in version.files:
            return
        self._file = _opened(lambda: FaissFile.open(version.path, _FILE), version.path / _FILE)
        if BINARY_FILES[0] in version.files:
            path = version.path / BINARY_FILES[0]
            self._bits = _opened(lambda: BinaryCodes.read(version.path), path)
        self._is_saved = True
        self._check(version.path)

    def _check(self, version: Path) -> None:
        found = 0 if self._faiss is None else self._faiss.ntotal
        if found != self._storage.ids.rows:
            raise IndexFilesError(
                f"{version / _FILE}: {found} vectors for {self._storage.ids.rows} ids: "
                "rebuild the index"
            )
        if self._bits is not None and len(self._bits) != found:
            raise IndexFilesError(
                f"{version / BINARY_FILES[0]}: {len(self._bits)} rows for {found} vectors: "
                "rebuild the index"
            )


def _opened(read: Callable[[], Opened], path: Path) -> Opened:
    try:
        return read()
    except RuntimeError as error:
        raise IndexFilesError(
            f"{path}: FAISS can't read it ({_cause(error)}): rebuild the index"
        ) from error


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
