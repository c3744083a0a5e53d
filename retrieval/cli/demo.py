"""`retrieval demo`: train, index, search and measure on the Python standard library's own code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer
from rich.console import Console

from retrieval.cli.options import Overwrite, quiet_libraries
from retrieval.cli.output import print_passages
from retrieval.errors import InputError
from retrieval.files import atomic_write
from retrieval.progress import Stages, track

if TYPE_CHECKING:
    from retrieval.evaluation.planned import Evaluations
    from retrieval.evaluation.result import Result
    from retrieval.evaluation.systems import LexicalSystem, VectorSystem
    from retrieval.training.code_pairs import CodeFunction

QUESTIONS = ("copy a file together with its permissions", "read lines from a compressed file")
HELD_OUT_FRACTION = 0.2


class System(NamedTuple):
    """A line of the demo's table."""

    name: str
    folder: str
    index_kind: Literal["lexical", "faiss", "plaid"]
    model: str | None
    """A starter, or the folder of a run."""


SYSTEMS = (
    System("BM25", "bm25", "lexical", None),
    System("dense, FAISS", "faiss", "faiss", "dense"),
    System("ColBERT, PLAID", "plaid", "plaid", "colbert"),
    System("starter dense, FAISS", "starter-faiss", "faiss", "starter-dense"),
    System("starter ColBERT, PLAID", "starter-plaid", "plaid", "starter-colbert"),
)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything.")] = Path(
        "demo"
    ),
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Two training steps: see that everything runs.")
    ] = False,
) -> None:
    """Train two small ModernBERT retrievers from nothing; measure them beside the starters."""
    from retrieval.encoders.starters import DEFAULT_STARTER
    from retrieval.evaluation.metrics import load_pytrec_eval
    from retrieval.evaluation.planned import Evaluations
    from retrieval.evaluation.stages import StageCache
    from retrieval.training.run_folder import claim_output

    load_pytrec_eval()  # a missing extra is told before the training
    claim_output(output, overwrite)
    stage = Stages(total=4 + len(SYSTEMS))
    stage("collecting the functions of the standard library")
    training = write_data(output)
    stage("training a tokenizer and making the backbone")
    make_backbone(output / "backbone", training)
    stage("training the dense encoder")
    train(output, "dense", dry_run)
    stage("training the ColBERT encoder")
    train(output, "colbert", dry_run)
    quiet_libraries()
    results = []
    evaluations = Evaluations(StageCache(output / "stages"), overwrite=True, progress=True)
    for system in SYSTEMS:
        stage(f"indexing and measuring {system.name}")
        results.append(measure(output, evaluations, system))
    shutil.rmtree(evaluations.cache.folder)
    stage.finish()
    console = Console()
    report(console, output, results)
    best = next(each for each in SYSTEMS if each.model == DEFAULT_STARTER)
    ask(console, output / "indexes" / best.folder)


def write_data(output: Path) -> list[CodeFunction]:
    """Write training pairs, and the held-out modules as a BEIR folder; return the former.

    Every held-out function is a document, those that have a docstring are asked for.
    """
    from retrieval.training.code_pairs import extract_functions, split_by_module, standard_library

    functions = track(extract_functions(standard_library()), "reading functions")
    training, held_out = split_by_module(functions, HELD_OUT_FRACTION)
    pairs = [each for each in training if each.query]
    asked = [each for each in held_out if each.query]
    if not pairs or not asked:
        raise InputError(f"{standard_library()}: no Python sources with docstrings there")
    collection = output / "standard-library"
    _write_lines(
        output / "data" / "train.jsonl",
        [{"query": each.query, "positive": each.code} for each in pairs],
    )
    _write_lines(
        collection / "corpus.jsonl",
        [{"_id": each.id, "title": "", "text": each.code} for each in held_out],
    )
    _write_lines(
        collection / "queries.jsonl",
        [{"_id": f"q{number}", "text": each.query} for number, each in enumerate(asked)],
    )
    judged = "".join(f"q{number}\t{each.id}\t1\n" for number, each in enumerate(asked))
    with atomic_write(collection / "qrels" / "test.tsv") as stream:
        stream.write(f"query-id\tcorpus-id\tscore\n{judged}".encode())
    return pairs


def make_backbone(folder: Path, pairs: Sequence[CodeFunction]) -> None:
    """A ModernBERT of 0.3 million parameters beside its embeddings, and its tokenizer."""
    from retrieval.backbone.scratch import BackboneSettings, create_backbone

    settings = BackboneSettings(hidden_size=128, intermediate_size=192, layers=2, heads=2)
    texts = [text for each in pairs for text in (each.query or "", each.code)]
    create_backbone(folder, texts, settings)


