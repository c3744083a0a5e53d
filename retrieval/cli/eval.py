"""`retrieval eval`: a model and an index on a BEIR collection, measured."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.cli.options import (
    AsJson,
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
from retrieval.errors import ConfigError
from retrieval.files import BadLines

if TYPE_CHECKING:
    from retrieval.evaluation import Result


@takes_model_options
def evaluate(
    dataset: Annotated[
        Path, typer.Argument(help="A BEIR folder: corpus.jsonl, queries.jsonl, qrels/*.tsv.")
    ],
    model: Model = None,
    index: Annotated[
        IndexKind | None,
        typer.Option(help="By default plaid or faiss, as the model has it; bm25 takes no model."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="By default test, or the only one.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="nDCG@k, MAP@k, recall@k, MRR@k, P@k, success@k, recall_cap@k, judged@k or "
            "hole@k; may come several times."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits a query.")] = 100,
    setting: Settings = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder that keeps the index, the run, the result."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a judged id is missing.")
    ] = False,
    devices: Devices = None,
    processes: Processes = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    *,
    options: ModelOptions,
) -> None:
    """Index a collection, ask its queries, and print the metrics."""
    from retrieval import evaluation
    from retrieval.evaluation.metrics import load_pytrec_eval
    from retrieval.indexing.retriever import build_index

    load_pytrec_eval()  # a missing extra is told before hours of encoding
    metrics = tuple(metric) if metric else evaluation.EvaluationSettings().metrics
    settings = evaluation.EvaluationSettings(k=k, metrics=metrics, split=split)
    if output is not None and (output / "result.json").exists() and not overwrite:
        raise ConfigError(f"{output}: holds a result already (--overwrite replaces it)")
    bad_lines = BadLines(skip=skip_bad)
    collection = evaluation.read_collection(
        dataset, split=split, bad_lines=bad_lines, strict=strict
    )
    each_device = process_devices(devices, processes, options)
    model = default_model(model, index)
    encoder = load_model(model, parent_options(options, each_device)) if model else None
    kind = choose_kind(index, encoder.reference if encoder else None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = output or Path(temporary)
        built = build_index(
            folder / "index",
            collection.documents(),
            kind=kind,
            encoder=encoder,
            settings=index_settings(kind, setting),
            overwrite=overwrite,
            devices=each_device,
            progress=True,
        )
        result = evaluation.evaluate(
            collection,
            built,
            encoder,
            settings,
            system=None if encoder else "BM25",
            run_path=folder / "run.trec",
            progress=True,
        )
        result.to_json(folder / "result.json")
        report_skipped(bad_lines)
        if as_json:
            print((folder / "result.json").read_text("utf-8"), end="")
        else:
            _print(result)


def _print(result: Result) -> None:
    from retrieval.evaluation.report import format_bytes

    counts = result.counts
    rows = {name: f"{value:.4f}" for name, value in result.metrics.items()}
    rows["index size"] = format_bytes(result.index_bytes)
    rows["queries/s"] = f"{result.timings.queries_per_second:,.1f}"
    print(
        f"{result.system} on {result.collection} ({result.split}): {counts.documents:,} documents, "
        f"{counts.queries:,} queries"
    )
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"  {name:{width}}  {value:>8}")
