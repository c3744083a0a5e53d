"""The compiled library: find it, check it, and choose the instruction set that it runs with."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

from retrieval.errors import ConfigError

logger = logging.getLogger(__name__)

ABI_VERSION = 7
_PATH = Path(__file__).with_name("_kernels.so")


@cache
def library() -> ctypes.CDLL | None:
    """The library, or None where the package was installed without a compiler.

    What was found is logged once.
    """
    if not _PATH.is_file():
        logger.warning(
            "no compiled kernels (%s): computing through torch and NumPy, which is slower; "
            "install again with a C++ compiler at hand",
            _PATH.name,
        )
        return None
    found = ctypes.CDLL(str(_PATH))
    version = found.retrieval_abi_version()
    if version != ABI_VERSION:
        logger.warning(
            "%s has interface version %d, expected %d: not used; install the package again",
            _PATH.name,
            version,
            ABI_VERSION,
        )
        return None
    found.retrieval_instruction_set.restype = ctypes.c_char_p
    found.retrieval_current_instruction_set.restype = ctypes.c_char_p
    found.retrieval_rejected_instruction_set.restype = ctypes.c_char_p
    rejected = found.retrieval_rejected_instruction_set()
    if rejected is not None:
        logger.warning(
            "%s gave wrong results in the library's check of itself: not used", rejected.decode()
        )
    logger.info("compiled kernels: %s", found.retrieval_current_instruction_set().decode())
    return found


def loaded() -> ctypes.CDLL:
    """The library, for callers that made sure that it is there."""
    found = library()
    assert found is not None, "nobody asked whether there is a library"
    return found


def instruction_sets() -> list[str]:
    """The instruction sets that the library and this processor both have, best first."""
    found = library()
    names: list[str] = []
    while found is not None:
        name = found.retrieval_instruction_set(len(names))
        if name is None:
            break
        names.append(name.decode())
    return names


def instruction_set() -> str | None:
    """The instruction set in use; None without the library."""
    found = library()
    return None if found is None else found.retrieval_current_instruction_set().decode()


def choose_instruction_set(name: str) -> None:
    """Run everything in this process with one instruction set, for tests and comparisons.

    Args:
        name: one of `instruction_sets()`, or "amx_emulated" or "amx_emulated_portable", which run
            what "avx512_amx" computes on tiles where no processor has them.

    Raises:
        ConfigError: the library or the processor does not have it.
    """
    found = library()
    if found is None or found.retrieval_choose_instruction_set(name.encode()) != 0:
        raise ConfigError(
            f"instruction set {name!r} is not to be had here, expected one of {instruction_sets()}"
        )
