"""A whole pipeline as MTEB 2 takes it: encode, index, search, with the index kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrieval.config import to_mapping
from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.errors import ConfigError, InputError
from retrieval.evaluation.mteb_models import import_mteb, model_meta, with_task_prompts
from retrieval.indexing import index_class, open_index
from retrieval.indexing.retriever import Retriever, build_index
from retrieval.records import Document

logger = logging.getLogger(__name__)

_KEY_DIGITS = 16


class MtebPipeline:
    """An encoder and a kind of index under MTEB's `SearchProtocol`, for retrieval and reranking.

    `mteb.evaluate(MtebPipeline(encoder, kind="plaid", folder="kept"), tasks)` gives the figures
    that `retrieval.evaluation.evaluate` gives on the same data: title and text are joined by one
    space there as here.

    Attributes:
        encoder: dense or multi-vector; None for BM25 (kind "lexical").
        kind: of the index: "exact", "faiss", "plaid" or "lexical".
        settings: the index's settings dataclass; defaults where None.
        folder: keeps an index for each corpus, model and settings, which a later run with the same
            opens instead of encoding again; None keeps it as long as this object lives.
        prompts: by MTEB's keys, as in `MtebDenseEncoder`.
        mteb_model_meta: name, fingerprint, kind and settings, under which MTEB keeps the results.
    """

    def __init__(
        self,
        encoder: DenseEncoder | MultiVectorEncoder | None = None,
        *,
        kind: str = "plaid",
        settings: Any = None,
        folder: str | Path | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        """Check that the parts fit.

        Raises:
            MissingExtraError: mteb is not installed.
            ConfigError: no such kind of index; an encoder for BM25, or none for another kind.
        """
        import_mteb()
        index_type = index_class(kind)
        if (encoder is None) != (kind == "lexical"):
            given = "no encoder" if encoder is None else "an encoder"
            raise ConfigError(f"{given} for an index of kind {kind!r}: BM25 alone takes none")
        self.encoder = encoder
        self.kind = kind
        self.settings = settings if settings is not None else index_type.settings_type()
        self.prompts = dict(prompts or {})
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = Path(self._temporary.name if self._temporary else str(folder))
        self._retriever: Retriever | None = None
        changed = _changed(self.settings, index_type.settings_type())
        self.mteb_model_meta = model_meta(
            encoder, prompts=self.prompts, pipeline={"index": kind, **changed}
        )

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Index a corpus, or open the index that is kept of it.

        An encoding that was killed goes on where it was.

        Args:
            corpus: a dataset with the columns id, text and, maybe, title.
            task_metadata: of the MTEB task; decides the prompts, and the folder's name with
                `hf_split` and `hf_subset`.
            hf_split: the same.
            hf_subset: the same.
            encode_kwargs: "show_progress_bar" is looked at.

        Raises:
            InputError: the corpus has no texts.
        """
        from mteb.types import PromptType

        if "text" not in corpus.column_names:
            raise InputError(f"{task_metadata.name}: documents without text can't be indexed")
        encoder = self.encoder
        if encoder is not None:
            for prompt_type in (PromptType.query, PromptType.document):
                encoder = with_task_prompts(encoder, self.prompts, task_metadata, prompt_type)
        key = self._key(corpus, encoder)
        name = f"{task_metadata.name}-{hf_subset}-{hf_split}-{self.kind}-{key}"
        folder = self.folder / re.sub(r"[^\w.-]", "_", name)
        if (folder / "CURRENT").exists():
            logger.info("%s: the index is there already", folder)
            index = open_index(folder, model=encoder.reference if encoder else None)
        else:
            index = build_index(
                folder,
                _documents(corpus),
                kind=self.kind,
                encoder=encoder,
                settings=self.settings,
                progress=(encode_kwargs or {}).get("show_progress_bar", True),
            )
            index.close()
        self._retriever = Retriever(index, encoder)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        top_ranked: Mapping[str, list[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Search the corpus that was indexed last.

        Args:
            queries: a dataset with the columns id and text.
            task_metadata: of the MTEB task.
            hf_split: not looked at.
            hf_subset: not looked at.
            top_k: hits a query.
            top_ranked: of a reranking task: the only documents that a query may find; a query
                that has none finds nothing.

        Returns:
            Scores by query id and document id.

        Raises:
            ConfigError: nothing was indexed.
        """
        if self._retriever is None:
            raise ConfigError("no corpus was indexed: call index() first")
        ids, texts = list(queries["id"]), _query_texts(queries, task_metadata)
        if top_ranked is None:
            found = self._retriever.find(texts, top_k)
        else:
            found = [
                self._retriever.find([text], top_k, allowed=top_ranked.get(query_id, ()))[0]
                for query_id, text in zip(ids, texts)
            ]
        return {query_id: dict(hits) for query_id, hits in zip(ids, found, strict=True)}

    def _key(self, corpus: Any, encoder: DenseEncoder | MultiVectorEncoder | None) -> str:
        """A name for all that decides the index: corpus, model, kind and settings."""
        model = encoder.reference.fingerprint if encoder else None
        digest = hashlib.sha256(
            json.dumps([self.kind, to_mapping(self.settings), model], sort_keys=True).encode()
        )
        for document in _documents(corpus):
            digest.update(json.dumps(document).encode())
        return digest.hexdigest()[:_KEY_DIGITS]


def _documents(corpus: Any) -> Iterator[Document]:
    for row in corpus:
        yield Document(row["id"], row["text"], row.get("title") or "")


def _query_texts(queries: Any, task_metadata: Any) -> list[str]:
    """The texts that MTEB gives to an encoder: with instructions, conversations as one string."""
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType

    batches = create_dataloader(
        queries, task_metadata=task_metadata, prompt_type=PromptType.query, batch_size=256
    )
    return [text for batch in batches for text in batch["text"]]


def _changed(settings: Any, defaults: Any) -> dict[str, Any]:
    given, otherwise = to_mapping(settings), to_mapping(defaults)
    return {name: value for name, value in given.items() if value != otherwise[name]}
