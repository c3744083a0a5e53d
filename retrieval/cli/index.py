"""`retrieval index`: a corpus into a searchable index."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli.options import (
    BatchSize,
    Device,
    IndexKind,
    Model,
    Overwrite,
    Settings,
    SkipBad,
    choose_kind,
    index_settings,
    load_model,
)
from retrieval.cli.output import report_skipped
from retrieval.corpus import read_corpus
from retrieval.files import BadLines
from retrieval.indexing.index import check_model
from retrieval.indexing.versions import index_bytes
from retrieval.records import Document


def index(
    corpus: Annotated[
        Path,
        typer.Argument(
            help="A BEIR folder, a JSONL file, a folder of text and code files, or a folder that "
            "`retrieval encode` wrote."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the index.")],
    model: Model = None,
    kind: Annotated[
        IndexKind | None,
        typer.Option(help="By default plaid or faiss, as the model has it; bm25 without one."),
    ] = None,
    setting: Settings = None,
    device: Device = None,
    batch_size: BatchSize = 32,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """Encode a corpus and index it; a run that was stopped goes on where it was."""
    from retrieval.encoders.embedding_store import EmbeddingStore, is_embedding_store
    from retrieval.indexing.retriever import build_index

    bad_lines = BadLines(skip=skip_bad)
    encoder = load_model(model, device, batch_size) if model else None
    if is_embedding_store(corpus):
        store = EmbeddingStore(corpus)
        check_model(corpus, store.model, encoder.reference if encoder else None)
        documents: EmbeddingStore | Iterable[Document] = store
        chosen = choose_kind(kind, store.model)
    else:
        documents = read_corpus(corpus, bad_lines)
        chosen = choose_kind(kind, encoder.reference if encoder else None)
    built = build_index(
        output,
        documents,
        kind=chosen,
        encoder=encoder,
        settings=index_settings(chosen, setting),
        overwrite=overwrite,
        progress=True,
    )
    report_skipped(bad_lines)
    size = index_bytes(output)
    print(f"{output}: {built.kind} index of {len(built):,} documents, {size:,} bytes")
