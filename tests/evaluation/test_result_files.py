from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from retrieval.errors import ConfigError, InputError, RetrievalError
from retrieval.evaluation import read_systems
from retrieval.evaluation.result_files import DataSet
from tests.evaluation.measured import write_collection, write_result

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

RANKS = [1] * 12


def test_a_folder_of_results_is_one_system_on_several_data_sets(tmp_path: Path) -> None:
    for name in ("one", "two"):
        collection = write_collection(tmp_path / name)
        write_result(tmp_path / "bm25" / name, collection, RANKS, "BM25")
        write_result(tmp_path / "dense" / "deeper" / name, collection, RANKS, "dense")
    (tmp_path / "bm25" / "two" / "run.trec").unlink()
    bm25, dense = read_systems([tmp_path / "bm25", tmp_path / "dense"])
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
    folder, file = read_systems([tmp_path / "bm25", tmp_path / "dense.json"])
    assert folder.results == file.results
    assert list(folder.runs.values()) == [tmp_path / "bm25" / "run.trec"]
    assert list(file.runs.values()) == [tmp_path / "dense.trec"]


def test_paths_are_the_names_where_two_systems_are_called_the_same(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        write_result(path, collection, RANKS, "BM25")
    assert [each.name for each in read_systems(paths)] == [str(path) for path in paths]


def test_paths_are_the_names_where_a_folder_holds_several_systems(tmp_path: Path) -> None:
    for name, system in (("one", "BM25"), ("two", "dense")):
        write_result(tmp_path / "a" / name, write_collection(tmp_path / name), RANKS, system)
    write_result(tmp_path / "b", write_collection(tmp_path / "three"), RANKS, "other")
    paths = [tmp_path / "a", tmp_path / "b"]
    assert [each.name for each in read_systems(paths)] == [str(path) for path in paths]


def test_two_results_on_one_data_set_are_an_error(tmp_path: Path) -> None:
    collection = write_collection(tmp_path / "one")
    for name in ("first", "second"):
        write_result(tmp_path / "a" / name, collection, RANKS, "BM25")
    with pytest.raises(InputError, match=r"two results on one, .*first.*second.*of their own"):
        read_systems([tmp_path / "a"])


def test_paths_without_a_result_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="absent: no such file or folder"):
        read_systems([tmp_path / "absent"])
    with pytest.raises(
        InputError, match=r"no result\.json in this folder or below \(`retrieval ev"
    ):
        read_systems([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="empty: given twice"):
        read_systems([tmp_path / "empty", tmp_path / "absent" / ".." / "empty"])


def test_a_file_that_is_no_result_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"system": "BM25"}', "utf-8")
    with pytest.raises(ConfigError, match=r"result\.json"):
        read_systems([tmp_path])
    (tmp_path / "result.json").write_text('{"system": "BM', "utf-8")
    with pytest.raises(RetrievalError, match=r"result\.json: not JSON"):
        read_systems([tmp_path])
