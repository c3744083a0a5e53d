"""Threads that each run whole batches with one torch thread, so that no operation has a barrier."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Workers:
    """As many threads as torch uses; a batch runs on one of them from start to end.

    Products of small matrices lose time at every barrier, and lose much of it where another process
    takes a core; batches are independent, so that each thread may have its own.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """Torch's number of threads, as it is set now."""
        return torch.get_num_threads()

    def submit(
        self,
        function: Callable[_Arguments, _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> Future[_Result]:
        """Run `function` on one of the threads."""
        if self._pool is None or self._count != self.count:
            self.close()
            self._start()
        assert self._pool is not None, "_start() made it"
        return self._pool.submit(function, *args, **kwargs)

    def close(self) -> None:
        """Let the threads end after what they were given."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _start(self) -> None:
        self._count = self.count
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="encode")
        if self._count == 1:
            return
        # torch.set_num_threads sets the calling thread's number, and the one that new threads start
        # with; the latter is put back once all of ours have run.
        all_started = Barrier(self._count + 1)

        def set_one() -> None:
            torch.set_num_threads(1)
            all_started.wait()

        for _ in range(self._count):
            self._pool.submit(set_one)
        all_started.wait()
        torch.set_num_threads(self._count)
