"""Two processes that share their negatives learn what one with the whole batch learns."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from retrieval.config import to_mapping
from retrieval.files import write_json
from tests.programs import start_program
from tests.training.conftest import Kind, SmallRuns, curve, weights

PROGRAM = "tests/training/gradients_of_a_run.py"


def train(
    runs: SmallRuns, kind: Kind, folder: Path, processes: int, *options: str, **optimizer: object
) -> None:
    """Write the gradients of a run over batches of 8 texts, whatever the number of processes."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = runs.recipe(kind, batch_size=8 // processes, **optimizer)
    write_json(folder / "recipe.json", to_mapping(recipe))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    # What torchrun tells its processes; test_programs.py runs torchrun itself.
    group = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    group |= {each: str(processes) for each in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    ranks = [
        {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        for rank in range(processes)
    ]
    arguments: list[str | Path] = [PROGRAM, kind, folder / "recipe.json", folder, *options]
    started = [start_program(*arguments, environment=rank) for rank in ranks]
    for done in [each.wait() for each in started]:
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mini_batch_size", [2, None], ids=["cached", "one_pass"])
@pytest.mark.parametrize("kind", ["dense", "colbert", "distilled"])
def test_two_processes_give_the_gradients_of_one_with_the_whole_batch(
    small_runs: SmallRuns,
    tiny_backbone: Path,
    kind: Kind,
    mini_batch_size: int | None,
    tmp_path: Path,
) -> None:
    # Without dropout, whose masks would differ.
    runs = replace(small_runs, backbone=tiny_backbone)
    for processes in (1, 2):
        train(
            runs,
            kind,
            tmp_path / str(processes),
            processes,
            mini_batch_size=mini_batch_size,
            max_steps=1,
            checkpoint_every=None,
        )
    whole = load_file(tmp_path / "1/gradients-0-1.safetensors")
    for rank in (0, 1):
        shared = load_file(tmp_path / f"2/gradients-{rank}-1.safetensors")
        assert shared.keys() == whole.keys()
        largest = max(np.abs(gradient).max() for gradient in whole.values())
        for name, gradient in whole.items():
            # float32, summed in another order.
            np.testing.assert_allclose(
                shared[name], gradient, rtol=1e-3, atol=1e-5 * largest, err_msg=name
            )
    assert largest > 0
    (one,), (two,) = (curve(tmp_path / f"{each}/run").values() for each in (1, 2))
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_two_processes_resume_the_same_losses_and_only_the_first_writes(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    # 40 pairs in batches of 4 for each of two: five steps an epoch, so step 8 is in the second.
    train(small_runs, "dense", tmp_path / "whole", 2, checkpoint_every=4, max_steps=9)
    run = tmp_path / "whole/run"
    log = (run / "log.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 10))
    before, losses = weights(run), curve(run)
    # As if the run had been killed after its checkpoint of step 8.
    (run / "summary.json").unlink()
    for path in sorted((run / "checkpoints").iterdir()):
        if path.name.endswith("-9"):
            (path / "manifest.json").unlink()
    train(small_runs, "dense", tmp_path / "whole", 2, "resume", checkpoint_every=4, max_steps=9)
    assert curve(run) == losses
    assert weights(run) == before
