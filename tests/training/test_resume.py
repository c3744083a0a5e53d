"""A run that was interrupted goes on as if it had not been: the same losses, the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retrieval import DenseEncoder, load_encoder
from retrieval.errors import ConfigError
from retrieval.training.adapters import LoraSettings
from retrieval.training.checkpoints import find_damage, list_checkpoints
from retrieval.training.recipes import DenseRecipe
from retrieval.training.trainer import LastingTrainer
from tests.training.conftest import STEPS, Kind, SmallRuns, curve, weights


class Crash(Exception):
    """Stands for a process that ends in the middle of a step."""


@contextmanager
def crash_at(step: int) -> Iterator[None]:
    """End the run while it computes this step."""
    original = LastingTrainer.training_step

    def crashing(self: LastingTrainer, *arguments: Any) -> Any:
        if self.state.global_step + 1 == step:
            raise Crash
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastingTrainer, "training_step", crashing)
        with pytest.raises(Crash):
            yield


@pytest.mark.parametrize("mini_batch_size", [4, None], ids=["cached", "one_pass"])
@pytest.mark.parametrize("kind", ["dense", "colbert", "distilled"])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one_to_the_last_digit(
    small_runs: SmallRuns, kind: Kind, mini_batch_size: int | None, tmp_path: Path
) -> None:
    recipe = small_runs.recipe(kind, mini_batch_size=mini_batch_size)
    whole = small_runs.train(recipe, tmp_path / "whole")
    assert list(curve(tmp_path / "whole")) == list(range(1, STEPS + 1))
    with crash_at(9):
        small_runs.train(recipe, tmp_path / "cut")
    assert list(curve(tmp_path / "cut")) == list(range(1, 9))
    resumed = small_runs.train(recipe, tmp_path / "cut", resume=True)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert resumed.reference.fingerprint == whole.reference.fingerprint


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_adapters_are_resumed_and_merged_like_an_uninterrupted_run(
    small_runs: SmallRuns, kind: Kind, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="needs the extra lora")
    plain: Any = small_runs.recipe(kind)
    recipe = replace(plain, model=replace(plain.model, lora=LoraSettings(rank=4)))
    small_runs.train(recipe, tmp_path / "whole")
    with crash_at(9):
        small_runs.train(recipe, tmp_path / "cut")
    small_runs.train(recipe, tmp_path / "cut", resume=True)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_logged_mean_is_the_same_where_a_checkpoint_lies_between_two_of_them(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    recipe = small_runs.recipe("dense", log_every=4, checkpoint_every=3, unpadded=False)
    small_runs.train(recipe, tmp_path / "whole")
    with crash_at(8):
        small_runs.train(recipe, tmp_path / "cut")
    small_runs.train(recipe, tmp_path / "cut", resume=True)
    assert list(curve(tmp_path / "whole")) == [4, 8, 12]
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_a_checkpoint_at_the_end_of_an_epoch_goes_on_with_the_next(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    recipe = small_runs.recipe("distilled", checkpoint_every=3)  # three steps an epoch
    small_runs.train(recipe, tmp_path / "whole")
    with crash_at(8):
        small_runs.train(recipe, tmp_path / "cut")
    small_runs.train(recipe, tmp_path / "cut", resume=True)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_what_the_loss_learns_itself_is_resumed(
    small_runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.training.runs.dense_loss", LearntTemperature)
    recipe = small_runs.recipe("dense", mini_batch_size=None)
    small_runs.train(recipe, tmp_path / "whole")
    with crash_at(9):
        small_runs.train(recipe, tmp_path / "cut")
    small_runs.train(recipe, tmp_path / "cut", resume=True)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


class LearntTemperature(torch.nn.Module):
    """In-batch negatives, with a scale that is learnt and is no part of the model."""

    def __init__(self, settings: Any, encoder: Any, mini_batch_size: int | None) -> None:
        super().__init__()
        self.model = encoder.model
        self.scale = torch.nn.Parameter(torch.tensor(5.0))

    def forward(self, features: list[Any], labels: Any) -> torch.Tensor:
        query, document = (self.model(each)["sentence_embedding"] for each in features)
        scores = torch.nn.functional.normalize(query) @ torch.nn.functional.normalize(document).T
        return torch.nn.functional.cross_entropy(scores * self.scale, torch.arange(len(scores)))


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    small_runs: SmallRuns, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = small_runs.recipe("dense", checkpoint_every=4)
    small_runs.train(recipe, tmp_path / "whole")
    with crash_at(11):
        small_runs.train(recipe, tmp_path / "cut")
    optimizer = tmp_path / "cut/checkpoints/checkpoint-8/optimizer.pt"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    small_runs.train(recipe, tmp_path / "cut", resume=True)
    assert "checkpoint-8 is passed over: optimizer.pt changed since it was written" in caplog.text
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert find_damage(tmp_path / "cut/checkpoints/checkpoint-8") is None


def test_the_last_two_checkpoints_are_kept_and_nothing_unfinished(
    small_runs: SmallRuns, tmp_path: Path
) -> None:
    small_runs.train(small_runs.recipe("dense", checkpoint_every=3), tmp_path / "run")
    found = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert found == ["checkpoint-12", "checkpoint-9"]
    load_encoder(tmp_path / "run/checkpoints/checkpoint-9")


def test_a_checkpoint_is_made_after_so_many_minutes(small_runs: SmallRuns, tmp_path: Path) -> None:
    recipe = small_runs.recipe("dense", checkpoint_every=None, checkpoint_minutes=1e-6)
    small_runs.train(recipe, tmp_path / "run")
    assert len(list_checkpoints(tmp_path / "run/checkpoints")) == 2


def test_another_recipe_data_or_model_is_refused_by_name(
    small_runs: SmallRuns, tmp_path: Path, tiny_backbone: Path
) -> None:
    recipe = small_runs.recipe("dense")
    with crash_at(7):
        small_runs.train(recipe, tmp_path / "run")
    hotter = small_runs.recipe("dense", lr=2e-3)
    with pytest.raises(ConfigError, match=r"optimizer.lr is 0.002 and was 0.001"):
        small_runs.train(hotter, tmp_path / "run", resume=True)
    pairs = small_runs.pairs.read_text("utf-8")
    try:
        small_runs.pairs.write_text(pairs.replace("read f3", "write f3", 1), "utf-8")
        with pytest.raises(ConfigError, match=r"than it began with: data is '[0-9a-f]+' and was"):
            small_runs.train(recipe, tmp_path / "run", resume=True)
    finally:
        small_runs.pairs.write_text(pairs, "utf-8")
    other = tmp_path / "other"
    DenseEncoder.from_backbone(str(tiny_backbone), seed=5).save(other)
    assert isinstance(recipe, DenseRecipe)
    replaced = replace(recipe, model=replace(recipe.model, backbone=str(other)))
    with pytest.raises(ConfigError, match=r"model.backbone is"):
        small_runs.train(replaced, tmp_path / "run", resume=True)
    more_often = small_runs.recipe("dense", checkpoint_every=2)
    small_runs.train(replace(more_often, about="x"), tmp_path / "run", resume=True)
    assert len(curve(tmp_path / "run")) == STEPS


def test_an_unfinished_run_says_how_to_go_on_and_a_finished_one_has_nothing_to_do(
    small_runs: SmallRuns, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = small_runs.recipe("dense")
    with pytest.raises(ConfigError, match="no run to resume"):
        small_runs.train(recipe, tmp_path / "run", resume=True)
    with crash_at(7):
        small_runs.train(recipe, tmp_path / "run")
    with pytest.raises(ConfigError, match="last checkpoint is of step 5: --resume continues it"):
        small_runs.train(recipe, tmp_path / "run")
    small_runs.train(recipe, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="a finished run is in it"):
        small_runs.train(recipe, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    encoder = small_runs.train(recipe, tmp_path / "run", resume=True)
    assert "the run is finished, there is nothing to resume" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    summary = json.loads((tmp_path / "run/summary.json").read_text("utf-8"))
    assert encoder.reference.fingerprint == summary["model"]
    small_runs.train(recipe, tmp_path / "run", overwrite=True, dry_run=True)
    assert len(curve(tmp_path / "run")) == 2
    with pytest.raises(ConfigError, match="dry_run is False and was True"):
        small_runs.train(recipe, tmp_path / "run", resume=True)
