"""Processes that encode shards of one corpus: each loads the model once and writes whole shards.

The parent hands out shards over one pipe a process, never more than two ahead, and is told what was
encoded and written. Nothing is shared, so that a killed process can block no other.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.encoders.protocol import Encoder
from retrieval.encoders.shards import ShardWriter, Task, shard_path
from retrieval.encoders.stored_vectors import StoredDtype
from retrieval.encoders.streaming import Report
from retrieval.errors import ModelMismatchError, WorkerError
from retrieval.records import ModelReference

_TASKS_AHEAD = 2
"""Shards that a process has at once: one that it encodes, and one so that it need not wait."""


class Job(NamedTuple):
    """What every process has to know."""

    folder: Path
    dtype: StoredDtype
    reload: Callable[..., Encoder]
    """Gives the encoder on the device that is named as `device`."""
    model: ModelReference


class _Encoded(NamedTuple):
    texts: int
    tokens: int


class _Written(NamedTuple):
    number: int
    truncated: int


class _Failed(NamedTuple):
    number: int
    problem: str


def write_in_processes(
    job: Job, tasks: Iterable[Task], devices: Sequence[str], report: Report
) -> Iterator[tuple[int, int]]:
    """Encode shards in one process a device; the same device may come several times.

    Processes on the processor share its cores: each gets its part of torch's threads.

    Yields:
        The number of each shard when it is safely on disk, and how many of its texts were cut.

    Raises:
        WorkerError: a process failed or was killed; the shard is named. What is written stays.
    """
    workers = [_Worker(job, device, _threads(device, devices)) for device in devices]
    source = iter(tasks)
    is_exhausted = False
    try:
        while True:
            while not is_exhausted and (worker := min(workers, key=_load)).can_take_more():
                task = next(source, None)
                is_exhausted = task is None
                for each in workers if task is None else [worker]:
                    each.send(task)
            if is_exhausted and not any(worker.numbers for worker in workers):
                break
            for worker in _ready(workers):
                message = worker.receive()
                if isinstance(message, _Encoded):
                    report(*message)
                elif isinstance(message, _Written):
                    worker.numbers.remove(message.number)
                    yield message.number, message.truncated
        for worker in workers:
            worker.process.join(10)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """The parent's side of a process."""

    def __init__(self, job: Job, device: str, threads: int | None) -> None:
        # fork would copy locks that threads of torch or tokenizers hold, and can't use CUDA.
        context = get_context("spawn")
        self.numbers: list[int] = []
        self.connection, theirs = context.Pipe()
        self._job = job
        self._device = device
        arguments = (theirs, job, device, threads)
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # with the process's own end gone, its death ends the pipe

    def can_take_more(self) -> bool:
        return len(self.numbers) < _TASKS_AHEAD

    def send(self, task: Task | None) -> None:
        if task is not None:
            self.numbers.append(task.number)
        try:
            self.connection.send(task)
        except OSError:
            self._raise_death()

    def receive(self) -> Any:
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            if not self.numbers:  # it ended when it had nothing more to do
                return None
            self._raise_death()
        if isinstance(message, _Failed):
            raise WorkerError(
                f"{self._shard(message.number)}: the process on {self._device} failed: "
                f"{message.problem}"
            )
        return message

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _raise_death(self) -> Any:
        self.process.join(10)
        code = self.process.exitcode
        how = f"was killed (signal {-code})" if code and code < 0 else f"ended with code {code}"
        shard = self._shard(self.numbers[0] if self.numbers else 0)
        raise WorkerError(
            f"{shard}: the process on {self._device} {how}: run the same encoding again to go on"
        ) from None

    def _shard(self, number: int) -> Path:
        return shard_path(self._job.folder, number)


def _load(worker: _Worker) -> int:
    return len(worker.numbers)


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Wait until some process has said something, or has ended."""
    busy = [worker for worker in workers if worker.numbers]
    ready = connection.wait([worker.connection for worker in busy])
    return [worker for worker in busy if worker.connection in ready]


def _threads(device: str, devices: Sequence[str]) -> int | None:
    if device != "cpu":
        return None
    import torch

    return max(1, torch.get_num_threads() // list(devices).count("cpu"))


def _work(pipe: Any, job: Job, device: str, threads: int | None) -> None:
    """A process from start to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it as well, and stops us
    tasks: queue.Queue[Task | None] = queue.Queue()
    threading.Thread(target=_receive, args=(pipe, tasks), daemon=True).start()
    writer: ShardWriter | None = None
    try:
        encoder = _loaded(job, device, threads)

        def report(texts: int, tokens: int) -> None:
            pipe.send(_Encoded(texts, tokens))

        writer = ShardWriter(job.folder, encoder, job.dtype, report)
        truncated = 0
        for number in writer.write(iter(tasks.get, None)):
            so_far = truncated_texts(encoder)
            pipe.send(_Written(number, so_far - truncated))
            truncated = so_far
    except Exception as error:  # whatever it is, the parent has to hear of it
        task = tasks.get() if writer is None else None
        number = writer.current if writer is not None else task.number if task else 0
        problem = str(error) or type(error).__name__
        pipe.send(_Failed(number, problem))


def _receive(pipe: Any, tasks: queue.Queue[Task | None]) -> None:
    """Take what the parent sends; when the parent is gone, so are we, whatever we are at."""
    while True:
        try:
            tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(1)


def _loaded(job: Job, device: str, threads: int | None) -> Encoder:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if "transformers" in sys.modules:  # the parent shows how far we are, and nobody else
        from transformers.utils import logging

        quiet: Any = logging
        quiet.disable_progress_bar()
        quiet.set_verbosity_error()
    encoder = job.reload(device=device)
    if encoder.reference.fingerprint != job.model.fingerprint:
        raise ModelMismatchError(
            f"{job.model.name} gives another model than the one in memory: save it and load it anew"
        )
    return encoder


def truncated_texts(encoder: Encoder) -> int:
    """How many texts were longer than their limit so far, where the encoder counts them."""
    inference: Any = getattr(encoder, "inference", None)
    return int(inference.truncated_texts) if inference is not None else 0
