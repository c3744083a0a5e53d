"""WARP (xtr-warp-rs) on the CPU, 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from worker import Data, Engine, Options, serve
from xtr_warp.search import XTRWarp


class Warp(Engine):
    """Options are those of its `search`."""

    packages = ("xtr-warp-rs", "torch")

    def __init__(self) -> None:
        self._options: Options = {}

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        torch.set_num_threads(threads)
        documents = [torch.tensor(each) for each in data.documents()]
        XTRWarp(index=str(folder)).create(documents, device="cpu", show_progress=False, **options)

    def open(self, data: Data, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._index = XTRWarp(index=str(folder)).load(device="cpu")

    def prepare(self, options: Options) -> None:
        self._options = options

    def search(self, query: Any, k: int) -> Any:
        asked = torch.from_numpy(query)[None]
        found = self._index.search(asked, top_k=k, show_progress=False, **self._options)
        return [document for document, _ in found[0]]

    def search_all(self, queries: Any, k: int, threads: int) -> None:
        # Its threads are its own: an index that is open can't be used from another one.
        asked = torch.from_numpy(np.stack(queries))
        self._index.search(
            asked, top_k=k, num_threads=threads, show_progress=False, **self._options
        )


if __name__ == "__main__":
    serve(Warp())
