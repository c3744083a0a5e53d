"""The program that makes the starters runs from pairs to two checkpoints on one backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors.torch import load_file

from retrieval import load_encoder
from retrieval.config import from_mapping, read_recipe
from retrieval.encoders.starters import checkpoint_folder
from retrieval.errors import ConfigError
from retrieval.training import starter_run
from retrieval.training.starter_run import StarterRecipe, find_files
from retrieval.training.token_pairs import PairSource
from tests.programs import ROOT, run_program

RECIPE = ROOT / "train/recipes/starter.toml"


@pytest.fixture
def command(tmp_path: Path, minilm_path: Path) -> list[str | Path]:
    """The program's, with a few pairs for each file of the recipe; it writes `tmp_path`/out."""
    recipe = from_mapping(StarterRecipe, read_recipe(RECIPE), source="recipe")
    for name in recipe.names():
        lines = [
            {"anchor": f"what is {name} number {n}", "positive": f"{name} {n}: " + "a text " * 20}
            for n in range(60)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    program: list[str | Path] = ["train/starter.py", RECIPE, "--dry-run"]
    return [*program, "--pairs", tmp_path, "--output", tmp_path / "out"]


@pytest.mark.slow
def test_the_program_makes_two_retrievers_on_one_backbone(
    tmp_path: Path, command: list[str | Path]
) -> None:
    done = run_program(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / each) for each in ("dense", "colbert")]
    weights = [load_file(tmp_path / "out" / each / "model.safetensors")
               for each in ("dense", "colbert")]  # fmt: skip
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    (vectors,) = load_encoder(tmp_path / "out/colbert").encode_queries(["a text"])
    assert vectors.shape == (4, 128)
    (vector,) = load_encoder(tmp_path / "out/dense").encode_queries(["a text"])
    assert vector.shape == (384,)
    # As if it had been stopped in its last stretch: only that one runs again, to the same weights.
    kept = (tmp_path / "out/stretches").glob("*.safetensors")
    last = max(kept, key=lambda path: int(path.stem))
    last.unlink()
    done = run_program(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 2,") == 1
    again = load_file(tmp_path / "out/dense/model.safetensors")
    assert all(weights[0][name].equal(again[name]) for name in again)
    other = run_program(*command, "--resume", "following.lr=1e-4")
    assert other.returncode == 2
    assert "was made by another recipe or of other pairs" in other.stderr


@pytest.mark.slow
def test_it_goes_on_from_the_packages_starters(tmp_path: Path, command: list[str | Path]) -> None:
    done = run_program(*command, "--from-package")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 2,") == 1
    before = load_file(Path(checkpoint_folder("starter-dense")) / "model.safetensors")
    after = load_file(tmp_path / "out/dense/model.safetensors")
    assert before.keys() == after.keys()
    moved = [(after[name].float() - each.float()).abs().max() for name, each in before.items()]
    assert 0 < max(moved) < 0.01
    refused = run_program(*command, "--from-package", "--resume")
    assert refused.returncode == 2
    assert "take one" in refused.stderr


class _FirstStretchError(Exception):
    """What the first stretch was given is known."""


def test_files_of_later_stretches_have_no_part_in_the_first(
    tmp_path: Path, minilm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = json.dumps({"anchor": "a question", "positive": "an answer"})
    for name in ("first", "later"):
        (tmp_path / f"{name}.jsonl").write_text(pair, "utf-8")
    given = {
        "weights": {"first": 1.0},
        "following": {"steps": 1, "lr": 1e-3},
        "pairs": [{"steps": 1, "lr": 1e-3, "weights": {"later": 1.0}}],
    }
    recipe = from_mapping(StarterRecipe, given, source="here")
    assert recipe.names() == ["first", "later"]

    def inherit(recipe: StarterRecipe, bert: Any, sources: Mapping[str, PairSource]) -> NoReturn:
        raise _FirstStretchError(*sources)

    monkeypatch.setattr(starter_run, "_inherited", inherit)
    files = find_files(tmp_path, recipe.names())
    with pytest.raises(_FirstStretchError) as error:
        starter_run.train_starter(recipe, minilm_path, files, lambda figures: None)
    assert error.value.args == ("first",)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"")
    assert find_files(tmp_path, ["a"]) == {"a": tmp_path / "a.jsonl.gz"}
    with pytest.raises(ConfigError, match=r"expected b\.jsonl or b\.jsonl\.gz"):
        find_files(tmp_path, ["a", "b"])
