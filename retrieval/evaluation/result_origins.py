"""What made the results of a report: what is the same in all of them, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from retrieval.config import to_mapping
from retrieval.evaluation.result import Result
from retrieval.evaluation.results_matrix import data_set_name

_MEASURED = ("system", "collection", "split", "metrics", "per_query")
"""Of a result: named or shown elsewhere."""

Facts = dict[str, str]
"""Values by dotted name, in the order of the result's file."""


class Origins(NamedTuple):
    """The settings, versions and counts behind results."""

    shared: Facts
    """The same in all results."""
    own: dict[str, Facts]
    """What differs between results, by "system on data set"."""


def origins(results: Sequence[Result]) -> Origins:
    """Split what made the results into what they share and what each has for itself."""
    all_facts = {f"{each.system} on {data_set_name(each)}": _facts(each) for each in results}
    first = next(iter(all_facts.values()), {})
    shared = {
        name: value
        for name, value in first.items()
        if all(facts.get(name) == value for facts in all_facts.values())
    }
    own = {
        title: {name: value for name, value in facts.items() if name not in shared}
        for title, facts in all_facts.items()
    }
    return Origins(shared, own)


def _facts(result: Result) -> Facts:
    mapping = to_mapping(result)
    mapping["model"] = result.model._asdict() if result.model else None
    flat: Facts = {}
    _flatten({key: value for key, value in mapping.items() if key not in _MEASURED}, "", flat)
    return flat


def _flatten(value: Any, name: str, flat: Facts) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}" if name else str(key), flat)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, inner in enumerate(value, start=1):
            _flatten(inner, f"{name}.{number}", flat)
    elif value is not None and value != "":
        flat[name] = _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
