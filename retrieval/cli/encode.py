"""`retrieval encode`: a corpus into a folder of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from retrieval.cli.options import BatchSize, Device, SkipBad, load_model
from retrieval.cli.output import report_skipped
from retrieval.corpus import read_corpus
from retrieval.files import BadLines


def encode(
    corpus: Annotated[
        Path, typer.Argument(help="A BEIR folder, a JSONL file, or a folder of text and code.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder or hub name of a model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the embeddings.")],
    dtype: Annotated[
        Literal["float16", "float32"], typer.Option(help="Of the stored embeddings.")
    ] = "float16",
    device: Device = None,
    batch_size: BatchSize = 32,
    skip_bad: SkipBad = False,
) -> None:
    """Encode a corpus into numbered shards; a run that was stopped goes on where it was."""
    from retrieval.encoders.embedding_store import StoreSettings, write_embeddings

    bad_lines = BadLines(skip=skip_bad)
    documents = read_corpus(corpus, bad_lines)
    encoder = load_model(model, device, batch_size)
    store = write_embeddings(output, documents, encoder, StoreSettings(dtype=dtype), progress=True)
    report_skipped(bad_lines)
    print(f"{output}: {len(store):,} documents, width {store.model.width}")
