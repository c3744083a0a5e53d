from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.errors import InputError, RetrievalError
from retrieval.evaluation import Result
from retrieval.evaluation.index_sweep import IndexSweep
from retrieval.evaluation.report_sources import find_sources

MakeResult = Callable[..., Result]


def test_a_folder_is_looked_through_to_the_bottom(
    tmp_path: Path, make_result: MakeResult, make_sweep: Callable[..., IndexSweep]
) -> None:
    make_result("BM25").to_json(tmp_path / "b" / "tiny" / "result.json")
    make_result("dense").to_json(tmp_path / "a" / "dense.json")
    make_sweep().to_json(tmp_path / "sweeps" / "x.json")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    (tmp_path / "run" / "recipe.json").write_text("{}")
    (tmp_path / "other.json").write_text('{"system": "x"}')
    found = find_sources([tmp_path])
    assert [each.system for each in found.results] == ["dense", "BM25"]
    assert found.result_paths == [tmp_path / "a/dense.json", tmp_path / "b/tiny/result.json"]
    assert found.sweeps == [make_sweep()]
    assert [(run.name, run.records) for run in found.runs] == [("run", [{"step": 1, "loss": 2.0}])]


def test_indexes_and_models_are_not_looked_into(tmp_path: Path, make_result: MakeResult) -> None:
    make_result().to_json(tmp_path / "result.json")
    for name, mark in (("index", "CURRENT"), ("model", "modules.json")):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / mark).write_text("not JSON")
        (tmp_path / name / "inner" / "x.json").write_text("not JSON")
    assert len(find_sources([tmp_path]).results) == 1


def test_what_two_paths_name_is_read_once(tmp_path: Path, make_result: MakeResult) -> None:
    make_result().to_json(tmp_path / "result.json")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1}\n')
    paths = [tmp_path / "result.json", tmp_path / "run", tmp_path, tmp_path / "run" / "log.jsonl"]
    found = find_sources(paths)
    assert len(found.results) == len(found.runs) == 1


def test_systems_of_one_name_get_what_their_paths_differ_in(
    tmp_path: Path, make_result: MakeResult
) -> None:
    for folder in ("before", "after"):
        for name in ("one", "two"):
            make_result("dense", name).to_json(tmp_path / folder / name / "result.json")
    make_result("BM25", "one").to_json(tmp_path / "before" / "one" / "bm25.json")
    found = find_sources([tmp_path])
    assert [(each.system, each.collection) for each in found.results] == [
        ("dense (after)", "one"),
        ("dense (after)", "two"),
        ("BM25", "one"),
        ("dense (before)", "one"),
        ("dense (before)", "two"),
    ]


def test_what_is_missing_or_foreign_is_an_error_that_says_what_was_expected(
    tmp_path: Path, make_result: MakeResult
) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; expected result\.json"):
        find_sources([tmp_path / "nowhere"])
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps({"accuracy": 1}))
    with pytest.raises(InputError, match=r"foreign\.json: not a result, a sweep or a log"):
        find_sources([foreign])
    with pytest.raises(InputError, match=r"nothing to report \(1 JSON files are something else\)"):
        find_sources([tmp_path])
    text = tmp_path / "notes.txt"
    text.write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt: not a result"):
        find_sources([text])
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(RetrievalError, match=r"broken\.json: not JSON"):
        find_sources([broken])
    with pytest.raises(InputError, match="no paths: nothing to report"):
        find_sources([])
