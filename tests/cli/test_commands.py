"""Every subcommand, run in this process: its output, its files, its errors and exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

import retrieval
from retrieval import EmbeddingStore, MultiVectorEncoder
from retrieval.backbone.attention_choice import AttentionName
from retrieval.cli.options import ModelOptions, process_devices
from retrieval.errors import ConfigError
from retrieval.evaluation import Result, read_run
from tests.cli.running import LINES, Run


@pytest.mark.parametrize(
    ("options", "kind", "model"),
    [
        ([], "exact", "starter-colbert"),
        (["--kind", "plaid"], "plaid", "starter-colbert"),
        (["--set", "bits=2"], "plaid", "starter-colbert"),
        (["--kind", "faiss"], "faiss", "starter-dense"),
        (["--kind", "bm25"], "lexical", None),
    ],
    ids=["nothing", "plaid", "bits", "faiss", "bm25"],
)
def test_without_a_model_a_starter_indexes_and_searches_and_bm25_takes_none(
    run: Run, corpus: Path, tmp_path: Path, options: list[str], kind: str, model: str | None
) -> None:
    made = run("index", corpus, "--output", tmp_path / "index", *options)
    assert made.code == 0, made.err
    assert f"{kind} index of 3 documents" in made.out
    announced = re.findall("no model named: (.*) it is, which comes with the package", made.err)
    assert announced == ([model] if model else [])
    found = run("search", tmp_path / "index", "capital of France", "-k", "2")
    assert found.code == 0
    assert found.out.index("paris") < found.out.index("berlin")
    assert "Paris is the capital of France." in found.out


def test_search_prints_json_for_programs(run: Run, corpus: Path, tmp_path: Path) -> None:
    run("index", corpus, "--kind", "bm25", "--output", tmp_path / "index")
    found = run("search", tmp_path / "index", "flour", "capital of Germany", "-k", "1", "--json")
    answers = json.loads(found.out)
    assert [answer["question"] for answer in answers] == ["flour", "capital of Germany"]
    assert [answer["passages"][0]["id"] for answer in answers] == ["bread", "berlin"]
    assert answers[0]["passages"][0]["text"] == "Bread is baked from flour, water and salt."


@pytest.mark.parametrize("kind", ["plaid", "exact"])
def test_a_multi_vector_model_indexes_and_searches(
    run: Run, corpus: Path, tmp_path: Path, colbert: Path, kind: str
) -> None:
    made = run("index", corpus, "--model", colbert, "--kind", kind, "--output", tmp_path / "index")
    assert made.code == 0, made.err
    assert f"{kind} index of 3 documents" in made.out
    assert not (tmp_path / "index" / "embeddings").exists()
    found = json.loads(run("search", tmp_path / "index", "bread", "--json").out)
    assert {each["id"] for each in found[0]["passages"]} == {"paris", "berlin", "bread"}


def test_a_dense_model_takes_faiss_by_default_and_finds_the_capital(
    run: Run, corpus: Path, tmp_path: Path, minilm_path: Path
) -> None:
    made = run("index", corpus, "--model", minilm_path, "--output", tmp_path / "index")
    assert "faiss index of 3 documents" in made.out, made.err
    found = json.loads(run("search", tmp_path / "index", "Which city rules France?", "--json").out)
    assert found[0]["passages"][0]["id"] == "paris"


def test_embeddings_are_written_once_and_indexed_without_the_model(
    run: Run, corpus: Path, tmp_path: Path, colbert: Path
) -> None:
    encoded = run("encode", corpus, "--model", colbert, "--output", tmp_path / "embeddings")
    assert "3 documents, width 16" in encoded.out
    made = run("index", tmp_path / "embeddings", "--output", tmp_path / "index", "--set", "bits=2")
    assert "plaid index of 3 documents" in made.out, made.err
    facts = json.loads(run("info", tmp_path / "index", "--json").out)
    assert facts["parameters"]["bits"] == 2
    assert facts["model"]["name"] == str(colbert)
    assert json.loads(run("info", tmp_path / "embeddings", "--json").out)["embeddings"] == 3


def test_an_index_remembers_how_its_model_was_loaded(
    run: Run, corpus: Path, tmp_path: Path, colbert: Path
) -> None:
    options = ["--width", "8", "--pool-factor", "2", "--document-length", "20"]
    made = run("index", corpus, "--model", colbert, "--output", tmp_path / "index", *options)
    assert made.code == 0, made.err
    assert run("search", tmp_path / "index", "bread").code == 0
    model = json.loads(run("info", tmp_path / "index", "--json").out)["model"]
    assert model["width"] == 8
    assert model["options"] == {"width": 8, "pool_factor": 2, "document_length": 20}
    failed = run("search", tmp_path / "index", "bread", "--width", "4")
    assert failed.code == 1
    assert str(colbert) in failed.err


def test_embeddings_are_quantized_by_the_ranges_of_another_corpus(
    run: Run, corpus: Path, tmp_path: Path, minilm_path: Path
) -> None:
    encode = ["encode", corpus, "--model", minilm_path, "--output", tmp_path / "codes"]
    done = run(*encode, "--quantize", "int8", "--calibration", corpus, "--max-tokens", "64")
    assert "3 documents, width 384" in done.out, done.err
    (shard,) = EmbeddingStore(tmp_path / "codes")
    assert shard.embeddings.dtype == np.int8
    # the ranges are those of these documents: every component has its first and its last code,
    # or the one before where a step was rounded up
    assert set(shard.embeddings.min(axis=0)) == {-128}
    assert set(shard.embeddings.max(axis=0)) <= {126, 127}
    for wrong in (["--quantize", "int8"], ["--quantize", "binary", "--dtype", "int8"]):
        assert run(*encode, *wrong).code == 2


def test_several_processes_write_the_files_of_one(
    run: Run, corpus: Path, tmp_path: Path, colbert: Path
) -> None:
    """To the bit, because each has one thread as the one has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    common = ["encode", corpus, "--model", colbert, "--dtype", "bfloat16"]
    try:
        one = run(*common, "--output", tmp_path / "one")
        two = run(*common, "--output", tmp_path / "two", "--devices", "cpu", "--processes", "2")
    finally:
        torch.set_num_threads(threads)
    assert two.code == 0, two.err
    assert one.out.partition(":")[2] == two.out.partition(":")[2]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    tokens = [re.search(r"3 with ([0-9]+) tokens", each.err) for each in (one, two)]
    assert tokens[0] is not None
    assert tokens[1] is not None
    assert int(tokens[0][1]) == int(tokens[1][1]) > 30


