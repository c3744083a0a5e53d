"""`retrieval eval`: suites, several systems, finished and repeated results, caches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from retrieval.evaluation import Result, read_run
from retrieval.files import read_json
from tests.checkpoints import save_cross_encoder
from tests.cli.running import Run

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")

SUITE = """
name = "small"

[[data]]
name = "capitals"
source = "folder:capitals"

[[data]]
name = "again"
source = "folder:another-folder"
metric = "MRR@5"
title = "drop"
ignore_identical_ids = true
[data.reference]
"BM25, a paper" = 0.987
"another, a paper" = 0.5
"""

SYSTEMS = """
[[system]]
name = "BM25"
kind = "bm25"

[[system]]
name = "late"
kind = "multi-vector"
model = "MODEL"

[[system]]
name = "fused"
kind = "fusion"
of = ["BM25", "late"]

[[system]]
name = "reranked"
kind = "rerank"
first = "BM25"
model = "MODEL"

[[system]]
name = "crossed"
kind = "rerank"
first = "fused"
by = "cross-encoder"
model = "JUDGE"
depth = 2
"""


@pytest.fixture
def suite(tmp_path: Path, collection: Path) -> Path:
    """A suite of two data sets beside it."""
    shutil.copytree(collection, tmp_path / "another-folder")
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def systems(tmp_path: Path, colbert: Path, tiny_backbone: Path) -> Path:
    """BM25, a multi-vector model, their fusion, and BM25 and the fusion reranked."""
    judge = save_cross_encoder(tmp_path / "judge", tiny_backbone)
    path = tmp_path / "systems.toml"
    path.write_text(SYSTEMS.replace("MODEL", str(colbert)).replace("JUDGE", str(judge)))
    return path


def test_a_suite_has_a_line_a_data_set_and_a_mean(run: Run, suite: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = run("eval", suite, "--data", tmp_path, "--index", "bm25", "--output", kept)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[:4] for line in lines] == [
        ["capitals", "BM25", "nDCG@10", "1.0000"],
        ["again", "BM25", "MRR@5", "1.0000"],
        ["mean", "BM25", "1.0000"],
        ["again", "MRR@5", "1.000,", "known"],
    ]
    assert done.out.splitlines()[-1].endswith("known 0.987 (BM25, a paper)")
    result = Result.from_json(kept / "again" / "BM25" / "result.json")
    assert result.settings.ignore_identical_ids
    assert result.manifest is not None
    assert result.manifest.plan.data.title == "drop"
    assert (result.manifest.plan.data.suite, result.manifest.plan.data.folder) == (
        "small",
        "another-folder",
    )
    assert set(read_run(kept / "capitals" / "BM25" / "run.trec")) == {"q1", "q2"}
    assert not (kept / "stages").exists()


def test_only_some_data_sets_of_a_suite(run: Run, suite: Path, tmp_path: Path) -> None:
    arguments = ["--data", tmp_path, "--index", "bm25", "--json"]
    done = json.loads(run("eval", suite, *arguments, "--only", "again").out)
    assert [each["collection"] for each in done["results"]] == ["again"]
    assert done["means"] == {"BM25": 1.0}
    failed = run("eval", suite, *arguments, "--only", "agian")
    assert failed.code == 2
    assert "the nearest known one is 'again'" in failed.err


def test_data_that_are_not_those_of_the_suite_are_refused(
    run: Run, suite: Path, tmp_path: Path
) -> None:
    suite.write_text(SUITE.replace('name = "again"', 'name = "again"\ndocuments = 4'))
    failed = run("eval", suite, "--data", tmp_path, "--index", "bm25", "--only", "again")
    assert failed.code == 1
    assert "again" in failed.err
    assert "documents" in failed.err


def test_a_data_set_that_is_not_there_is_named_with_what_to_do(
    run: Run, suite: Path, tmp_path: Path
) -> None:
    failed = run("eval", suite, "--data", tmp_path / "nowhere", "--index", "bm25")
    assert failed.code == 1
    assert "capitals (folder:capitals)" in failed.err


def test_systems_of_a_file_share_one_encoding(
    run: Run, collection: Path, systems: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    done = run("eval", collection, "--systems", systems, "--output", tmp_path / "kept",
               "--cache", cache)  # fmt: skip
    assert done.code == 0, done.err
    assert [line.split()[1] for line in done.out.splitlines()] == [
        "BM25", "late", "fused", "reranked", "crossed",
    ]  # fmt: skip
    assert len(list((cache / "embeddings").iterdir())) == 1
    assert len(list((cache / "queries").iterdir())) == 1
    assert len(list((cache / "indexes").iterdir())) == 2
    assert "encoding documents" in done.err
    more = run("eval", collection, "--systems", systems, "--output", tmp_path / "more",
               "--cache", cache)  # fmt: skip
    assert "encoding" not in more.err
    for name in ("late", "fused", "reranked", "crossed"):
        first, second = (tmp_path / each / "capitals" / name for each in ("kept", "more"))
        assert (first / "run.trec").read_bytes() == (second / "run.trec").read_bytes()


def test_models_times_indexes(run: Run, collection: Path, colbert: Path, tmp_path: Path) -> None:
    done = run("eval", collection, "--model", colbert, "--index", "exact", "--index", "plaid",
               "--index", "faiss", "--index", "bm25", "--json")  # fmt: skip
    results = json.loads(done.out)["results"]
    assert [each["system"] for each in results] == ["BM25", "colbert exact", "colbert plaid"]


def test_a_finished_result_is_printed_without_the_data(
    run: Run, collection: Path, colbert: Path, tmp_path: Path
) -> None:
    for place in ("--output", "--cache"):
        shutil.copytree(collection, tmp_path / "data" / "capitals", dirs_exist_ok=True)
        command = ["eval", tmp_path / "data" / "capitals", "--model", colbert, "--index", "exact",
                   place, tmp_path / place]  # fmt: skip
        first = run(*command)
        assert first.code == 0, first.err
        shutil.rmtree(tmp_path / "data")
        again = run(*command)
        assert again.code == 0, again.err
        assert again.out == first.out
        assert "encoding" not in again.err
        failed = run(*command, "--overwrite")
        assert failed.code == 1
        assert "no such folder" in failed.err


def test_another_evaluation_in_the_same_folder_is_refused(
    run: Run, collection: Path, tmp_path: Path
) -> None:
    command = ["eval", collection, "--index", "bm25", "--output", tmp_path / "kept"]
    assert run(*command).code == 0
    failed = run(*command, "-k", "200")
    assert failed.code == 2
    assert "--overwrite" in failed.err
    assert run(*command, "-k", "200", "--overwrite").code == 0
    assert Result.from_json(tmp_path / "kept" / "result.json").settings.k == 200


@pytest.mark.parametrize("index", ["bm25", "exact", "plaid"])
def test_a_result_is_repeated_to_the_byte(
    run: Run, collection: Path, tmp_path: Path, colbert: Path, index: str
) -> None:
    model = [] if index == "bm25" else ["--model", colbert, "--query-length", "16"]
    run("eval", collection, *model, "--index", index, "-k", "50", "--metric", "nDCG@5",
        "--output", tmp_path / "one")  # fmt: skip
    again = run("eval", "--from", tmp_path / "one" / "result.json", "--data", tmp_path,
                "--output", tmp_path / "two")  # fmt: skip
    assert again.code == 0, again.err
    one, two = (tmp_path / each for each in ("one", "two"))
    assert (one / "run.trec").read_bytes() == (two / "run.trec").read_bytes()
    before, after = (read_json(each / "result.json") for each in (one, two))
    for key in ("settings", "metrics", "per_query", "index_parameters", "model", "counts"):
        assert before[key] == after[key]
    assert before["manifest"]["plan"] == after["manifest"]["plan"]


def test_what_differs_from_the_result_is_named(
    run: Run, collection: Path, tmp_path: Path, colbert: Path, tiny_backbone: Path
) -> None:
    from retrieval import MultiVectorEncoder

    model = tmp_path / "model"
    shutil.copytree(colbert, model)
    run("eval", collection, "--model", model, "--index", "exact", "--output", tmp_path / "one")
    repeat = ["eval", "--from", tmp_path / "one" / "result.json", "--data", tmp_path,
              "--output", tmp_path / "two"]  # fmt: skip
    shutil.rmtree(model)
    MultiVectorEncoder.from_backbone(tiny_backbone, width=16, seed=1).save(model)
    failed = run(*repeat)
    assert failed.code == 1
    before = read_json(tmp_path / "one" / "result.json")["manifest"]["models"][0]["fingerprint"]
    assert before in failed.err
    with (collection / "queries.jsonl").open("a") as stream:
        stream.write("\n")
    failed = run(*repeat)
    assert failed.code == 1
    assert "the SHA-256 of the queries was" in failed.err
    shutil.rmtree(collection)
    failed = run(*repeat)
    assert failed.code == 1
    assert "say with --data in which folder they are" in failed.err


def test_a_published_result_has_no_absolute_path(
    run: Run, collection: Path, tmp_path: Path, colbert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(colbert, tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    for number, (data, model) in enumerate(
        [(collection, tmp_path / "models" / "mine"), (Path("capitals"), Path("models/mine"))]
    ):
        done = run("eval", data, "--model", model, "--index", "exact", "--output", f"kept{number}")
        assert done.code == 0, done.err
        for path in (tmp_path / f"kept{number}").glob("*.*"):
            assert str(tmp_path) not in path.read_text()
        result = Result.from_json(tmp_path / f"kept{number}" / "result.json")
        assert result.model is not None
        assert result.model.name == "models/mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a BEIR folder or a suite"),
        (["DATA", "--index", "hnsw"], "expected one of plaid, faiss, exact, bm25"),
        (["DATA", "--only", "x"], "--only is for a suite"),
        (["DATA", "--index", "bm25", "--set", "k2=1"], "unknown key 'k2'"),
        (["DATA", "--systems", "x.toml", "--index", "bm25"], "leave them out"),
        (["DATA", "--index", "bm25", "--index", "exact", "--set", "k1=1"], "one kind of index"),
        (["DATA", "--from", "x.json"], "--from says what to do"),
        (["DATA", "--model", "MODEL", "--index", "faiss"], "take plaid or exact, not faiss"),
        (["DATA", "--model", "MODEL", "--model", "MODEL"], "two systems are called"),
    ],
)
def test_bad_usage_ends_with_code_2(
    run: Run, collection: Path, colbert: Path, arguments: list[str], message: str
) -> None:
    named = {"DATA": collection, "MODEL": colbert}
    failed = run("eval", *(named.get(each, each) for each in arguments))
    assert failed.code == 2, failed.err
    assert message in failed.err


def test_a_result_without_a_manifest_can_not_be_repeated(
    run: Run, collection: Path, tmp_path: Path
) -> None:
    run("eval", collection, "--index", "bm25", "--output", tmp_path / "kept")
    path = tmp_path / "kept" / "result.json"
    old = {key: value for key, value in read_json(path).items() if key != "manifest"}
    path.write_text(json.dumps(old))
    assert Result.from_json(path).manifest is None
    failed = run("eval", "--from", path)
    assert failed.code == 2
    assert "has no manifest" in failed.err
