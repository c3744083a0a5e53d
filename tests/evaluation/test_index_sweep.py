from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import ConfigError
from retrieval.evaluation.index_sweep import IndexSweep, front_of, pareto_front, sweep_table
from retrieval.evaluation.report_tables import table_markdown

MakeSweep = Callable[..., IndexSweep]

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(POINTS)
def test_a_front_beats_all_others_and_nobody_on_it(points: list[tuple[float, float]]) -> None:
    is_front = pareto_front(points)
    front = [point for point, is_on in zip(points, is_front) if is_on]
    assert bool(front) == bool(points)
    for cost, quality in set(points) - set(front):
        assert any(a <= cost and b >= quality for a, b in front)
    for cost, quality in front:
        assert not any(a <= cost and b >= quality and (a, b) != (cost, quality) for a, b in points)


def test_a_sweep_reads_back_as_it_was(tmp_path: Path, make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    sweep.to_json(tmp_path / "sweep.json")
    assert IndexSweep.from_json(tmp_path / "sweep.json") == sweep


def test_other_json_is_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"format": "index-sweep/1", "colection": "x"}')
    with pytest.raises(ConfigError, match=r"unknown key 'colection'.*'collection'"):
        IndexSweep.from_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected a sweep, found list"):
        IndexSweep.from_json(tmp_path / "b.json")


def test_the_table_has_a_row_an_index_and_the_front_in_bold(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    assert front_of(sweep) == [True, True, False]
    head, rule, *rows = table_markdown(sweep_table(sweep)).splitlines()
    assert head == (
        "| index | recall@10 | recall@100 | nDCG@10 | p50 ms | p95 ms | p99 ms "
        "| queries/s, 1 thread | queries/s, 2 threads | bytes/document | build s | resident MB |"
    )
    assert rule == "|---" + "|---:" * 11 + "|"
    assert rows == [
        "| **exact** | 1.000 | 1.000 | 0.700 | 120 | 240 | 360 | 8 | 17 | 990 B | 2.0 | 12 |",
        "| **PLAID** | 0.950 | 0.900 | 0.690 | 5.00 | 10.0 | 15.0 | 200 | 400 | 990 B | 2.0 | 12 |",
        "| slow | 0.950 | 0.900 | 0.690 | 6.00 | 12.0 | 18.0 | 167 | 333 | 990 B | 2.0 | - |",
    ]
