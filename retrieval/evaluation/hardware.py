"""What a result was computed on: processor, memory, GPU, threads."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from retrieval import native
from retrieval.parallel import cpu_count


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What can change the seconds of a result, and its last digits.

    Attributes:
        processor: the model's name.
        instruction_sets: those that the compiled kernels have here, best first; the first is used.
        cores: that the process may use.
        threads: of torch, or `cores` where torch was not loaded.
        memory_bytes: of the machine; None where the system does not tell.
        gpu: the name of the first GPU; None where there is none, or torch was not loaded.
        system: operating system and architecture, such as "Linux x86_64".
    """

    processor: str
    instruction_sets: tuple[str, ...]
    cores: int
    threads: int
    memory_bytes: int | None
    gpu: str | None
    system: str


def this_hardware() -> Hardware:
    """Describe the machine; torch is asked only if it is loaded already."""
    torch = sys.modules.get("torch")
    return Hardware(
        processor=_processor(),
        instruction_sets=tuple(native.instruction_sets()),
        cores=cpu_count(),
        threads=torch.get_num_threads() if torch else cpu_count(),
        memory_bytes=_memory_bytes(),
        gpu=torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        system=f"{platform.system()} {platform.machine()}",
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
