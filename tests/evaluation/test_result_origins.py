from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retrieval.evaluation import Result
from retrieval.evaluation.result_origins import _flatten, origins

MakeResult = Callable[..., Result]


def test_what_results_share_is_told_once(make_result: MakeResult) -> None:
    first = make_result("a")
    second = replace(make_result("b", split="dev"), index_kind="plaid", python="CPython 3.13.1")
    shared, own = origins([first, second])
    assert shared["versions.numpy"] == "2.4.6"
    assert shared["model.fingerprint"] == "abc"
    assert shared["settings.ignore_identical_ids"] == "no"
    assert own == {
        "a on tiny": {"index_kind": "exact", "python": "CPython 3.12.3"},
        "b on tiny dev": {"index_kind": "plaid", "python": "CPython 3.13.1"},
    }


def test_a_single_result_shares_everything_with_itself(make_result: MakeResult) -> None:
    shared, own = origins([make_result("a")])
    assert shared["index_kind"] == "exact"
    assert own == {"a on tiny": {}}
    assert origins([]) == ({}, {})


def test_lists_of_facts_are_numbered_and_numbers_are_short() -> None:
    flat: dict[str, str] = {}
    stages = [{"name": "search", "seconds": 1.23456789}, {"name": "metrics", "seconds": 2}]
    _flatten({"stages": stages, "prompts": [], "sizes": [1, 2], "left_out": None}, "", flat)
    assert flat == {
        "stages.1.name": "search",
        "stages.1.seconds": "1.23457",
        "stages.2.name": "metrics",
        "stages.2.seconds": "2",
        "prompts": "none",
        "sizes": "1, 2",
    }
