"""`retrieval index`: a corpus into a searchable index."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli.options import (
    Devices,
    IndexKind,
    Model,
    ModelOptions,
    Overwrite,
    Processes,
    Settings,
    SkipBad,
    choose_kind,
    default_model,
    index_settings,
    load_model,
    parent_options,
    process_devices,
    takes_model_options,
)
from retrieval.cli.output import report_skipped
from retrieval.corpus import read_corpus
from retrieval.files import BadLines
from retrieval.indexing.index import check_model
from retrieval.indexing.versions import index_bytes
from retrieval.records import Document, ModelReference


@takes_model_options
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
        typer.Option(
            help="By default faiss or, for multi-vectors, plaid (exact while they are few); bm25 "
            "takes no model."
        ),
    ] = None,
    setting: Settings = None,
    devices: Devices = None,
    processes: Processes = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    *,
    options: ModelOptions,
) -> None:
    """Encode a corpus and index it; a run that was stopped goes on where it was."""
    from retrieval.encoders.embedding_store import EmbeddingStore, is_embedding_store
    from retrieval.indexing.retriever import build_index

    each_device = process_devices(devices, processes, options)
    bad_lines = BadLines(skip=skip_bad)
    store = EmbeddingStore(corpus) if is_embedding_store(corpus) else None
    if store is None:
        model = default_model(model, kind)
    encoder = None
    if model:
        remembered = store.model.options if store else None
        encoder = load_model(model, parent_options(options, each_device), remembered=remembered)
    if store is not None:
        check_model(corpus, store.model, encoder.reference if encoder else None)
        documents: EmbeddingStore | Iterable[Document] = store
        reference: ModelReference | None = store.model
    else:
        documents = read_corpus(corpus, bad_lines)
        reference = encoder.reference if encoder else None
    by_size = kind is None and not setting and reference is not None
    chosen = choose_kind(kind, reference)
    built = build_index(
        output,
        documents,
        kind=None if by_size else chosen,
        encoder=encoder,
        settings=None if by_size else index_settings(chosen, setting),
        overwrite=overwrite,
        devices=each_device,
        progress=True,
    )
    report_skipped(bad_lines)
    size = index_bytes(output)
    print(f"{output}: {built.kind} index of {len(built):,} documents, {size:,} bytes")
