"""What happens beside the steps of a run: its log, its measurements, its line on the terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_model, save_model
from transformers import TrainerCallback

from retrieval.files import read_json, write_json
from retrieval.progress import Meter
from retrieval.training import checkpoints
from retrieval.training.processes import is_first_process, wait_for_all, world_size
from retrieval.training.run_log import RunLog
from retrieval.training.trainer import LastingTrainer
from retrieval.training.watching import BM25, METRIC, DevSet, WatchSettings

_WEIGHTS, _SCORE = "weights.safetensors", "score.json"
_LINE_SECONDS = 30.0
"""Between two lines of progress where stderr is no terminal."""


class LogWriter(TrainerCallback):
    """Writes losses, learning rates, speeds and measurements to `log.jsonl`."""

    def __init__(self, trainer: LastingTrainer, log: RunLog) -> None:
        self._trainer = trainer
        self._log = log
        self.paused = 0.0
        """Seconds since the last logged loss that went into something else than training."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what was logged after the checkpoint, and start the clock."""
        self._log.go_back_to(state.global_step)
        self._seconds_before = self._log.last("seconds") or 0.0
        self._began = self._logged = time.perf_counter()
        self._step, self._tokens = state.global_step, 0

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add a line for a loss or a measurement."""
        logs = kwargs["logs"]
        record = {"step": state.global_step}
        record |= {key: logs[key] for key in ("epoch", METRIC, BM25) if key in logs}
        now = time.perf_counter()
        if "loss" in logs:
            seconds = now - self._logged - self.paused
            steps, tokens = state.global_step - self._step, int(self._trainer.tokens)
            samples = steps * args.per_device_train_batch_size * args.world_size
            record |= {
                key: logs[key] for key in ("loss", "grad_norm", "learning_rate") if key in logs
            }
            record["samples_per_second"] = samples / seconds
            # Of all processes, as far as this one can tell.
            record["tokens_per_second"] = (tokens - self._tokens) * args.world_size / seconds
            self._logged, self._step, self._tokens, self.paused = (
                now,
                state.global_step,
                tokens,
                0.0,
            )
        elif METRIC not in logs:
            return
        record["seconds"] = self._seconds_before + now - self._began
        self._log.append(record)


class DevWatcher(TrainerCallback):
    """Measures the encoder on the dev set, and keeps the weights of the best measurement.

    Only the first process measures; the others wait.

    Args:
        trainer: the run.
        encoder: what it trains.
        dev_set: what to measure on.
        watch: how often.
        log: of the run.
        writer: told how long measuring took.
        best: folder for the best weights.
    """

    def __init__(
        self,
        trainer: LastingTrainer,
        *,
        encoder: Any,
        dev_set: DevSet,
        watch: WatchSettings,
        log: RunLog,
        writer: LogWriter,
        best: Path,
    ) -> None:
        self._trainer = trainer
        self._encoder = encoder
        self._dev_set = dev_set
        self._watch = watch
        self._log = log
        self._writer = writer
        self._best = best

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the start, and BM25; a resumed run has both in its log."""
        if state.global_step == 0:
            self._measure(control, with_bm25=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where that is due, and after the last step."""
        if self._trainer.stopped_by is not None and state.global_step < state.max_steps:
            return
        every = self._watch.every
        if state.global_step >= state.max_steps or (every and state.global_step % every == 0):
            self._measure(control)

    def _measure(self, control: Any, *, with_bm25: bool = False) -> None:
        began = time.perf_counter()
        if is_first_process():
            # Without dropout; the next step switches it on again.
            self._encoder.model.eval()
            with torch.random.fork_rng():
                scores = {METRIC: self._dev_set.measure(self._encoder)}
            if with_bm25:
                scores[BM25] = self._dev_set.measure_bm25()
            # Logging this would cancel the logging of the step's loss.
            should_log = control.should_log
            self._trainer.log(scores)
            control.should_log = should_log
            if self._watch.keep == "best" and self._trainer.state.global_step:
                self._keep_if_best(scores[METRIC])
        wait_for_all()
        self._writer.paused += time.perf_counter() - began

    def _keep_if_best(self, score: float) -> None:
        step = self._trainer.state.global_step
        found = checkpoints.last_checkpoint(self._best)
        if found is not None and score <= read_json(found / _SCORE)["score"]:
            return
        written = self._best / checkpoints.INCOMPLETE / f"checkpoint-{step}"
        written.mkdir(parents=True, exist_ok=True)
        save_model(self._encoder.model, str(written / _WEIGHTS))
        write_json(written / _SCORE, {"score": score, "step": step})
        checkpoints.commit_checkpoint(written, self._best / written.name)
        checkpoints.delete_old_checkpoints(self._best)


def load_best(model: torch.nn.Module, best: Path) -> int | None:
    """Give `model` the weights of the best measurement; its step, None if there is none."""
    found = checkpoints.last_checkpoint(best)
    if found is None:
        return None
    load_model(model, str(found / _WEIGHTS))
    return checkpoints.step_of(found)


class ProgressLine(TrainerCallback):
    """A bar with loss, rate and time left on a terminal; a line now and then in a file."""

    def __init__(self) -> None:
        self._meter: Meter | None = None
        self._said = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar."""
        if not is_first_process():
            return
        self._batch = args.per_device_train_batch_size * world_size()
        self._meter = Meter("training, examples", state.max_steps * self._batch)
        self._meter.__enter__()
        self._meter.skip(state.global_step * self._batch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move it on."""
        if self._meter is not None:
            self._meter.advance(self._batch)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the loss."""
        logs = kwargs["logs"]
        if self._meter is None or "loss" not in logs:
            return
        self._meter.description = f"training, loss {logs['loss']:.4f}"
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._said >= _LINE_SECONDS:
            self._said = now
            left = self._meter.seconds_left or 0
            print(
                f"step {state.global_step} of {state.max_steps}: loss {logs['loss']:.4f}, "
                f"{self._meter.rates()}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._meter is not None:
            self._meter.__exit__(kind, *error)
