"""fast-plaid on the CPU, 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fast_plaid import search
from worker import Data, Engine, Options, serve


class FastPlaid(Engine):
    """Options are those of its `search`."""

    packages = ("fast-plaid", "torch")

    def __init__(self) -> None:
        self._options: Options = {}

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        torch.set_num_threads(threads)
        index = search.FastPlaid(index=str(folder), device="cpu")
        index.create([torch.tensor(each) for each in data.documents()], **options)

    def open(self, data: Data, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._index = search.FastPlaid(index=str(folder), device="cpu")

    def prepare(self, options: Options) -> None:
        self._options = options

    def search(self, query: Any, k: int) -> Any:
        asked = torch.from_numpy(query)[None]
        found = self._index.search(asked, top_k=k, show_progress=False, **self._options)
        # It turns an error within a query into an empty result.
        assert found[0], "fast-plaid found nothing: see its messages in the log"
        return [document for document, _ in found[0]]


if __name__ == "__main__":
    serve(FastPlaid())
