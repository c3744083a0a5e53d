"""PLAID of this package; its NumPy path with the option engine="numpy"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from worker import Data, Engine, Options, serve

from retrieval import native
from retrieval.indexing import Batch, PlaidIndex, PlaidSettings

_BATCH = 1_000


def with_kernels(options: Options) -> Options:
    """What is left of the options when "kernels" has chosen an instruction set."""
    left = dict(options)
    if "kernels" in left:
        native.choose_instruction_set(left.pop("kernels"))
    return left


class Batches:
    """The documents in batches, as often as they are asked for."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Batch[Any]]:
        for first in range(0, len(self._data.lengths), _BATCH):
            items = self._data.documents(first, first + _BATCH)
            yield Batch([str(first + at) for at in range(len(items))], items)


class Plaid(Engine):
    """Through the public interface: build, open, search."""

    packages = ("modernbert-retrieval", "numpy")

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        PlaidIndex.build(folder, Batches(data), settings=PlaidSettings(**options))

    def open(self, data: Data, folder: Path, threads: int) -> None:
        self._index = PlaidIndex.open(folder)
        self._built_with = self._index.settings

    def prepare(self, options: Options) -> None:
        options = with_kernels(options)
        known = {field.name for field in fields(PlaidSettings)}
        assert known >= set(options), f"{sorted(options)} of {sorted(known)}"
        self._index.settings = replace(self._built_with, **options)

    def search(self, query: Any, k: int) -> Any:
        return [hit.document_id for hit in self._index.search([query], k)[0]]


if __name__ == "__main__":
    serve(Plaid())
