"""`retrieval encode`: a corpus into a folder of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retrieval.cli.options import (
    Devices,
    ModelOptions,
    Processes,
    SkipBad,
    load_model,
    parent_options,
    process_devices,
    takes_model_options,
)
from retrieval.cli.output import report_skipped
from retrieval.corpus import read_corpus
from retrieval.errors import ConfigError
from retrieval.files import BadLines

if TYPE_CHECKING:
    from retrieval.encoders.dense import DenseEncoder


@takes_model_options
def encode(
    corpus: Annotated[
        Path, typer.Argument(help="A BEIR folder, a JSONL file, or a folder of text and code.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder or hub name of a model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the embeddings.")],
    dtype: Annotated[
        Literal["float16", "float32", "bfloat16", "int8"] | None,
        typer.Option(help="Of the stored vectors, by default float16; int8 has a scale for each."),
    ] = None,
    quantize: Annotated[
        Literal["int8", "uint8", "binary", "ubinary"] | None,
        typer.Option(help="Make codes of dense embeddings instead, as Sentence Transformers does."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A corpus whose embeddings give the ranges of int8 and uint8 codes."),
    ] = None,
    devices: Devices = None,
    processes: Processes = None,
    skip_bad: SkipBad = False,
    *,
    options: ModelOptions,
) -> None:
    """Encode a corpus into numbered shards; a run that was stopped goes on where it was."""
    from retrieval.encoders.embedding_store import StoreSettings, write_embeddings

    if dtype is not None and quantize is not None:
        raise ConfigError("--dtype and --quantize exclude each other: codes are stored as they are")
    each_device = process_devices(devices, processes, options)
    bad_lines = BadLines(skip=skip_bad)
    documents = read_corpus(corpus, bad_lines)
    encoder = load_model(model, parent_options(options, each_device))
    if quantize is not None:
        encoder = _quantized(encoder, quantize, calibration)
    settings = StoreSettings(dtype="quantized" if quantize else dtype or "float16")
    store = write_embeddings(
        output, documents, encoder, settings, devices=each_device, progress=True
    )
    report_skipped(bad_lines)
    print(f"{output}: {len(store):,} documents, width {store.model.width}")


def _quantized(
    encoder: Any, precision: Literal["int8", "uint8", "binary", "ubinary"], calibration: Path | None
) -> DenseEncoder:
    from retrieval.encoders.dense import DenseEncoder
    from retrieval.encoders.quantization import Quantization

    if not isinstance(encoder, DenseEncoder):
        raise ConfigError("--quantize is for dense models; take --dtype int8 for token vectors")
    if (calibration is not None) != (precision in ("int8", "uint8")):
        raise ConfigError("--calibration belongs to --quantize int8 and uint8, and to no other")
    texts = (each.contents for each in read_corpus(calibration)) if calibration else ()
    return encoder.quantized(Quantization.calibrated(precision, encoder.encode_documents(texts)))
