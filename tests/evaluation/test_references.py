"""Figures that are known from elsewhere, beside ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from retrieval.evaluation.references import known_figures, known_figures_table
from retrieval.evaluation.report_sources import find_sources
from retrieval.evaluation.report_tables import table_markdown
from retrieval.evaluation.suites import Suite, read_suite

EVAL = Path(__file__).parents[2] / "eval"


@pytest.fixture(scope="module")
def suite() -> Suite:
    return read_suite(EVAL / "suites" / "starters.toml")


def test_what_is_measured_here_is_what_is_known_elsewhere(suite: Suite) -> None:
    figures = known_figures(suite, find_sources([EVAL / "results" / "starters"]).results)
    assert {(each.data_set, each.reference.partition(",")[0]) for each in figures} >= {
        ("scifact", "BM25"),
        ("nfcorpus-lc", "all-MiniLM-L6-v2"),
        ("nq-qed-dev", "BM25"),
    }
    for each in figures:
        # BM25 differs by its fields and parameters, a model by its number format.
        bound = 0.015 if each.reference.startswith("BM25") else 0.003
        assert abs(each.difference) <= bound, each


def test_a_row_names_the_system_and_the_source(suite: Suite) -> None:
    results = find_sources([EVAL / "results" / "starters" / "scifact" / "BM25"]).results
    (two_fields, one_field) = known_figures(suite, results)
    assert two_fields.elsewhere == 0.665
    assert table_markdown(known_figures_table([one_field])).splitlines()[2] == (
        "| scifact, BM25, title and text as one field (Pyserini) | 0.679 | 0.679 | +0.000 |"
    )
    worse = one_field._replace(here=0.6704)
    assert table_markdown(known_figures_table([worse])).splitlines()[2].endswith("| -0.009 |")


def test_what_was_not_measured_has_no_row(suite: Suite) -> None:
    (result,) = find_sources([EVAL / "results" / "starters" / "scifact" / "BM25"]).results
    assert known_figures(suite, []) == []
    assert known_figures(suite, [replace(result, system="another")]) == []
    assert known_figures(suite, [replace(result, collection="another")]) == []
    assert known_figures(suite, [replace(result, metrics={"MRR@10": 1.0})]) == []
