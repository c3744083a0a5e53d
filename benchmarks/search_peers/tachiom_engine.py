"""tachiom, its own choice of centroids and product quantisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tachiom import Tachiom
from worker import Data, Engine, Options, serve


class TachiomEngine(Engine):
    """Options are those of its `search`."""

    packages = ("tachiom",)

    def __init__(self) -> None:
        self._options: Options = {}

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        ids, lengths = folder / "token_ids.npy", folder / "lengths.npy"
        np.save(ids, np.asarray(data.token_ids, np.int64))
        np.save(lengths, data.lengths.astype(np.int32))
        index = Tachiom.build(data.paths[0], str(ids), str(lengths), **options)
        index.save(str(folder / "index.bin"))
        ids.unlink()
        lengths.unlink()

    def open(self, data: Data, folder: Path, threads: int) -> None:
        self._index = Tachiom.load(str(folder / "index.bin"))

    def prepare(self, options: Options) -> None:
        self._options = options

    def search(self, query: Any, k: int) -> Any:
        return self._index.search(query, k, **self._options)[1]

    def search_all(self, queries: Any, k: int, threads: int) -> None:
        tokens = np.ascontiguousarray(np.concatenate(queries))
        self._index.batch_search(tokens, len(queries), k, num_threads=threads, **self._options)


if __name__ == "__main__":
    serve(TachiomEngine())
