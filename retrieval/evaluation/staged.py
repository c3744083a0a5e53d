"""The stages of one collection: its vectors, its indexes and the runs that are searched in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import retrieval
from retrieval.config import from_mapping, to_mapping
from retrieval.encoders.embedding_store import EmbeddingStore, StoreSettings, write_embeddings
from retrieval.encoders.protocol import Encoder
from retrieval.errors import ConfigError
from retrieval.evaluation.collection import Collection
from retrieval.evaluation.data_checksums import DataChecksums
from retrieval.evaluation.evaluator import search_items
from retrieval.evaluation.models import Models, ModelSettings, model_inputs, short_name
from retrieval.evaluation.runs import Run, read_run, write_run
from retrieval.evaluation.saved_indexes import open_saved, saved_facts
from retrieval.evaluation.stages import Stage, StageCache
from retrieval.evaluation.systems import IndexSystem, LexicalSystem, SavedSystem, VectorSystem
from retrieval.indexing import index_class, open_index
from retrieval.indexing.index import Index, check_model
from retrieval.indexing.retriever import build_index
from retrieval.indexing.versions import index_bytes, read_manifest
from retrieval.records import Document, Query

DOCUMENT_STORE = StoreSettings()
"""How vectors of documents are kept; the same as `build_index` keeps them on its way."""
QUERY_STORE = StoreSettings(dtype="float32")
"""How vectors of queries are kept; what is searched is what the encoder gave."""
_VECTORS = "vectors"
_INDEX = "index"
_RUN = "run.trec"


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How queries are searched.

    Attributes:
        k: hits a query.
        batch_size: queries that are searched together.
        ignore_identical_ids: leave out a document whose id is the query's.
    """

    k: int = 100
    batch_size: int = 64
    ignore_identical_ids: bool = False


