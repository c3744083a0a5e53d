from __future__ import annotations

import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from retrieval.errors import ConfigError, InputError, MissingExtraError
from retrieval.evaluation import Result, plot_results, results_markdown, results_table

MakeResult = Callable[..., Result]


def printed(results: list[Result]) -> list[str]:
    """The table's lines as 80 columns show them, without spaces at their ends."""
    stream = StringIO()
    Console(file=stream, width=80).print(results_table(results))
    return [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]


def test_markdown_shows_all_columns_and_the_best_in_bold(make_result: MakeResult) -> None:
    better = {"nDCG@10": 0.62, "recall@100": 0.75, "MRR@10": 0.2}
    results = [make_result("BM25"), make_result("a|b", metrics=better, index_bytes=None)]
    assert results_markdown(results) == (
        "| system |   nDCG@10 | recall@100 |    MRR@10 | index size | queries/s |\n"
        "| ------ | --------: | ---------: | --------: | ---------: | --------: |\n"
        "| BM25   |     0.500 |  **0.750** | **0.250** |    1.23 MB |       150 |\n"
        "| a\\|b   | **0.620** |  **0.750** |     0.200 |          - |       150 |\n"
    )


def test_a_single_result_has_nothing_in_bold_and_unmeasured_metrics_a_dash(
    make_result: MakeResult,
) -> None:
    lines = results_markdown([make_result(metrics={"nDCG@10": 0.5}, seconds=40)]).splitlines()
    assert lines[2] == "| BM25   |   0.500 |          - |      - |    1.23 MB |       7.5 |"


def test_several_collections_have_a_column_and_their_own_best(make_result: MakeResult) -> None:
    results = [
        make_result("BM25", "one", metrics={"nDCG@10": 0.1}),
        make_result("BM25", "two", split="dev", metrics={"nDCG@10": 0.9}),
        make_result("dense", "one", metrics={"nDCG@10": 0.2}),
        make_result("dense", "two", split="dev", metrics={"nDCG@10": 0.8}),
    ]
    rows = [line.split("|")[1:4] for line in results_markdown(results, ["ndcg@10"]).splitlines()]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["collection", "system", "nDCG@10"],
        ["----------", "------", "--------:"],
        ["one", "BM25", "0.100"],
        ["one", "dense", "**0.200**"],
        ["two dev", "BM25", "**0.900**"],
        ["two dev", "dense", "0.800"],
    ]


def test_the_terminal_table_fits_80_columns(make_result: MakeResult) -> None:
    results = [make_result("MiniLM, FAISS HNSW"), make_result("ColBERT, PLAID 4-bit")]
    lines = printed(results)
    assert lines[0].split() == [
        "system",
        "nDCG@10",
        "recall@100",
        "MRR@10",
        "index",
        "size",
        "queries/s",
    ]
    assert lines[2:] == [
        " MiniLM, FAISS HNSW       0.500        0.750    0.250      1.23 MB         150",
        " ColBERT, PLAID 4-bit     0.500        0.750    0.250      1.23 MB         150",
    ]


def test_the_terminal_table_puts_collections_under_their_names(make_result: MakeResult) -> None:
    lines = printed([make_result("x", "one"), make_result("x", "two"), make_result("y", "one")])
    assert [line.split()[0] for line in lines[2:]] == ["one", "x", "y", "two", "x"]


def test_brackets_in_names_are_no_markup(make_result: MakeResult) -> None:
    assert printed([make_result("PLAID [4-bit]")])[2].startswith(" PLAID [4-bit] ")


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    from matplotlib.image import imread

    return np.round(imread(path)[:, :, :3] * 255).astype(np.uint8)


@pytest.mark.parametrize("system_count", [1, 3, 9])
def test_the_plot_is_a_png_that_no_label_leaves(
    tmp_path: Path, make_result: MakeResult, system_count: int
) -> None:
    pytest.importorskip("matplotlib")
    results = [
        make_result(f"a system with a rather long name {number}", collection)
        for number in range(system_count)
        for collection in ("one", "two")
    ]
    path = tmp_path / "plots" / "result.png"
    plot_results(results, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    pixels = read_pixels(path)
    edges = [pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:]]
    assert all((edge == 255).all() for edge in edges), "something reaches the margin"


def test_bars_are_as_high_as_their_values(tmp_path: Path, make_result: MakeResult) -> None:
    pytest.importorskip("matplotlib")
    metrics = {"nDCG@10": 0.5, "recall@100": 0.75, "MRR@10": 0.25}
    plot_results([make_result("BM25", metrics=metrics)], tmp_path / "a.png")
    is_blue = (read_pixels(tmp_path / "a.png") == (0x00, 0x72, 0xB2)).all(axis=2)
    heights = is_blue[:550].sum(axis=0)  # above the legend
    widths = np.array(
        [
            np.isclose(heights, value * heights.max() / 0.75, atol=2).sum()
            for value in metrics.values()
        ]
    )
    assert heights.max() > 300
    assert (widths > 50).all()
    assert np.ptp(widths) <= 4
    assert widths.sum() == np.count_nonzero(heights)


def test_the_same_results_give_the_same_plot(tmp_path: Path, make_result: MakeResult) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.png"):
        plot_results([make_result("BM25"), make_result("dense")], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_plot_with_an_unmeasured_metric_is_drawn(tmp_path: Path, make_result: MakeResult) -> None:
    pytest.importorskip("matplotlib")
    plot_results([make_result(metrics={"MRR@10": 1.0})], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_results_that_cannot_be_shown_are_errors(tmp_path: Path, make_result: MakeResult) -> None:
    for show in (results_table, results_markdown):
        with pytest.raises(InputError, match="no results"):
            show([])
        with pytest.raises(ConfigError, match="F1@3"):
            show([make_result()], ["F1@3"])
    with pytest.raises(InputError, match="no results"):
        plot_results([], tmp_path / "a.png")
    with pytest.raises(InputError, match="two results on tiny are called 'BM25'"):
        plot_results([make_result(), make_result()], tmp_path / "a.png")


def test_a_missing_matplotlib_names_the_install_command(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "modernbert-retrieval\[eval\]"'):
        plot_results([make_result()], tmp_path / "a.png")
