"""A program that encodes a corpus slowly, for tests that kill it; it needs no torch.

python encoding_program.py FOLDER LOG [--devices one,two] [--fails-at ID] [--dies-at ID]
    [--stalls-at ID]

Each document leaves a line `process id` in LOG before it is encoded.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.embedding_store import StoreSettings, write_embeddings
from retrieval.errors import RetrievalError
from retrieval.records import Document, ModelReference

SECONDS = 0.01
DOCUMENTS = [Document(f"d{number}", f"{number} " + "x" * (number % 7)) for number in range(60)]
SETTINGS = StoreSettings(dtype="float32", shard_documents=5)


class SlowEncoder:
    """Takes its time, and writes down what it does."""

    reference = ModelReference("slow", "fingerprint of slow", False, 2)

    def __init__(
        self, log: Path, fails_at: str, dies_at: str, stalls_at: str, device: str = ""
    ) -> None:
        self._log = log
        self._fails_at = fails_at
        self._dies_at = dies_at
        self._stalls_at = stalls_at

    @property
    def reload(self) -> Callable[..., SlowEncoder]:
        return partial(SlowEncoder, self._log, self._fails_at, self._dies_at, self._stalls_at)

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self.encode_documents(texts)

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            name = f"d{text.split()[0]}"
            with self._log.open("a") as stream:
                stream.write(f"{os.getpid()} {name}\n")
            if name == self._fails_at:
                raise ValueError("no such word")
            if name == self._dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(SECONDS if name != self._stalls_at else 600)
            yield np.array([len(text), 1 / int(name[1:] or 0) if name != "d0" else 0], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--devices", default="")
    parser.add_argument("--fails-at", default="")
    parser.add_argument("--dies-at", default="")
    parser.add_argument("--stalls-at", default="")
    given = parser.parse_args()
    devices = given.devices.split(",") if given.devices else None
    encoder = SlowEncoder(given.log, given.fails_at, given.dies_at, given.stalls_at)
    try:
        write_embeddings(given.folder, iter(DOCUMENTS), encoder, SETTINGS, devices=devices)
    except RetrievalError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
