from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import MissingExtraError
from retrieval.evaluation import Result
from retrieval.evaluation.charts import (
    Chart,
    bar_charts,
    pareto_chart,
    score_chart,
    training_charts,
)
from retrieval.evaluation.index_sweep import IndexSweep
from retrieval.evaluation.report_sources import TrainingRun
from retrieval.evaluation.results_matrix import results_matrix
from retrieval.evaluation.score_distributions import ScoreDistribution

MakeResult = Callable[..., Result]

pytest.importorskip("matplotlib")

RUNS = [
    TrainingRun(
        name="mine",
        records=[
            {"step": 0, "dev_ndcg@10": 0.25, "bm25_ndcg@10": 0.3},
            {"step": 10, "loss": 2.0},
            {"step": 20, "loss": 1.0, "dev_ndcg@10": 0.5},
        ],
    )
]


@pytest.fixture
def charts(make_result: MakeResult, make_sweep: Callable[[], IndexSweep]) -> list[Chart]:
    """One of each sort."""
    results = [make_result("BM25"), make_result("a & b <c>", metrics={"nDCG@10": 0.25})]
    scores = ScoreDistribution(
        system="BM25",
        data_set="tiny",
        relevant=np.array([2.0, 3.0, 4.0]),
        others=np.linspace(0, 3, 50),
    )
    return [
        *bar_charts(results_matrix(results, "nDCG@10")),
        pareto_chart(make_sweep()),
        *training_charts(RUNS),
        score_chart(scores),
    ]


def texts(chart: Chart) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(chart.svg()).iter("text")]


def test_a_drawing_is_xml_in_the_pages_colours_and_says_what_it_shows(charts: list[Chart]) -> None:
    assert len(charts) == 5
    for chart in charts:
        drawing = chart.svg()
        root = ElementTree.fromstring(drawing)
        assert (root.get("role"), root.get("aria-label")) == ("img", chart.description)
        assert root.get("viewBox")
        assert root.get("width") is None
        assert "var(--series-1)" in drawing
        assert "var(--grid)" in drawing
        assert not re.search(r"#[0-9a-f]{6}\b", drawing.lower()), "a colour that no theme changes"
        assert "Date" not in drawing


def test_ids_are_never_those_of_another_drawing(charts: list[Chart]) -> None:
    ids = [
        each.get("id")
        for chart in charts
        for each in ElementTree.fromstring(chart.svg()).iter()
        if each.get("id")
    ]
    assert len(set(ids)) == len(ids)


def test_the_same_chart_gives_the_same_bytes(make_sweep: Callable[[], IndexSweep]) -> None:
    first, second = (pareto_chart(make_sweep()) for _ in range(2))
    assert first.svg() == second.svg()


def test_bars_name_their_systems_and_values(charts: list[Chart]) -> None:
    assert {"BM25", "0.500", "a & b <c>", "0.250"} <= set(texts(charts[0]))
    assert charts[0].description == (
        "nDCG@10 on tiny with 95 % intervals: BM25 0.500 (0.500 to 0.500), "
        "a & b <c> 0.250 (0.250 to 0.250)."
    )


def test_bars_are_as_long_as_their_values(make_result: MakeResult) -> None:
    results = [make_result("x", metrics={"P@1": 0.2}), make_result("y", metrics={"P@1": 0.8})]
    panel = bar_charts(results_matrix(results, "P@1"))[0].figure.axes[0]
    assert [each.get_width() for each in panel.patches] == [0.2, 0.8]
    assert panel.get_xlim()[0] == 0


def test_a_system_without_a_result_has_no_bar(make_result: MakeResult) -> None:
    results = [make_result("x", "one"), make_result("x", "two"), make_result("y", "two")]
    charts = bar_charts(results_matrix(results, "nDCG@10"))
    bars = {each.title: len(each.figure.axes[0].patches) for each in charts}
    assert bars == {"mean, nDCG@10": 1, "one, nDCG@10": 1, "two, nDCG@10": 2}


def test_the_front_joins_what_nobody_beats(make_sweep: Callable[[], IndexSweep]) -> None:
    chart = pareto_chart(make_sweep())
    line = chart.figure.axes[0].lines[0].get_xydata().tolist()
    assert line == [[5.0, 0.95], [120.0, 1.0]]
    assert chart.description.endswith(
        "On the front: PLAID 0.950 in 5.00 ms, exact 1.000 in 120 ms."
    )


def test_training_curves_show_losses_scores_and_bm25() -> None:
    loss, score = training_charts(RUNS)
    assert loss.figure.axes[0].lines[0].get_xydata().tolist() == [[10, 2], [20, 1]]
    curve, level = score.figure.axes[0].lines
    assert curve.get_xydata().tolist() == [[0, 0.25], [20, 0.5]]
    assert level.get_ydata() == [0.3, 0.3]
    assert training_charts([TrainingRun(name="x", records=[{"step": 1}])]) == []


def test_scores_of_one_sort_alone_are_drawn() -> None:
    scores = ScoreDistribution(
        system="x", data_set="y", relevant=np.array([]), others=np.array([1.0, 2.0])
    )
    assert "others (2)" in texts(score_chart(scores))


def test_pngs_have_names_for_files_and_no_label_leaves_them(
    tmp_path: Path, charts: list[Chart]
) -> None:
    from matplotlib.image import imread

    for chart in charts:
        assert re.fullmatch(r"[A-Za-z0-9.-]+", chart.name)
        chart.write_png(tmp_path / f"{chart.name}.png")
        assert chart.title not in texts(chart), "a page has it in words"
        pixels = imread(tmp_path / f"{chart.name}.png")[:, :, :3]
        edges = [pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]]
        assert all((edge == 1).all() for edge in edges), f"{chart.title} reaches the margin"


def test_a_missing_matplotlib_names_the_install_command(
    make_sweep: Callable[[], IndexSweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "modernbert-retrieval\[eval\]"'):
        pareto_chart(make_sweep())
