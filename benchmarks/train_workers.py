"""Training libraries in processes of their own: started, and told in JSON lines when to go on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

_TRAINERS = Path(__file__).with_name("train_peers")


class Round(NamedTuple):
    """Some whole steps."""

    seconds: float
    losses: list[float]


class TrainerError(Exception):
    """A library has ended before it answered."""


class Trainer:
    """A library that trains one model.

    Attributes:
        system: "ours", "st" or "pylate".
        versions: of the distributions that it runs.
    """

    def __init__(
        self, system: str, python: list[str], run: dict[str, Any], log: Path, device: str
    ) -> None:
        self.system = system
        self._log = log
        threads = str(run["threads"])
        environment = dict(os.environ) | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [*python, str(_TRAINERS / f"{system}_trainer.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        self.versions: dict[str, str] = self._ask(run)["versions"]

    def steps(self, count: int) -> Round:
        """Train so many steps."""
        reply = self._ask({"steps": count})
        return Round(reply["seconds"], reply["losses"])

    def finish(self) -> tuple[Round, Path]:
        """Train what is left; returns its losses and the folder of the model."""
        reply = self._ask({"finish": True})
        return Round(reply["seconds"], reply["losses"]), Path(reply["model"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text(errors="replace").strip().splitlines()[-8:]
            raise TrainerError(f"{self.system} has ended at {question}:\n" + "\n".join(last))
        reply: dict[str, Any] = json.loads(line)
        return reply
