"""`retrieval eval`: systems on a BEIR collection or a suite of them, measured."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retrieval.cli.options import (
    AsJson,
    Devices,
    ModelOptions,
    Overwrite,
    Processes,
    Settings,
    SkipBad,
    parent_options,
    process_devices,
    quiet_libraries,
    takes_model_options,
)
from retrieval.cli.output import report_skipped
from retrieval.errors import ConfigError
from retrieval.files import BadLines

if TYPE_CHECKING:
    from retrieval.evaluation import Result
    from retrieval.evaluation.suites import Suite


@takes_model_options
def evaluate(
    dataset: Annotated[
        Path | None,
        typer.Argument(
            help="A BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv), or a suite's TOML file."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Folder or hub name of a model, or a starter; may come several times.",
        ),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            help="plaid, faiss, exact or bm25; by default plaid or faiss, as the model has it. "
            "bm25 takes no model. Or the folder of an index, which is measured as it is, with the "
            "model that it names. May come several times."
        ),
    ] = None,
    systems: Annotated[
        Path | None,
        typer.Option(help="A TOML file of systems, fusion and reranking among them, instead."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="A data set or group of the suite; may come several times."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of a suite's data sets; by default ./data.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="By default test, or the only one.")] = None,
    title: Annotated[
        Literal["join", "drop"] | None,
        typer.Option(help="Put a document's title before its text (the default), or leave it out."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="nDCG@k, MAP@k, recall@k, MRR@k, P@k, success@k, recall_cap@k, judged@k or "
            "hole@k; may come several times."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits a query.")] = 100,
    ignore_identical_ids: Annotated[
        bool,
        typer.Option(
            "--ignore-identical-ids", help="Leave out a document whose id is the query's."
        ),
    ] = False,
    setting: Settings = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder that keeps run.trec and result.json; of several results, in "
            "DATASET/SYSTEM. Of a single one it keeps the index, too.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps vectors, indexes and runs for other evaluations."),
    ] = None,
    repeated: Annotated[
        Path | None,
        typer.Option("--from", help="A result.json: do the same again, with the same sources."),
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
    """Index a collection, ask its queries, and print the metrics.

    A finished result is read, not computed again; a run that was stopped goes on where it was, with
    --output or --cache.
    """
    from retrieval.cli.eval_plans import Chosen, Home, plans_for, plans_from
    from retrieval.cli.systems import choose_systems
    from retrieval.evaluation.models import Models
    from retrieval.evaluation.planned import Evaluations
    from retrieval.evaluation.stages import StageCache

    each_device = process_devices(devices, processes, options)
    suite: Suite | None = None
    with tempfile.TemporaryDirectory() as temporary:
        home = Home(folder=output or Path(temporary))
        if cache is not None and output is None:
            home = Home(folder=cache / "results", is_shared=True)
        if repeated is not None:
            if dataset or model or index or systems or only or setting or metric or split or title:
                raise ConfigError("--from says what to do: give --data, --output and --cache alone")
            planned = plans_from(repeated, data, home)
        elif dataset is None:
            raise ConfigError("name a BEIR folder or a suite, or a result with --from")
        else:
            chosen = Chosen(
                systems=choose_systems(model or [], index or [], setting or [], options, systems),
                split=split,
                title=title,
                metrics=tuple(metric or ()),
                k=k,
                ignore_identical_ids=ignore_identical_ids,
            )
            planned, suite = plans_for(dataset, only or [], data, home, chosen)
        quiet_libraries()
        bad_lines = BadLines(skip=skip_bad)
        stages = cache or home.folder / "stages"
        evaluations = Evaluations(
            StageCache(stages),
            Models(parent_options(options, each_device).device),
            devices=each_device,
            bad_lines=bad_lines,
            strict=strict,
            overwrite=overwrite,
            progress=True,
        )
        results = []
        for each in planned:
            results.append(evaluations.result(each))
            if len(planned) > 1 and not as_json:
                _print_line(results[-1], suite)
        if output and cache is None:
            if len(planned) == 1:
                evaluations.take_index(planned[0], output / "index")
            shutil.rmtree(stages, ignore_errors=True)
        report_skipped(bad_lines)
        if as_json:
            print(json.dumps(_as_json(results, suite), indent=2, ensure_ascii=False))
        elif len(planned) == 1:
            _print(results[0])
        else:
            _print_means(results, suite)


def _metric_of(result: Result, suite: Suite | None) -> str:
    """The main metric: the suite's for its data set, else the first that was measured."""
    named = {each.name: each.metric for each in suite.data} if suite else {}
    return named.get(result.collection, next(iter(result.metrics)))


def _print_line(result: Result, suite: Suite | None) -> None:
    metric = _metric_of(result, suite)
    print(
        f"{result.collection:24} {result.system:32} {metric} {result.metrics[metric]:.4f}  "
        f"{result.timings.queries_per_second:10,.1f} queries/s",
        flush=True,
    )


def _means(results: Sequence[Result], suite: Suite | None) -> dict[str, float]:
    """The mean of the main metric over the data sets, by system."""
    figures: dict[str, dict[str, float]] = {}
    for each in results:
        value = each.metrics[_metric_of(each, suite)]
        figures.setdefault(each.system, {})[each.collection] = value
    if suite is None:
        return {}
    return {system: suite.mean(each) for system, each in figures.items()}


def _print_means(results: Sequence[Result], suite: Suite | None) -> None:
    from retrieval.evaluation.references import known_figures

    for system, mean in _means(results, suite).items():
        print(f"{'mean':24} {system:32} {mean:.4f}")
    for each in known_figures(suite, results) if suite else []:
        print(
            f"{each.data_set:24} {each.metric} {each.here:.3f}, known {each.elsewhere:.3f} "
            f"({each.reference})"
        )


def _as_json(results: Sequence[Result], suite: Suite | None) -> Any:
    """A single result as its file has it; several in a list, with their means."""
    if len(results) == 1 and suite is None:
        return results[0].to_mapping()
    return {
        "results": [each.to_mapping() for each in results],
        "means": _means(results, suite),
    }


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
