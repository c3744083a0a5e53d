"""The exact index of this package: MaxSim with every document, float16 on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from plaid_engine import Batches, with_kernels
from worker import Data, Engine, Options, serve

from retrieval.indexing import ExactIndex, ExactSettings


class Exact(Engine):
    """Through the public interface: build, open, search."""

    packages = ("modernbert-retrieval", "numpy")

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        ExactIndex.build(folder, Batches(data), settings=ExactSettings(dtype="float16"))

    def open(self, data: Data, folder: Path, threads: int) -> None:
        self._index = ExactIndex.open(folder)
        self._index.settings = replace(self._index.settings, threads=threads)

    def prepare(self, options: Options) -> None:
        assert not with_kernels(options), "there is nothing else to set"

    def search(self, query: Any, k: int) -> Any:
        return [hit.document_id for hit in self._index.search([query], k)[0]]


if __name__ == "__main__":
    serve(Exact())