def train(output: Path, kind: str, dry_run: bool) -> None:
    """Train `dense` or `colbert` as train/recipes/code-*.toml do."""
    from retrieval.training import recipes, runs
    from retrieval.training.examples import DataSettings
    from retrieval.training.fitting import OptimizerSettings
    from retrieval.training.loss_settings import MultiVectorLossSettings
    from retrieval.training.starting_models import DenseModelSettings, MultiVectorModelSettings

    backbone = str(output / "backbone")
    data = DataSettings(train=(str(output / "data" / "train.jsonl"),))
    optimizer = OptimizerSettings(
        epochs=2, batch_size=64, mini_batch_size=None, lr=2e-3, warmup_fraction=0.1
    )
    if kind == "dense":
        dense = DenseModelSettings(backbone=backbone, query_length=32, document_length=96)
        dense_recipe = recipes.DenseRecipe(model=dense, data=data, optimizer=optimizer)
        runs.train_dense(dense_recipe, output / kind, overwrite=True, dry_run=dry_run)
        return
    colbert = MultiVectorModelSettings(
        backbone=backbone,
        width=64,
        query_length=32,
        document_length=96,
        query_expansion=False,
        skiplist=(),
    )
    recipe = recipes.MultiVectorRecipe(
        model=colbert, data=data, optimizer=optimizer, loss=MultiVectorLossSettings(scale=8.0)
    )
    runs.train_multi_vector(recipe, output / kind, overwrite=True, dry_run=dry_run)


def measure(output: Path, evaluations: Evaluations, system: System) -> Result:
    """Index the held-out functions and ask for those with docstrings."""
    from retrieval.evaluation.manifest import DataChoice, Plan
    from retrieval.evaluation.planned import PlannedEvaluation
    from retrieval.evaluation.settings import EvaluationSettings

    collection = output / "standard-library"
    choice = DataChoice(name=collection.name, folder=collection.name, split="test")
    planned = PlannedEvaluation(
        plan=Plan(
            data=choice,
            system=_as_evaluated(output, system),
            settings=EvaluationSettings(split="test"),
        ),
        data=collection,
        output=output / "results" / system.folder,
    )
    result = evaluations.result(planned)
    evaluations.take_index(planned, output / "indexes" / system.folder)
    return result


def report(console: Console, output: Path, results: Sequence[Result]) -> None:
    """Print the table, write it and the plot, and say who is ahead."""
    from retrieval.evaluation.report import plot_results, results_markdown, results_table

    table, plot = output / "results" / "table.md", output / "results" / "plot.png"
    with atomic_write(table) as stream:
        stream.write(results_markdown(results).encode())
    plot_results(results, plot)
    counts = results[0].counts
    console.print(
        f"\nPython's standard library: {counts.queries:,} docstrings ask for their functions among "
        f"{counts.documents:,}, in modules that training has not seen"
    )
    console.print(results_table(results))
    console.print(_verdict(results))
    console.print(f"written: {table}, {plot}\n", highlight=False)


def ask(console: Console, index: Path) -> None:
    """Put two questions to an index."""
    from retrieval.indexing.retriever import Retriever

    for question, passages in zip(QUESTIONS, Retriever.open(index).search(QUESTIONS, 5)):
        print_passages(console, question, passages)


def _as_evaluated(output: Path, system: System) -> LexicalSystem | VectorSystem:
    """The system as an evaluation names it."""
    from retrieval.encoders.starters import STARTERS
    from retrieval.evaluation.models import ModelSettings
    from retrieval.evaluation.systems import LexicalSystem, VectorSystem

    if system.model is None or system.index_kind == "lexical":
        return LexicalSystem(name=system.name)
    is_starter = system.model in STARTERS
    name = system.model if is_starter else str(output / system.model / "model")
    return VectorSystem(
        kind="multi-vector" if system.index_kind == "plaid" else "dense",
        name=system.name,
        model=ModelSettings(name=name),
        index=system.index_kind,
    )


def _verdict(results: Sequence[Result]) -> str:
    baseline, *encoders = results
    ahead = [each.system for each in encoders if _score(each) >= _score(baseline)]
    behind = [each.system for each in encoders if _score(each) < _score(baseline)]
    said = f"Ahead of {baseline.system}: {'; '.join(ahead) or 'none'}."
    if not behind:
        return said
    return (
        f"{said} Behind it: {'; '.join(behind)}. Minutes of training from random weights show the "
        "way, not what a pretrained model reaches; the starters had hours."
    )


def _score(result: Result) -> float:
    return result.metrics["nDCG@10"]


def _write_lines(path: Path, records: Sequence[dict[str, str | None]]) -> None:
    with atomic_write(path) as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
