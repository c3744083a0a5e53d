"""One training library in a process of its own, which trains and stops when it is told to.

The benchmark starts `python train_peers/NAME_trainer.py` with the library's own environment. Its
first line to standard input says what to train; each further one is {"steps": N}, or {"finish":
true} for what is left and the saved model. The library's own loop runs all along: it is held where
its loss is called, so that a round is N whole steps, with batches, logging and the optimiser in it.
This file and the programs beside it import nothing of this project but what they measure, as they
run under other Pythons.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers


class Run(NamedTuple):
    """What is trained, and how."""

    kind: str
    """"dense" or "colbert"."""
    model: str
    """Folder of the checkpoint to start from, in the library's own format."""
    pairs: str
    """JSON lines with `query` and `positive`."""
    output: str
    steps: int
    batch_size: int
    lr: float
    dtype: str
    """"float32" or "bfloat16", under autocast."""
    seed: int
    threads: int
    clock: str = "wall"
    """"wall", or "processor": the seconds that this process had a processor, on all its threads."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What Sentence Transformers 5 and 6 both take; all else is left at its default."""
        return {
            "output_dir": self.output,
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.lr,
            "warmup_steps": 0.05,
            "bf16": self.dtype == "bfloat16",
            "use_cpu": not torch.cuda.is_available(),
            "seed": self.seed,
            "batch_sampler": "no_duplicates",
            "dataloader_drop_last": True,
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
        }

    @property
    def rows(self) -> list[dict[str, str]]:
        """The pairs, in the order of their file."""
        return [json.loads(line) for line in Path(self.pairs).read_text("utf-8").splitlines()]


Train = Callable[[Run], None]
"""Trains and saves to `output`/model."""


class _Pace:
    """Answers the benchmark, and holds the training between its rounds."""

    def __init__(self) -> None:
        self.clock = time.perf_counter
        # What the library prints must not come between the answers.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._left = 0
        self._finishes = False
        self._started = 0.0
        self._losses: list[torch.Tensor] = []
        self._reply: dict[str, Any] = {}

    def holds(self, loss_class: Any) -> None:
        """Let no step of this loss begin before it is asked for."""
        forward = loss_class.forward

        def paced(loss: Any, *arguments: Any, **options: Any) -> Any:
            if not self._left and not self._finishes:
                self._end_round()
                self.obey()
            self._left -= 1
            value = forward(loss, *arguments, **options)
            self._losses.append(value.detach())
            return value

        loss_class.forward = paced

    def ready(self, packages: tuple[str, ...]) -> None:
        """Prepare the answer to the first line, which is sent before the first step."""
        self._reply = {"versions": {name: version(name) for name in packages}}

    def obey(self) -> None:
        """Wait for the next line."""
        asked = json.loads(sys.stdin.readline() or '{"end": true}')
        if "end" in asked:
            os._exit(0)  # the trainer's loop is open above this one
        self._finishes = "finish" in asked
        self._left = asked.get("steps", 0)
        self._started = self.clock()

    def finish(self, model: Path) -> None:
        """Answer with the folder of the trained model."""
        self._reply = {"model": str(model)}
        self._end_round()

    def _end_round(self) -> None:
        losses = [float(each) for each in self._losses]  # waits for a GPU
        reply = {"seconds": self.clock() - self._started, "losses": losses, **self._reply}
        self._losses, self._reply = [], {}
        print(json.dumps(reply), file=self._answers, flush=True)


def serve(train: Train, losses: dict[str, Any], packages: tuple[str, ...]) -> None:
    """Train as the lines say.

    Args:
        train: the library's own way.
        losses: the class of the loss by kind of model.
        packages: distributions whose versions are reported.
    """
    transformers.utils.logging.set_verbosity_error()
    pace = _Pace()
    run = Run(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(run.threads)
    if run.clock == "processor":
        pace.clock = time.process_time
    pace.holds(losses[run.kind])
    pace.ready(packages)
    train(run)
    pace.finish(Path(run.output) / "model")
