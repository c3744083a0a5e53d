"""What all tests of indexes share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import faiss
import pytest

MEMORY = Path("/dev/shm")
ENOUGH = 256 * 1024**2


@pytest.fixture(autouse=True, scope="session")
def one_faiss_thread() -> Iterator[None]:
    """FAISS's threads spin while they wait: beside other work they take ten times as long."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where the system has one: for tests that sync files thousands of times."""
    is_there = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH
    folder = Path(tempfile.mkdtemp(dir=MEMORY if is_there else tmp_path_factory.getbasetemp()))
    yield folder
    shutil.rmtree(folder)
