"""A run that is asked to stop, by ctrl-C or by a cluster: it finishes its step first."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from retrieval.errors import RetrievalError

logger = logging.getLogger(__name__)


class InterruptedRunError(RetrievalError):
    """A run that stopped because it was asked to; the message says how to go on."""


class Interruption:
    """Remembers which signal asked the run to stop, if any did."""

    def __init__(self) -> None:
        self.signal: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while this is open; a second ctrl-C ends the program at once.

        Outside of the main thread, where Python delivers no signals, nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self._remember) for each in signals}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        # A launcher passes ctrl-C on as SIGTERM: only two of ctrl-C mean hurry.
        if self.signal == name == "SIGINT":
            raise KeyboardInterrupt
        if self.signal is None:
            logger.warning("%s: stopping after this step, with a checkpoint", name)
        self.signal = self.signal or name