class CollectionStages:
    """Makes what systems need of a collection, and finds what is made already.

    Everything is made when it is first asked for.

    Attributes:
        collection: documents, queries and judgements.
        checksums: of their files.
        models: the encoders.
        progress: whether bars are shown on stderr.
    """

    def __init__(
        self,
        cache: StageCache,
        collection: Collection,
        checksums: DataChecksums,
        models: Models,
        *,
        devices: Sequence[str] | None = None,
        progress: bool = False,
    ) -> None:
        """Nothing is read or made yet.

        Args:
            cache: where stages are kept.
            collection: what is searched.
            checksums: of its files.
            models: the encoders, by their settings.
            devices: encode documents in one process for each; see `write_embeddings`.
            progress: show bars on stderr.
        """
        self.cache = cache
        self.collection = collection
        self.checksums = checksums
        self.models = models
        self._devices = devices
        self.progress = progress
        self._runs: dict[str, Run] = {}

    def document_vectors(self, model: ModelSettings) -> Stage:
        """The corpus, encoded."""
        return self._embeddings(model, self.collection.documents, "encode corpus", {})

    def candidate_vectors(self, model: ModelSettings, first: Stage, documents: int) -> Stage:
        """The documents that a run found, encoded.

        Where they are half of the corpus or more, all of it is, which other systems can share.
        This depends on the run alone, not on what is in the cache: vectors that are encoded beside
        others may differ in the last digit.

        Args:
            model: a multi-vector one.
            first: the run.
            documents: of the corpus.
        """
        found = {hit.document_id for hits in self.read_run(first).values() for hit in hits}
        if 2 * len(found) >= documents:
            return self.document_vectors(model)

        def candidates() -> Iterator[Document]:
            return (each for each in self.collection.documents() if each.id in found)

        return self._embeddings(model, candidates, "encode candidates", {"found_by": first.key})

    def _embeddings(
        self,
        model: ModelSettings,
        documents: Callable[[], Iterable[Document]],
        name: str,
        inputs: dict[str, Any],
    ) -> Stage:
        encoder = self.models[model]

        def make(folder: Path) -> None:
            write_embeddings(
                folder / _VECTORS,
                documents(),
                encoder,
                DOCUMENT_STORE,
                devices=self._devices,
                progress=self.progress,
            )

        made_of = {
            **self._corpus_inputs(),
            **inputs,
            "model": model_inputs(model, self.models.facts(model)),
            "store": to_mapping(DOCUMENT_STORE),
        }
        return self.cache.get("embeddings", made_of, make, name=name, of=short_name(model))

    def query_vectors(self, model: ModelSettings) -> Stage:
        """The queries, encoded."""
        encoder = self.models[model]

        def make(folder: Path) -> None:
            write_embeddings(
                folder / _VECTORS,
                map(_as_document, self.collection.queries),
                _QueriesAsDocuments(encoder),
                QUERY_STORE,
                progress=self.progress,
                noun="queries",
            )

        inputs = {
            "queries": self._query_inputs(),
            "model": model_inputs(model, self.models.facts(model)),
        }
        return self.cache.get("queries", inputs, make, name="encode queries", of=short_name(model))

    def index(self, system: IndexSystem) -> Stage:
        """The index of a system; its facts are the `parameters` that it has, and its `bytes`.

        Parameters that were "auto" may have been chosen by the index. One that was there already
        stays where it is, and its `kind` is a fact too.
        """
        if isinstance(system, SavedSystem):
            return self._saved(system)
        settings = index_settings(system)
        inputs = {"index": system.index, "settings": to_mapping(settings), **_release()}
        needs = []
        if isinstance(system, VectorSystem):
            self.check_kind(system)
            needs = [partial(self.document_vectors, system.model)]
            inputs["model"] = model_inputs(system.model, self.models.facts(system.model))

        def make(folder: Path, vectors: Stage | None = None) -> dict[str, Any]:
            # Otherwise it was built by a run that was killed before it was recorded.
            if not (folder / _INDEX / "CURRENT").exists():
                source = open_vectors(vectors) if vectors else self.collection.documents()
                build_index(
                    folder / _INDEX,
                    source,
                    kind=system.index,
                    settings=settings,
                    progress=self.progress,
                ).close()
            manifest = read_manifest(folder / _INDEX)
            return {"parameters": manifest.parameters, "bytes": index_bytes(folder / _INDEX)}

        return self.cache.get(
            "indexes",
            {**self._corpus_inputs(), **inputs},
            make,
            name="build index",
            of=system.name,
            needs=needs,
        )

    def _saved(self, system: SavedSystem) -> Stage:
        facts = saved_facts(system)
        if system.model is not None:
            check_model(Path(system.folder), facts.model, self.models[system.model].reference)
        return Stage(
            key=facts.checksum,
            folder=Path(system.folder),
            costs=(),
            facts={"kind": facts.kind, "parameters": facts.parameters, "bytes": facts.bytes},
        )

    def search(self, system: IndexSystem, settings: SearchSettings) -> Stage:
        """The run of a system that asks an index."""
        inputs: dict[str, Any] = {
            **self._index_inputs(system),
            "queries": self._query_inputs(),
            "search": to_mapping(settings),
            **_release(),
        }
        needs = [partial(self.index, system)]
        if isinstance(system, VectorSystem):
            self.check_kind(system)
        if not isinstance(system, LexicalSystem) and system.model is not None:
            needs.append(partial(self.query_vectors, system.model))
            inputs["model"] = model_inputs(system.model, self.models.facts(system.model))

        def make(folder: Path, built: Stage, encoded: Stage | None = None) -> dict[str, Any]:
            items = (
                rows_of(open_vectors(encoded)) if encoded else [each.text for each in self._queries]
            )
            with _opened(system, built) as index:
                search_items(index, ["first"], items[:1], settings.k)  # warm before the clock
                run, seconds = search_items(
                    index,
                    [each.id for each in self._queries],
                    items,
                    settings.k,
                    batch_size=settings.batch_size,
                    ignore_identical_ids=settings.ignore_identical_ids,
                    progress=self.progress,
                )
            self.keep_run(folder, run)
            return {"search_seconds": seconds}

        return self.cache.get("runs", inputs, make, name="search", of=system.name, needs=needs)

    def open_index(self, system: IndexSystem) -> Index[Any]:
        """The index of a system, opened; close it."""
        return _opened(system, self.index(system), verify=False)

    def take_index(self, system: LexicalSystem | VectorSystem, folder: Path) -> None:
        """Move the index of a system out of the cache, to a folder that is replaced."""
        made = self.index(system).folder / _INDEX
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.rename(folder)

    def read_run(self, stage: Stage) -> Run:
        """The run that a stage holds."""
        if stage.folder.name not in self._runs:
            self._runs[stage.folder.name] = read_run(stage.folder / _RUN)
        return self._runs[stage.folder.name]

    def keep_run(self, folder: Path, run: Run) -> None:
        """Put a run into a stage's folder."""
        write_run(folder / _RUN, run, "run")
        self._runs[folder.name] = run

    def check_kind(self, system: VectorSystem) -> None:
        """Compare a system with its model.

        Raises:
            ConfigError: the model is of another kind than the system.
        """
        if self.models.facts(system.model).is_multi_vector != system.is_multi_vector:
            raise ConfigError(
                f"{system.name}: the system is of the kind {system.kind}, and "
                f"{system.model.name} is not"
            )

    @property
    def _queries(self) -> tuple[Query, ...]:
        return self.collection.queries

    def _index_inputs(self, system: IndexSystem) -> dict[str, Any]:
        if isinstance(system, SavedSystem):
            return {"index": self.index(system).key, "settings": system.settings}
        settings = to_mapping(index_settings(system))
        return {**self._corpus_inputs(), "index": system.index, "settings": settings}

    def _corpus_inputs(self) -> dict[str, Any]:
        return {"corpus": self.checksums.corpus, "title": self.collection.title}

    def _query_inputs(self) -> dict[str, Any]:
        return {"texts": self.checksums.queries, "judged": self.checksums.judgements}


def index_settings(system: LexicalSystem | VectorSystem) -> Any:
    """The settings dataclass of a system's index.

    Raises:
        ConfigError: an unknown setting, or a value out of range.
    """
    kind = index_class(system.index).settings_type
    return from_mapping(kind, system.settings, source=f"settings of {system.name}")


def _opened(system: IndexSystem, stage: Stage, *, verify: bool = True) -> Index[Any]:
    if isinstance(system, SavedSystem):
        return open_saved(system, stage.key, verify=verify)
    return open_index(stage.folder / _INDEX)


class _QueriesAsDocuments:
    """An encoder whose documents are queries: an embedding store keeps them, shard by shard."""

    def __init__(self, encoder: Encoder) -> None:
        self.reference = encoder.reference
        self.encode_queries = encoder.encode_queries
        self.encode_documents = encoder.encode_queries


class _Verbatim(Document):
    """A document whose text is encoded as it is, outer blanks included, as queries are."""

    @property
    def contents(self) -> str:
        return self.text


def _as_document(query: Query) -> Document:
    return _Verbatim(query.id, query.text)


def open_vectors(stage: Stage) -> EmbeddingStore:
    """What `document_vectors` or `query_vectors` made."""
    return EmbeddingStore(stage.folder / _VECTORS)


def rows_of(store: EmbeddingStore) -> list[Any]:
    """One array a text: (D,), or (tokens, D)."""
    return [row for shard in store for row in shard.embeddings]


def _release() -> dict[str, Any]:
    """Another release may build and search in another way."""
    return {"release": retrieval.__version__}
