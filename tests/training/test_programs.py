"""The training programs run as their first lines say, alone and in several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from retrieval import load_encoder
from retrieval.config import from_mapping, read_recipe
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from tests.programs import ROOT, run_program

BIN = Path(sys.executable).parent


@pytest.fixture
def workplace(tmp_path: Path, tiny_backbone: Path) -> Path:
    """A folder with what the code recipes name: demo/backbone and demo/data/train.jsonl."""
    (tmp_path / "demo" / "data").mkdir(parents=True)
    (tmp_path / "demo" / "backbone").symlink_to(tiny_backbone)
    lines = [json.dumps({"query": f"q {n}", "positive": f"def f{n}(x)"}) for n in range(40)]
    (tmp_path / "demo" / "data" / "train.jsonl").write_text("\n".join(lines), "utf-8")
    return tmp_path


def run(workplace: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=workplace, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_a_program_trains_and_prints_where_the_model_is(workplace: Path, kind: str) -> None:
    recipe = ROOT / "train/recipes" / f"code-{kind}.toml"
    options = ["--output", "out", "--dry-run", "optimizer.lr=1e-4"]
    done = run_program(f"train/{kind}.py", recipe, *options, folder=workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "out/model"
    assert load_encoder(workplace / "out" / "model").is_multi_vector == (kind == "colbert")
    assert json.loads((workplace / "out/recipe.json").read_text())["optimizer"]["lr"] == 1e-4


@pytest.mark.parametrize(
    "launcher",
    [
        ["torchrun", "--nproc-per-node", "2", "--master-port", "29611"],
        [
            "accelerate", "launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29612",
        ],
    ],
    ids=["torchrun", "accelerate"],
)  # fmt: skip
def test_two_processes_train_one_model(workplace: Path, launcher: list[str]) -> None:
    program, recipe = ROOT / "train/dense.py", ROOT / "train/recipes/code-dense.toml"
    command = [str(BIN / launcher[0]), *launcher[1:], str(program), str(recipe)]
    done = run(workplace, *command, "--output", "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert load_encoder(workplace / "out" / "model").reference.width == 32


def test_a_bad_recipe_ends_with_one_line_and_code_2(workplace: Path) -> None:
    recipe = ROOT / "train/recipes/code-dense.toml"
    options = ["--output", "o", "optimizer.lrr=1"]
    done = run_program("train/dense.py", recipe, *options, folder=workplace)
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith("unknown key 'optimizer.lrr'; the nearest known one is 'optimizer.lr'")
    )
    assert "Traceback" not in done.stderr


# The starter's recipe is of another kind: test_starter_run.py.
RECIPES = [
    each for each in sorted((ROOT / "train/recipes").glob("*.toml")) if each.stem != "starter"
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_runs_dry(
    recipe: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    texts = [f"def f{n}(x): return x + {n}" for n in range(20)]
    rows: dict[bool, list[dict[str, object]]] = {
        False: [{"query": f"q {n}", "positive": texts[n]} for n in range(20)],
        True: [
            {"query": f"q {n}", "documents": [texts[n], texts[n - 1]], "scores": [n, 1.0]}
            for n in range(20)
        ],
    }
    overrides = [f"model.backbone={str(tiny_backbone)!r}", 'data.train=["rows.jsonl"]']
    settings = read_recipe(recipe, overrides)
    is_dense = "colbert" not in recipe.stem
    kind: type[DenseRecipe] | type[MultiVectorRecipe] = (
        DenseRecipe if is_dense else MultiVectorRecipe
    )
    checked = from_mapping(kind, settings, source=str(recipe))
    for word in ("Data:", "Hardware:", "Expected"):
        assert word in checked.about
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in rows[checked.loss.reads_scores]]
    path.write_text("\n".join(lines), "utf-8")
    ready = replace(checked, data=replace(checked.data, train=(str(path),)))
    if isinstance(ready, DenseRecipe):
        train_dense(ready, tmp_path / "out", dry_run=True)
    else:
        train_multi_vector(ready, tmp_path / "out", dry_run=True)
    assert load_encoder(tmp_path / "out" / "model").is_multi_vector != is_dense
