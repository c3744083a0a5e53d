"""An evaluation that encodes slowly, for tests that kill it; it needs no torch.

python evaluating_program.py DATA CACHE OUTPUT LOG

A text leaves a line in LOG before it is encoded: `document TEXT` or `query TEXT`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.embedding_store import StoreSettings
from retrieval.evaluation import EvaluationSettings, staged
from retrieval.evaluation.manifest import DataChoice, Plan
from retrieval.evaluation.models import Models, ModelSettings
from retrieval.evaluation.planned import Evaluations, PlannedEvaluation
from retrieval.evaluation.stages import StageCache
from retrieval.evaluation.systems import FusionSystem, LexicalSystem, VectorSystem
from retrieval.records import ModelReference

SECONDS = 0.01
MODEL = ModelSettings(name="slow")
SYSTEM = FusionSystem(
    name="fused", of=(LexicalSystem(), VectorSystem(kind="dense", name="dense", model=MODEL))
)


class SlowEncoder:
    """Takes its time, and writes down what it does."""

    reference = ModelReference("slow", "fingerprint of slow", False, 2)

    def __init__(self, log: Path) -> None:
        self._log = log

    def encode_queries(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self._encode("query", texts)

    def encode_documents(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        return self._encode("document", texts)

    def _encode(self, role: str, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for text in texts:
            with self._log.open("a") as stream:
                stream.write(f"{role} {text}\n")
            time.sleep(SECONDS)
            yield np.array([len(text), text.count("a")], np.float32)


def main() -> None:
    data, cache, output, log = map(Path, sys.argv[1:])
    small = StoreSettings(dtype="float32", shard_documents=5)
    staged.DOCUMENT_STORE = staged.QUERY_STORE = small
    evaluations = Evaluations(StageCache(cache), Models(loaded={MODEL: SlowEncoder(log)}))
    plan = Plan(
        data=DataChoice(name="killed", folder="killed", split="test"),
        system=SYSTEM,
        settings=EvaluationSettings(split="test"),
    )
    evaluations.result(PlannedEvaluation(plan=plan, data=data, output=output))


if __name__ == "__main__":
    main()
