"""Brute force as one writes it: torch in bfloat16, every token by every query token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from worker import Data, Engine, Options, serve

_CHUNK_TOKENS = 1 << 15


class BruteForce(Engine):
    """All tokens in memory, in chunks of whole documents that stay in the cache."""

    packages = ("torch",)

    def build(self, data: Data, folder: Path, options: Options, threads: int) -> None:
        pass

    def open(self, data: Data, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._chunks = []
        first = 0
        while first < len(data.lengths):
            limit = data.offsets[first] + _CHUNK_TOKENS
            last = max(first + 1, int(np.searchsorted(data.offsets, limit, "right")) - 1)
            rows = np.asarray(data.tokens[data.offsets[first] : data.offsets[last]])
            starts = data.offsets[first:last] - data.offsets[first]
            self._chunks.append((torch.from_numpy(rows).bfloat16(), starts))
            first = last

    def search(self, query: Any, k: int) -> Any:
        asked = torch.from_numpy(query).bfloat16().T
        scores = [
            np.maximum.reduceat((tokens @ asked).float().numpy(), starts, axis=0).sum(axis=1)
            for tokens, starts in self._chunks
        ]
        found = torch.from_numpy(np.concatenate(scores))
        return torch.topk(found, min(k, len(found))).indices

    def bytes_beside(self, data: Data) -> int:
        return int(2 * data.tokens.size)


if __name__ == "__main__":
    with torch.inference_mode():
        serve(BruteForce())
