"""What a run does when its numbers, its disk or its user give out: no work is lost."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from retrieval.config import to_mapping
from retrieval.errors import RetrievalError
from retrieval.files import write_json
from retrieval.training.checkpoints import find_damage, list_checkpoints
from retrieval.training.interruption import InterruptedRunError
from retrieval.training.loss_guard import LossGuard
from retrieval.training.trainer import LastingTrainer
from tests.training.conftest import SmallRuns, curve, weights

ROOT = Path(__file__).parents[2]


def spoil(monkeypatch: pytest.MonkeyPatch, step: int, *, loss: bool) -> None:
    """Make the loss of a step NaN, or only a gradient of it."""

    def compute_loss(self: LastingTrainer, *arguments: Any, **keywords: Any) -> Any:
        value: Any = super(LastingTrainer, self).compute_loss(*arguments, **keywords)
        if self.state.global_step + 1 != step:
            return value
        if loss:
            return value * float("nan")
        parameter = next(self.model.parameters())
        # The square root has an infinite slope at 0: times 0 the gradient is NaN, the value 0.
        return value + 0 * (parameter * 0).sum().sqrt()

    monkeypatch.setattr(LastingTrainer, "compute_loss", compute_loss)


def test_a_loss_that_is_no_number_ends_the_run_at_its_step_and_names_the_batch(
    small_runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Logged and saved every 5 steps only: step 7 is neither.
    recipe = small_runs.recipe("dense", log_every=5)
    with monkeypatch.context() as patch:
        spoil(patch, 7, loss=True)
        message = r"the loss is nan at step 7: .* begins with query 'read f\d+', .*; positive 'def"
        with pytest.raises(RetrievalError, match=message):
            small_runs.train(recipe, tmp_path / "run")
    (kept,) = list_checkpoints(tmp_path / "run/checkpoints")
    assert (kept.name, find_damage(kept)) == ("checkpoint-5", None)
    small_runs.train(recipe, tmp_path / "run", resume=True)
    small_runs.train(recipe, tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_no_checkpoint_is_made_of_weights_that_are_no_numbers(
    small_runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 10, loss=False)
    with pytest.raises(RetrievalError, match=r"no longer finite after step 10, so no checkpoint"):
        small_runs.train(small_runs.recipe("colbert"), tmp_path / "run")
    assert [path.name for path in list_checkpoints(tmp_path / "run/checkpoints")] == [
        "checkpoint-5"
    ]


def test_a_loss_on_its_way_from_a_gpu_is_found_at_the_next_step_under_its_own_number() -> None:
    guard = LossGuard(lambda ids: "text " + str(ids))
    heads = {"query": torch.tensor([[1, 2]])}
    guard.watch(1, torch.tensor(0.5), heads)
    with pytest.raises(RetrievalError, match=r"inf at step 2.*query 'text \[1, 2\]'"):
        guard.watch(2, torch.tensor(float("inf")), heads)
    guard.check()


@pytest.mark.parametrize("failing", ["optimizer.pt", "model.safetensors", "manifest.json"])
def test_a_full_disk_leaves_the_former_checkpoint_and_the_run_goes_on(
    small_runs: SmallRuns,
    tmp_path: Path,
    failing: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = small_runs.recipe("dense", checkpoint_every=3)
    small_runs.train(recipe, tmp_path / "whole")
    original = LastingTrainer._save_checkpoint

    def save_on_a_full_disk(self: LastingTrainer, *arguments: Any) -> None:
        if self.state.global_step != 6:
            return original(self, *arguments)
        size = {"optimizer.pt": 60_000, "model.safetensors": 20_000, "manifest.json": 500}[failing]
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            return original(self, *arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(LastingTrainer, "_save_checkpoint", save_on_a_full_disk)
    small_runs.train(recipe, tmp_path / "run")
    assert "no checkpoint at step 6" in caplog.text
    assert "would resume from" in caplog.text
    assert "checkpoint-3" in caplog.text
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert not list((tmp_path / "run/checkpoints").glob(".incomplete/*"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    small_runs: SmallRuns, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_runs.recipe("dense", checkpoint_every=None)
    original = LastingTrainer.training_step

    def signalled(self: LastingTrainer, *arguments: Any) -> Any:
        if self.state.global_step + 1 == 4:
            os.kill(os.getpid(), getattr(signal, name))
        return original(self, *arguments)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(LastingTrainer, "training_step", signalled)
        message = rf"stopped by {name} after step 4 of 12: --resume goes on from .*checkpoint-4"
        with pytest.raises(InterruptedRunError, match=message):
            small_runs.train(recipe, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler
    assert list(curve(tmp_path / "run")) == [1, 2, 3, 4]
    small_runs.train(recipe, tmp_path / "run", resume=True)
    small_runs.train(recipe, tmp_path / "whole")
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_the_program_answers_ctrl_c_with_one_line_and_resumes(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    write_json(recipe, to_mapping(small_runs.recipe("dense", max_steps=2_000)))
    program = [sys.executable, str(ROOT / "train/dense.py"), str(recipe), "--output"]
    program += [str(tmp_path / "run")]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not (tmp_path / "run/log.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: stopped by SIGINT after step ")
    assert "--resume goes on from" in last
    assert "Traceback" not in stderr


def test_data_that_cannot_fill_a_batch_is_an_error_not_a_run_without_steps(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    same = small_runs.pairs.parent / "same.jsonl"
    same.write_text('{"query": "read", "positive": "a file"}\n' * 20, "utf-8")
    recipe = SmallRuns(small_runs.backbone, same, small_runs.scores).recipe("dense")
    with pytest.raises(RetrievalError, match="the data gave 0 of 12 steps"):
        small_runs.train(recipe, tmp_path / "run")
