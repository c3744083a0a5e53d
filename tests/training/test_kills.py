"""kill -9 at ten points of a run: after each it resumes, and ends with the same weights."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from retrieval.config import to_mapping
from retrieval.files import write_json
from retrieval.training.checkpoints import FOLDER, find_damage, list_checkpoints
from tests.programs import run_program
from tests.training.conftest import Kind, SmallRuns, curve, weights

# Between steps, in the first save and in a later one, around the rename, while an old checkpoint is
# deleted, and in the save of the final model. Four checkpoints of about 14 files and folders.
POINTS = (
    "step:2",
    "step:8",
    "write:1",
    "write:7",
    "write:16",
    "write:20",
    "rename:1",
    "rename:3",
    "renamed:1",
    "renamed:2",
    "deleted:1",
    "model",
)


def run(kind: Kind, recipe: Path, output: Path, point: str) -> subprocess.CompletedProcess[str]:
    return run_program("tests/training/crashing_run.py", kind, recipe, output, point)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_after_kill_9_at_any_point_the_run_ends_with_the_same_weights(
    small_runs: SmallRuns, kind: Kind, tmp_path: Path
) -> None:
    settings = small_runs.recipe(kind, checkpoint_every=3)
    recipe = tmp_path / "recipe.json"
    write_json(recipe, to_mapping(settings))
    whole = run(kind, recipe, tmp_path / "whole", "none")
    assert whole.returncode == 0, whole.stderr
    for point in POINTS:
        output = tmp_path / point
        killed = run(kind, recipe, output, point)
        assert killed.returncode == -signal.SIGKILL, f"{point}: {killed.stderr}"
        damaged = [find_damage(each) for each in list_checkpoints(output / FOLDER)]
        assert damaged == [None] * len(damaged), point
        resumed = run(kind, recipe, output, "none")
        assert resumed.returncode == 0, f"{point}: {resumed.stderr}"
        assert resumed.stdout == whole.stdout, point
        assert weights(output) == weights(tmp_path / "whole"), point
        assert curve(output) == curve(tmp_path / "whole"), point
        assert not list((output / FOLDER).glob(".incomplete/*")), point
