"""The most memory that this process held during a stretch of work, as the kernel counts it."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_UNIT = 1 if sys.platform == "darwin" else 1024
"""Of getrusage's ru_maxrss, in bytes."""


class PeakMemory:
    """Resident bytes at their highest since the block was entered.

    Where the kernel's mark can't be reset (it can on Linux), the peak is that of the whole process
    so far. Blocks inside one another are not told apart: the inner one resets the outer one's mark.
    Processes that this one started do not count.

    Attributes:
        bytes: set when the block is left.
    """

    bytes: int = 0

    def __enter__(self) -> PeakMemory:
        with contextlib.suppress(OSError):
            _RESET.write_text("5")  # proc(5): resets VmHWM
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _peak_bytes()


def _peak_bytes() -> int:
    try:
        lines = _STATUS.read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
