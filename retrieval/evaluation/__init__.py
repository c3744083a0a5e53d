"""From a collection to runs, metrics, results and reports; names are loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.evaluation.collection import Collection, read_collection
    from retrieval.evaluation.evaluator import evaluate, run_queries
    from retrieval.evaluation.metrics import evaluate_run
    from retrieval.evaluation.report import plot_results, results_markdown, results_table
    from retrieval.evaluation.result import Result, Timings
    from retrieval.evaluation.runs import Run, read_run, write_run
    from retrieval.evaluation.settings import EvaluationSettings
    from retrieval.qrels import Qrels, read_qrels

_MODULES = {
    "Collection": "collection",
    "EvaluationSettings": "settings",
    "Qrels": "collection",
    "Result": "result",
    "Run": "runs",
    "Timings": "result",
    "evaluate": "evaluator",
    "evaluate_run": "metrics",
    "plot_results": "report",
    "read_collection": "collection",
    "read_qrels": "collection",
    "read_run": "runs",
    "results_markdown": "report",
    "results_table": "report",
    "run_queries": "evaluator",
    "write_run": "runs",
}

__all__ = [
    "Collection",
    "EvaluationSettings",
    "Qrels",
    "Result",
    "Run",
    "Timings",
    "evaluate",
    "evaluate_run",
    "plot_results",
    "read_collection",
    "read_qrels",
    "read_run",
    "results_markdown",
    "results_table",
    "run_queries",
    "write_run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
