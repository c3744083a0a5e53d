from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from retrieval.errors import ConfigError, InputError, RetrievalError
from retrieval.evaluation import read_measured_systems
from retrieval.evaluation.result_files import DataSet
from retrieval.training.run_folder import LOG
from tests.evaluation.measured import write_collection, write_result

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

RANKS = [1] * 12


def test_a_folder_of_results_is_one_system_on_several_data_sets(tmp_path: Path) -> None:
    for name in ("one", "two"):
        collection = write_collection(tmp_path / name)
        write_result(tmp_path / "bm25" / name, collection, RANKS, "BM25")
        write_result(tmp_path / "dense" / "deeper" / name, collection, RANKS, "dense")
    (tmp_path / "bm25" / "two" / "run.trec").unlink()
    bm25, dense = read_measured_systems([tmp_path / "bm25", tmp_path / "dense"])
    assert (bm25.name, dense.name) == ("BM25", "dense")
    one, two = DataSet("one", "test"), DataSet("two", "test")
    assert list(bm25.results) == list(dense.results) == [one, two]
    assert bm25.runs == {one: tmp_path / "bm25" / "one" / "run.trec"}
    assert bm25.results[two].metrics == {"MRR@10": 1.0, "recall@5": 1.0}


def test_one_result_is_read_from_its_folder_or_its_file(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    write_result(tmp_path / "bm25", collection, RANKS, "BM25")
    shutil.copy(tmp_path / "bm25" / "result.json", tmp_path / "dense.json")
    shutil.copy(tmp_path / "bm25" / "run.trec", tmp_path / "dense.trec")
    folder, file = read_measured_systems([tmp_path / "bm25", tmp_path / "dense.json"])
    assert folder.results == file.results
    assert list(folder.runs.values()) == [tmp_path / "bm25" / "run.trec"]
    assert list(file.runs.values()) == [tmp_path / "dense.trec"]


def test_a_folder_of_several_systems_is_taken_apart_by_their_names(tmp_path: Path) -> None:
    for name in ("one", "two"):  # as a suite leaves them: DATASET/SYSTEM
        collection = write_collection(tmp_path / "data" / name)
        for system in ("BM25", "dense"):
            write_result(tmp_path / "results" / name / system, collection, RANKS, system)
    bm25, dense = read_measured_systems([tmp_path / "results"])
    assert (bm25.name, dense.name) == ("BM25", "dense")
    assert (
        list(bm25.runs) == list(dense.results) == [DataSet("one", "test"), DataSet("two", "test")]
    )
    assert bm25.runs[DataSet("two", "test")].parent == tmp_path / "results" / "two" / "BM25"


def test_the_baseline_comes_first(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    for system in ("a", "b", "c"):
        write_result(tmp_path / "results" / system, collection, RANKS, system)
    names = [each.name for each in read_measured_systems([tmp_path / "results"], baseline="c")]
    assert names == ["c", "a", "b"]
    with pytest.raises(ConfigError, match="no system is called 'd'; there are: a, b, c"):
        read_measured_systems([tmp_path / "results"], baseline="d")


def test_a_name_that_comes_in_two_paths_is_two_systems(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        write_result(path / "bm25", collection, RANKS, "BM25")
    write_result(tmp_path / "b" / "dense", collection, RANKS, "dense")
    names = [each.name for each in read_measured_systems(paths)]
    assert names == [f"BM25 ({paths[0]})", f"BM25 ({paths[1]})", "dense"]


def test_two_results_of_one_name_in_a_folder_are_called_by_their_paths(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    for name in ("first", "second"):
        write_result(tmp_path / "a" / name, collection, RANKS, "BM25")
    first, second = read_measured_systems([tmp_path / "a"])
    assert (first.name, second.name) == ("BM25 (first)", "BM25 (second)")
    assert first.runs[DataSet("one", "test")] == tmp_path / "a" / "first" / "run.trec"


def test_paths_without_a_result_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="absent: no such file or folder"):
        read_measured_systems([tmp_path / "absent"])
    with pytest.raises(InputError, match=r"empty: nothing to report; expected result\.json files"):
        read_measured_systems([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="empty: given twice"):
        read_measured_systems([tmp_path / "empty", tmp_path / "absent" / ".." / "empty"])


def test_a_folder_of_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOG).write_text('{"step": 1}\n', "utf-8")
    with pytest.raises(InputError, match=r"run: no result here \(`retrieval eval --output` writes"):
        read_measured_systems([tmp_path / "run"])


def test_a_file_that_is_no_result_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_result(tmp_path, write_collection(tmp_path / "one"), RANKS, "BM25")
    path = tmp_path / "result.json"
    whole = path.read_text("utf-8")
    path.write_text(whole.replace('"created"', '"creator"'), "utf-8")
    with pytest.raises(ConfigError, match=r"result\.json: unknown key 'creator'"):
        read_measured_systems([path])
    path.write_text('{"system": "BM25"}', "utf-8")
    with pytest.raises(InputError, match=r"result\.json: not a result"):
        read_measured_systems([path])
    path.write_text(whole[:-9], "utf-8")
    with pytest.raises(RetrievalError, match=r"result\.json: not JSON"):
        read_measured_systems([tmp_path])