def test_texts_that_are_cut_are_counted_at_the_end(
    run: Run, corpus: Path, tmp_path: Path, colbert: Path
) -> None:
    done = run(
        "encode", corpus, "--model", colbert, "--output", tmp_path / "e", "--document-length", "6"
    )
    assert "3 texts were longer than the model's limit and are cut" in done.err


@pytest.mark.parametrize("command", ["encode", "index", "search", "eval"])
def test_every_command_that_loads_a_model_has_the_same_options_for_it(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = run(command, "--help").out
    for field in dataclasses.fields(ModelOptions):
        assert "--" + field.name.replace("_", "-") in shown


def test_the_names_of_attention_are_those_of_the_backbone() -> None:
    hints = get_type_hints(ModelOptions)
    assert get_args(hints["attention"]) == get_args(AttentionName)


@pytest.mark.parametrize(
    ("devices", "processes", "device", "expected"),
    [
        (None, None, "cpu", None),
        ("cuda:0, cuda:1", None, None, ["cuda:0", "cuda:1"]),
        ("cuda:0,cuda:1", 3, None, ["cuda:0", "cuda:1", "cuda:0"]),
        (None, 2, "cpu", ["cpu", "cpu"]),
    ],
)
def test_processes_take_the_devices_in_turn(
    devices: str | None, processes: int | None, device: str | None, expected: list[str] | None
) -> None:
    assert process_devices(devices, processes, ModelOptions(device=device)) == expected


def test_devices_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        process_devices("cpu,cpu", None, ModelOptions(device="cpu"))
    with pytest.raises(ConfigError, match="'cpu,,cpu'"):
        process_devices("cpu,,cpu", None, ModelOptions())


def test_embeddings_of_another_model_are_refused_and_both_are_named(
    run: Run, corpus: Path, tmp_path: Path, colbert: Path, minilm_path: Path
) -> None:
    run("encode", corpus, "--model", colbert, "--output", tmp_path / "embeddings")
    failed = run(
        "index", tmp_path / "embeddings", "--model", minilm_path, "--output", tmp_path / "index"
    )
    assert failed.code == 1
    assert str(colbert) in failed.err
    assert str(minilm_path) in failed.err
    assert not (tmp_path / "index").exists()


def test_eval_tells_a_missing_extra_before_it_encodes(
    run: Run, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    failed = run("eval", collection, "--index", "bm25", "--output", tmp_path / "kept")
    assert failed.code == 1
    assert 'pip install "modernbert-retrieval[eval]"' in failed.err
    assert not (tmp_path / "kept").exists()


def test_a_folder_of_files_is_indexed_by_passages(run: Run, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "notes.txt").write_text("bread\n\n" + "filler " * 300 + "\n\nthe capital")
    run("index", tmp_path / "files", "--kind", "bm25", "--output", tmp_path / "index")
    found = json.loads(run("search", tmp_path / "index", "capital", "--json").out)
    assert found[0]["passages"][0]["id"] == "notes.txt:5-5"


@pytest.mark.parametrize("index", ["bm25", "plaid", "exact"])
def test_eval_measures_and_keeps_what_made_the_figures(
    run: Run, collection: Path, tmp_path: Path, colbert: Path, index: str
) -> None:
    model = [] if index == "bm25" else ["--model", str(colbert)]
    done = run(
        "eval", collection, *model, "--index", index, "-k", "10", "--metric", "nDCG@10",
        "--metric", "recall@3", "--output", tmp_path / "kept",
    )  # fmt: skip
    assert done.code == 0, done.err
    result = Result.from_json(tmp_path / "kept" / "result.json")
    assert set(result.metrics) == {"nDCG@10", "recall@3"}
    assert result.metrics["recall@3"] == 1
    assert f"{result.metrics['nDCG@10']:.4f}" in done.out
    assert set(read_run(tmp_path / "kept" / "run.trec")) == {"q1", "q2"}
    assert run("search", tmp_path / "kept" / "index", "bread").code == 0


def test_eval_prints_the_result_as_json(run: Run, collection: Path) -> None:
    result = json.loads(run("eval", collection, "--index", "bm25", "--json").out)
    assert result["metrics"]["MRR@10"] == 1
    assert result["versions"]["modernbert-retrieval"] == retrieval.__version__


def test_missing_judged_documents_are_reported_and_strict_fails(run: Run, collection: Path) -> None:
    with (collection / "qrels" / "test.tsv").open("a") as stream:
        stream.write("q1\trome\t1\n")
    reported = run("eval", collection, "--index", "bm25")
    assert reported.code == 0
    assert "rome" in reported.err
    strict = run("eval", collection, "--index", "bm25", "--strict")
    assert strict.code == 1
    assert "rome" in strict.err


def test_a_malformed_line_is_named_or_skipped_and_counted(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    corpus.write_text("\n".join([LINES[0], "{broken", LINES[1]]), "utf-8")
    failed = run("index", corpus, "--kind", "bm25", "--output", tmp_path / "index")
    assert failed.code == 1
    assert failed.err.strip().startswith(f"error: {corpus}:2: not JSON")
    assert not (tmp_path / "index").exists()
    skipped = run("index", corpus, "--kind", "bm25", "--output", tmp_path / "index", "--skip-bad")
    assert skipped.code == 0
    assert "skipped 1 bad lines" in skipped.err
    assert "2 documents" in skipped.out


def test_a_duplicate_id_is_named_even_where_bad_lines_are_skipped(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    corpus.write_text("\n".join([*LINES, LINES[1]]), "utf-8")
    failed = run("index", corpus, "--kind", "bm25", "--output", tmp_path / "index", "--skip-bad")
    assert failed.code == 1
    assert f"{corpus}:4: the id 'berlin' is there twice" in failed.err


def test_an_empty_document_is_indexed_and_counted_in_a_warning(
    run: Run, corpus: Path, tmp_path: Path, colbert: Path
) -> None:
    corpus.write_text("\n".join([*LINES, '{"_id": "empty", "text": ""}']), "utf-8")
    made = run("index", corpus, "--model", colbert, "--output", tmp_path / "index")
    assert "4 documents" in made.out
    assert "empty documents: 1" in made.err


def test_an_index_asked_with_another_model_names_both(
    run: Run, corpus: Path, tmp_path: Path, colbert: Path, tiny_backbone: Path
) -> None:
    other = tmp_path / "other-model"
    MultiVectorEncoder.from_backbone(tiny_backbone, width=16, seed=1).save(other)
    run("index", corpus, "--model", colbert, "--output", tmp_path / "index")
    failed = run("search", tmp_path / "index", "bread", "--model", other)
    assert failed.code == 1
    assert str(colbert) in failed.err
    assert "other-model" in failed.err


def test_nothing_is_overwritten_unless_asked(run: Run, corpus: Path, tmp_path: Path) -> None:
    run("index", corpus, "--kind", "bm25", "--output", tmp_path / "index")
    failed = run("index", corpus, "--kind", "bm25", "--output", tmp_path / "index")
    assert failed.code == 1
    assert "--overwrite" in failed.err
    assert (
        run("index", corpus, "--kind", "bm25", "--output", tmp_path / "index", "--overwrite").code
        == 0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "bm25", "--set", "k2=1"], "unknown key 'k2'"),
        (["--kind", "bm25", "--set", "k1"], "expected key=value"),
        (["--model", "MINILM", "--kind", "plaid"], "take faiss or exact"),
        (["--model", "MINILM", "--kind", "bm25"], "takes no model"),
        (["--kind", "hnsw"], "hnsw"),
    ],
)
def test_bad_usage_ends_with_code_2(
    run: Run, corpus: Path, tmp_path: Path, minilm_path: Path, arguments: list[str], message: str
) -> None:
    given = [str(minilm_path) if each == "MINILM" else each for each in arguments]
    failed = run("index", corpus, "--output", tmp_path / "index", *given)
    assert failed.code == 2
    assert message in failed.err
    assert "Traceback" not in failed.err


def test_info_knows_every_extra_that_users_install() -> None:
    from retrieval.cli.info import _EXTRAS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert {*_EXTRAS, "dev"} == set(project["project"]["optional-dependencies"])


def test_info_tells_versions_and_extras(run: Run) -> None:
    facts = json.loads(run("info", "--json").out)
    assert facts["modernbert-retrieval"] == retrieval.__version__
    assert {"train", "eval"} <= set(facts["extras"])
    assert "instruction set" in run("info").out


def test_the_installed_command_ends_with_one_line_on_a_missing_file() -> None:
    command = Path(sys.executable).parent / "retrieval"
    done = subprocess.run(
        [command, "search", "no-such-index", "question"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: no-such-index: no index here (no file CURRENT)\n"
