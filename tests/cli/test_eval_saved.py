"""`retrieval eval --index FOLDER`: an index that is there already, measured as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from retrieval.evaluation import Result, read_run
from retrieval.evaluation.manifest import Manifest
from retrieval.indexing import open_index
from retrieval.indexing.versions import current_version, read_manifest, version_checksum
from tests.cli.running import Run

pytest.importorskip("pytrec_eval", reason="needs the extra [eval]")


@pytest.fixture
def index(run: Run, collection: Path, colbert: Path, tmp_path: Path) -> Path:
    """A PLAID index of the collection."""
    folder = tmp_path / "mine"
    done = run("index", collection / "corpus.jsonl", "--model", colbert, "--kind", "plaid",
               "--query-length", "16", "--set", "centroids=2", "--output", folder)  # fmt: skip
    assert done.code == 0, done.err
    return folder


def manifest_of(folder: Path) -> Manifest:
    manifest = Result.from_json(folder / "result.json").manifest
    assert manifest is not None
    return manifest


def test_it_gives_what_the_same_index_gives_when_it_is_built_for_the_evaluation(
    run: Run, collection: Path, index: Path, colbert: Path, tmp_path: Path
) -> None:
    before = current_version(index)
    done = run("eval", collection, "--index", index, "--output", tmp_path / "saved")
    assert done.code == 0, done.err
    assert "encoding queries: 2 in" in done.err
    assert "encoding documents" not in done.err
    built = run("eval", collection, "--model", colbert, "--index", "plaid", "--query-length", "16",
                "--set", "centroids=2", "--output", tmp_path / "built")  # fmt: skip
    assert built.code == 0, built.err
    saved, expected = (
        Result.from_json(tmp_path / each / "result.json") for each in ("saved", "built")
    )
    assert saved.per_query == expected.per_query
    assert saved.index_parameters == expected.index_parameters
    assert (saved.system, saved.index_kind) == ("mine", "plaid")
    runs = [read_run(tmp_path / each / "run.trec") for each in ("saved", "built")]
    assert runs[0] == runs[1]
    manifest = manifest_of(tmp_path / "saved")
    assert manifest.saved_indexes == {"mine": version_checksum(before)}
    assert {each.name for each in manifest.stages} == {"encode queries", "search", "metrics"}
    assert current_version(index) == before  # neither moved nor changed
    assert not (tmp_path / "saved" / "index").exists()


def test_it_is_repeated_to_the_byte_until_the_index_changes(
    run: Run, collection: Path, index: Path, tmp_path: Path
) -> None:
    run("eval", collection, "--index", index, "--output", tmp_path / "one")
    repeat = ["eval", "--from", tmp_path / "one" / "result.json", "--data", tmp_path]
    assert run(*repeat, "--output", tmp_path / "two").code == 0
    one, two = (tmp_path / each / "run.trec" for each in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with open_index(index, writable=True) as opened:
        opened.delete(["bread"])
        opened.save()
    failed = run(*repeat, "--output", tmp_path / "three")
    assert failed.code == 1
    assert "the SHA-256 of the index mine was" in failed.err
    failed = run("eval", collection, "--index", index, "--output", tmp_path / "one")
    assert failed.code == 2
    assert "holds the result of other sources: the SHA-256 of the index mine" in failed.err
    anew = run("eval", collection, "--index", index, "--output", tmp_path / "one", "--overwrite")
    assert anew.code == 0, anew.err
    result = Result.from_json(tmp_path / "one" / "result.json")
    assert (result.counts.documents, result.counts.missing_documents) == (2, 1)


def test_a_finished_result_needs_no_index(
    run: Run, collection: Path, index: Path, tmp_path: Path
) -> None:
    command = ["eval", "--from", tmp_path / "first" / "result.json", "--data", tmp_path]
    run("eval", collection, "--index", index, "--output", tmp_path / "first")
    first = run(*command, "--output", tmp_path / "kept")
    shutil.rmtree(index)
    again = run(*command, "--output", tmp_path / "kept")
    assert (again.code, again.out) == (0, first.out)
    failed = run(*command, "--output", tmp_path / "kept", "--overwrite")
    assert failed.code == 1
    assert "no index here" in failed.err


def test_the_search_may_have_other_settings_than_the_index(
    run: Run, collection: Path, index: Path, tmp_path: Path
) -> None:
    done = run("eval", collection, "--index", index, "--set", "quality=best",
               "--output", tmp_path / "kept")  # fmt: skip
    assert done.code == 0, done.err
    parameters = Result.from_json(tmp_path / "kept" / "result.json").index_parameters
    assert (parameters["quality"], parameters["centroids"]) == ("best", 2)
    assert read_manifest(index).parameters["quality"] == "balanced"


def test_a_lexical_index_takes_no_model(
    run: Run, collection: Path, colbert: Path, tmp_path: Path
) -> None:
    index = tmp_path / "words"
    run("index", collection / "corpus.jsonl", "--kind", "bm25", "--output", index)
    saved = run("eval", collection, "--index", index, "--output", tmp_path / "saved")
    assert saved.code == 0, saved.err
    run("eval", collection, "--index", "bm25", "--output", tmp_path / "built")
    runs = [read_run(tmp_path / each / "run.trec") for each in ("saved", "built")]
    assert runs[0] == runs[1]
    failed = run("eval", collection, "--index", index, "--model", colbert)
    assert failed.code == 2
    assert "a lexical index, takes no model" in failed.err


def test_in_a_file_of_systems_it_is_fused_with_others(
    run: Run, collection: Path, index: Path, tmp_path: Path
) -> None:
    (tmp_path / "systems.toml").write_text(f"""
        [[system]]
        name = "mine"
        kind = "saved"
        folder = "{index}"
        settings = {{ probes = 2 }}

        [[system]]
        name = "BM25"
        kind = "bm25"

        [[system]]
        name = "both"
        kind = "fusion"
        of = ["mine", "BM25"]
    """)
    done = run("eval", collection, "--systems", tmp_path / "systems.toml",
               "--output", tmp_path / "kept")  # fmt: skip
    assert done.code == 0, done.err
    manifest = manifest_of(tmp_path / "kept" / "capitals" / "both")
    assert manifest.saved_indexes == {"mine": version_checksum(current_version(index))}
    assert manifest.index_parameters["mine"]["probes"] == 2
    assert manifest.models[0].query_length == 16  # as the index remembers it


def test_a_damaged_index_is_not_measured(
    run: Run, collection: Path, index: Path, tmp_path: Path
) -> None:
    path = max(current_version(index).glob("*.safetensors"), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    failed = run("eval", collection, "--index", index)
    assert failed.code == 1
    assert "changed since it was written" in failed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "bits=2"], "'bits' is no setting of the search of a plaid index"),
        (["--index", "bm25"], "--index bm25 beside the folder of an index"),
        (["--model", "MODEL", "--model", "MODEL"], "an index takes one model"),
    ],
)
def test_bad_usage_ends_with_code_2(
    run: Run, collection: Path, index: Path, colbert: Path, arguments: list[str], message: str
) -> None:
    given = [str(colbert) if each == "MODEL" else each for each in arguments]
    failed = run("eval", collection, "--index", index, *given)
    assert failed.code == 2, failed.err
    assert message in failed.err


def test_the_model_has_to_be_the_one_that_filled_it(
    run: Run, collection: Path, index: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    from retrieval import MultiVectorEncoder

    MultiVectorEncoder.from_backbone(tiny_backbone, width=16, seed=1).save(tmp_path / "another")
    failed = run("eval", collection, "--index", index, "--model", tmp_path / "another")
    assert failed.code == 1
    assert "another" in failed.err
