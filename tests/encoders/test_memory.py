"""Memory while a corpus is encoded does not depend on how much of it there is."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from retrieval import DenseEncoder, write_embeddings
from retrieval.records import Document

BEFORE, MORE = 6_000, 12_000
MOST_GROWTH = 0.03  # benchmarks/encode_memory.py measures 10,000 against 1,000,000 documents


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_three_times_the_documents_take_the_same_memory(
    tiny_backbone: Path, tmp_path: Path
) -> None:
    source = random.Random(0)
    seen: list[int] = []

    def documents() -> Iterator[Document]:
        for number in range(BEFORE + MORE):
            if number in (BEFORE, BEFORE + MORE - 1):
                seen.append(resident_bytes())
            words = source.choices(["read", "a file", "path", "return x"], k=source.randint(2, 20))
            yield Document(str(number), " ".join(words))

    encoder = DenseEncoder.from_backbone(tiny_backbone, device="cpu")
    write_embeddings(tmp_path, documents(), encoder)
    assert seen[1] / seen[0] < 1 + MOST_GROWTH
