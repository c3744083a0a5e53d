"""LanceDB's multi-vector columns with an IVF_PQ index, embedded in the process.

The vectors are float32: in float16 they take half of the disk, but where the processor has no
float16 arithmetic builds and searches took three times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow
from lancedb.index import IvfPq
from worker import Data, Engine, Options, serve

_BATCH = 1_000


class Lance(Engine):
    """Options are `nprobes` and `refine_factor` of a query."""

    packages = ("lancedb", "pyarrow")

    def __init__(self) -> None:
        self._options: Options = {}

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        width = data.tokens.shape[1]
        schema = pyarrow.schema(
            [
                ("document", pyarrow.int64()),
                ("vector", pyarrow.list_(pyarrow.list_(pyarrow.float32(), width))),
            ]
        )
        table = lancedb.connect(str(folder)).create_table(
            "documents", _record_batches(data, schema), schema=schema
        )
        table.create_index("vector", config=IvfPq(distance_type="cosine", **options))

    def open(self, data: Data, folder: Path, threads: int) -> None:
        self._table = lancedb.connect(str(folder)).open_table("documents")

    def prepare(self, options: Options) -> None:
        self._options = options

    def search(self, query: Any, k: int) -> Any:
        asked = self._table.search(query, vector_column_name="vector").limit(k)
        asked = asked.nprobes(self._options["nprobes"])
        asked = asked.refine_factor(self._options["refine_factor"])
        return asked.select(["document", "_distance"]).to_arrow()["document"].to_pylist()


def _record_batches(data: Data, schema: Any) -> Iterator[Any]:
    width = data.tokens.shape[1]
    for first in range(0, len(data.lengths), _BATCH):
        last = min(first + _BATCH, len(data.lengths))
        bounds = data.offsets[first : last + 1]
        rows = np.asarray(data.tokens[bounds[0] : bounds[-1]]).ravel().astype(np.float32)
        tokens = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows), width)
        vectors = pyarrow.ListArray.from_arrays((bounds - bounds[0]).astype(np.int32), tokens)
        numbers = pyarrow.array(np.arange(first, last))
        yield pyarrow.RecordBatch.from_arrays([numbers, vectors], schema=schema)


if __name__ == "__main__":
    serve(Lance())
