"""Which results of several systems can be compared, and what to know when they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval.config import to_mapping
from retrieval.errors import ConfigError, InputError
from retrieval.evaluation.metrics import parse_metrics
from retrieval.evaluation.result import Result
from retrieval.evaluation.result_files import DataSet, MeasuredSystem

_HARMLESS_SETTINGS = ("metrics", "search_batch_size", "split")
"""Settings that change no ranking, or that are compared in another way."""
_LENGTHS = ("query_length", "document_length")
"""Of a model: how much of a text it sees, in tokens."""


def shared_data_sets(systems: Sequence[MeasuredSystem]) -> tuple[list[DataSet], list[str]]:
    """The data sets that all systems were measured on, in the first one's order, and warnings.

    The warnings name data sets that a system lacks, and what differs between two results beside
    the systems themselves: hits a query, lengths, titles, the corpus.

    Raises:
        InputError: no data set is shared, or two results of one are of different queries or
            judgements.
    """
    baseline, *others = systems
    every = dict.fromkeys(each for system in systems for each in system.results)
    shared = [each for each in every if all(each in system.results for system in systems)]
    if not shared:
        measured = "; ".join(
            f"{system.name} on {', '.join(map(str, system.results))}" for system in systems
        )
        raise InputError(f"the systems have no data set in common: {measured}")
    warnings = [
        f"{data_set} is left out: no result of "
        + ", ".join(system.name for system in systems if data_set not in system.results)
        for data_set in every
        if data_set not in shared
    ]
    differing: dict[str, list[DataSet]] = {}
    for data_set in shared:
        for system in others:
            first, second = baseline.results[data_set], system.results[data_set]
            _check_same_judgements(data_set, (baseline.name, first), (system.name, second))
            for what in _differences(first, second):
                problem = f"{baseline.name} and {system.name} differ in {what}"
                differing.setdefault(problem, []).append(data_set)
    for problem, data_sets in differing.items():
        warnings.append(f"{', '.join(map(str, data_sets))}: {problem}")
    return shared, warnings


def choose_metrics(
    systems: Sequence[MeasuredSystem], data_sets: Sequence[DataSet], wanted: Sequence[str] = ()
) -> list[str]:
    """The metrics to compare: those that are wanted, or the first that all results have.

    Raises:
        ConfigError: unknown metrics, or one that a result has not measured; the message lists
            those that all have.
    """
    results = [system.results[data_set] for system in systems for data_set in data_sets]
    shared = [name for name in results[0].metrics if all(name in each.metrics for each in results)]
    listed = ", ".join(shared) or "none"
    if not wanted:
        if not shared:
            raise ConfigError("the results have no metric in common: evaluate again with one")
        return shared[:1]
    names = [str(metric) for metric in parse_metrics(wanted)]
    missing = [name for name in names if name not in shared]
    if missing:
        raise ConfigError(
            f"not measured by all systems on all data sets: {', '.join(missing)}; shared: {listed} "
            "(evaluate again with --metric)"
        )
    return names


def _check_same_judgements(
    data_set: DataSet, first: tuple[str, Result], second: tuple[str, Result]
) -> None:
    (first_name, a), (second_name, b) = first, second
    if a.collection_fingerprint != b.collection_fingerprint:
        raise InputError(
            f"{data_set}: the queries or judgements differ: {first_name} was measured on "
            f"{a.collection_fingerprint[:12]}, {second_name} on {b.collection_fingerprint[:12]}; "
            "evaluate both on the same files"
        )
    if a.per_query.keys() != b.per_query.keys():
        raise InputError(
            f"{data_set}: {first_name} has values for {len(a.per_query)} queries, {second_name} "
            f"for {len(b.per_query)}, and they are not the same: a result file was changed"
        )


def _differences(first: Result, second: Result) -> list[str]:
    """What differs beside the systems themselves, such as "k (100 and 1000)"."""
    ours, theirs = _conditions(first), _conditions(second)
    known = sorted(ours.keys() & theirs.keys())
    return [f"{key} ({ours[key]} and {theirs[key]})" for key in known if ours[key] != theirs[key]]


def _conditions(result: Result) -> dict[str, object]:
    """By name, what can move the figures of any system; without a manifest less is known."""
    settings = to_mapping(result.settings)
    conditions = {key: value for key, value in settings.items() if key not in _HARMLESS_SETTINGS}
    conditions["documents"] = result.counts.documents
    encoders: list[Mapping[str, Any]] = [result.model.options] if result.model else []
    if result.manifest is not None:
        conditions["title"] = result.manifest.plan.data.title
        conditions["corpus"] = f"SHA-256 {result.manifest.checksums.corpus[:12]}"
        # A cross-encoder, which sees query and document at once, has no width.
        encoders = [vars(each) for each in result.manifest.models if each.width is not None]
    for key in _LENGTHS:
        lengths = dict.fromkeys(str(each[key]) for each in encoders if each.get(key) is not None)
        if lengths:
            conditions[key] = ", ".join(lengths)
    return conditions
