from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from retrieval.errors import ConfigError, RetrievalError
from retrieval.evaluation import EvaluationSettings, Result, Timings
from retrieval.evaluation.result import library_versions

MakeResult = Callable[..., Result]


def test_a_result_reads_back_equal(tmp_path: Path, make_result: MakeResult) -> None:
    result = make_result(metrics={"nDCG@10": 1 / 3, "recall@100": 0.1})
    result.to_json(tmp_path / "result.json")
    assert Result.from_json(tmp_path / "result.json") == result


def test_a_result_without_model_and_folder_reads_back_equal(
    tmp_path: Path, make_result: MakeResult
) -> None:
    result = dataclasses.replace(make_result(index_bytes=None), model=None)
    result.to_json(tmp_path / "result.json")
    assert Result.from_json(tmp_path / "result.json") == result


def test_the_file_names_what_made_the_figures(tmp_path: Path, make_result: MakeResult) -> None:
    make_result().to_json(tmp_path / "result.json")
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["model"] == {
        "name": "folder/words",
        "fingerprint": "abc",
        "is_multi_vector": False,
        "width": 1024,
        "options": {},
    }
    assert content["settings"] == {
        "k": 100,
        "metrics": ["nDCG@10"],
        "split": "test",
        "search_batch_size": 64,
        "ignore_identical_ids": False,
    }
    assert content["index_parameters"] == {"dtype": "float32"}
    assert content["per_query"]["q2"]["recall@100"] == 0.75


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", "expected a result, found list"),
        ('{"systen": 1}', "unknown key 'systen'; the nearest known one is 'system'"),
        ('{"system": "x"}', "Field required"),
    ],
)
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        Result.from_json(path)
    assert str(path) in str(caught.value)
    assert problem in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="no such file"):
        Result.from_json(tmp_path / "absent.json")


def test_rates_are_queries_over_seconds() -> None:
    timings = Timings(queries=300, encode_seconds=1.0, search_seconds=0.5)
    assert timings.search_queries_per_second == 600
    assert timings.queries_per_second == 200
    assert Timings(queries=0, encode_seconds=0, search_seconds=0).queries_per_second == 0


def test_library_versions_are_those_of_the_installation() -> None:
    versions = library_versions()
    assert versions["numpy"] == numpy.__version__
    assert "modernbert-retrieval" in versions


def test_metrics_deeper_than_k_are_refused() -> None:
    with pytest.raises(ConfigError, match="k is 10, but recall@100 looks at 100 hits"):
        EvaluationSettings(k=10, metrics=("nDCG@10", "recall@100"))
    assert EvaluationSettings(k=10, metrics=("nDCG@10",)).k == 10


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown metrics: 'F1@3'"):
        EvaluationSettings(metrics=("F1@3",))
    with pytest.raises(ConfigError, match="search_batch_size is 0"):
        EvaluationSettings(search_batch_size=0)
