"""From a collection to runs, metrics, results and reports; names are loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.evaluation.collection import Collection, read_collection
    from retrieval.evaluation.comparison import Comparison, Contrast, compare
    from retrieval.evaluation.data_checks import CheckedData, check_data
    from retrieval.evaluation.data_sets import prepare
    from retrieval.evaluation.evaluator import evaluate, run_queries
    from retrieval.evaluation.manifest import Manifest, Plan
    from retrieval.evaluation.metrics import evaluate_run
    from retrieval.evaluation.models import Models, ModelSettings
    from retrieval.evaluation.planned import Evaluations, PlannedEvaluation
    from retrieval.evaluation.report import plot_results, results_markdown, results_table
    from retrieval.evaluation.result import Result, Timings
    from retrieval.evaluation.result_files import MeasuredSystem, read_measured_systems
    from retrieval.evaluation.runs import Run, read_run, write_run
    from retrieval.evaluation.settings import EvaluationSettings
    from retrieval.evaluation.significance import SignificanceSettings
    from retrieval.evaluation.stages import StageCache
    from retrieval.evaluation.suites import DataSet, Suite, read_suite
    from retrieval.evaluation.systems import read_systems
    from retrieval.qrels import Qrels, read_qrels

_MODULES = {
    "CheckedData": "data_checks",
    "Collection": "collection",
    "Comparison": "comparison",
    "Contrast": "comparison",
    "DataSet": "suites",
    "EvaluationSettings": "settings",
    "Evaluations": "planned",
    "Manifest": "manifest",
    "MeasuredSystem": "result_files",
    "ModelSettings": "models",
    "Models": "models",
    "Plan": "manifest",
    "PlannedEvaluation": "planned",
    "Qrels": "collection",
    "Result": "result",
    "Run": "runs",
    "SignificanceSettings": "significance",
    "StageCache": "stages",
    "Suite": "suites",
    "Timings": "result",
    "check_data": "data_checks",
    "compare": "comparison",
    "evaluate": "evaluator",
    "evaluate_run": "metrics",
    "plot_results": "report",
    "prepare": "data_sets",
    "read_collection": "collection",
    "read_measured_systems": "result_files",
    "read_qrels": "collection",
    "read_run": "runs",
    "read_suite": "suites",
    "read_systems": "systems",
    "results_markdown": "report",
    "results_table": "report",
    "run_queries": "evaluator",
    "write_run": "runs",
}

__all__ = [
    "CheckedData",
    "Collection",
    "Comparison",
    "Contrast",
    "DataSet",
    "EvaluationSettings",
    "Evaluations",
    "Manifest",
    "MeasuredSystem",
    "ModelSettings",
    "Models",
    "Plan",
    "PlannedEvaluation",
    "Qrels",
    "Result",
    "Run",
    "SignificanceSettings",
    "StageCache",
    "Suite",
    "Timings",
    "check_data",
    "compare",
    "evaluate",
    "evaluate_run",
    "plot_results",
    "prepare",
    "read_collection",
    "read_measured_systems",
    "read_qrels",
    "read_run",
    "read_suite",
    "read_systems",
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
