from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from retrieval.errors import ConfigError, InputError
from retrieval.evaluation import Result
from retrieval.evaluation.report_tables import table_latex, table_markdown
from retrieval.evaluation.results_matrix import matrix_table, results_matrix

MakeResult = Callable[..., Result]


@pytest.fixture
def results(make_result: MakeResult) -> list[Result]:
    """Two systems on two data sets, a third on one of them."""
    figures = {
        ("BM25", "one", "test"): 0.5,
        ("BM25", "two", "dev"): 0.3,
        ("a_b|c", "one", "test"): 0.5004,
        ("a_b|c", "two", "dev"): 0.4,
        ("new", "one", "test"): 0.2,
    }
    return [
        make_result(system, name, split, metrics={"nDCG@10": value})
        for (system, name, split), value in figures.items()
    ]


def test_the_best_is_bold_as_shown_and_only_complete_rows_have_a_mean(
    results: list[Result],
) -> None:
    table = matrix_table(results_matrix(results, "ndcg@10"), intervals=False)
    assert table_markdown(table) == (
        "| system | one | two dev | mean |\n"
        "|---|---:|---:|---:|\n"
        "| BM25 | **0.500** | 0.300 | 0.400 |\n"
        "| a_b\\|c | **0.500** | **0.400** | **0.450** |\n"
        "| new | 0.200 | - | - |\n"
    )


def test_latex_is_a_booktabs_table_with_special_characters_written_out(
    results: list[Result],
) -> None:
    table = matrix_table(results_matrix(results, "nDCG@10"), intervals=False)
    assert table_latex(table) == (
        "\\begin{tabular}{lrrr}\n"
        "\\toprule\n"
        "system & one & two dev & mean \\\\\n"
        "\\midrule\n"
        "BM25 & \\textbf{0.500} & 0.300 & 0.400 \\\\\n"
        "a\\_b|c & \\textbf{0.500} & \\textbf{0.400} & \\textbf{0.450} \\\\\n"
        "new & 0.200 & -- & -- \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_intervals_stand_behind_the_values(make_result: MakeResult) -> None:
    per_query = {f"q{n}": {"nDCG@10": float(n % 2)} for n in range(100)}
    result = replace(make_result(metrics={"nDCG@10": 0.5}), per_query=per_query)
    table = matrix_table(results_matrix([result], "nDCG@10"))
    low, high = (float(each) for each in table.rows[0][1].note.split(" to "))
    # 1.96 standard errors of a mean of 100 coin tosses are 0.098; draws make it 0.09 to 0.11.
    assert low == pytest.approx(0.402, abs=0.012)
    assert high == pytest.approx(0.598, abs=0.012)
    assert f"| 0.500 ({low:.3f} to {high:.3f}) |" in table_markdown(table)
    assert f"0.500 {{\\scriptsize ({low:.3f} to {high:.3f})}}" in table_latex(table)


def test_a_single_system_has_nothing_in_bold(make_result: MakeResult) -> None:
    table = matrix_table(results_matrix([make_result()], "nDCG@10"))
    assert table.header == ("system", "tiny")
    assert not table.rows[0][1].is_best


def test_what_cannot_be_arranged_is_an_error(make_result: MakeResult) -> None:
    with pytest.raises(InputError, match="no results"):
        results_matrix([], "nDCG@10")
    with pytest.raises(ConfigError, match=r"no result has measured P@3; there are: nDCG@10"):
        results_matrix([make_result()], "P@3")
    with pytest.raises(InputError, match="two results on tiny are called 'BM25'"):
        results_matrix([make_result(), make_result()], "nDCG@10")
