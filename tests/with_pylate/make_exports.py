"""Export every kind of multi-vector model for PyLate, with the vectors that PyLate has to give.

    .venv/bin/python -m tests.with_pylate.make_exports build/pylate-exports

Runs in the project's own environment (see `make test-pylate`): 2 CPU cores, 20 seconds. Afterwards
`test_exported_checkpoints.py` reads the folder where PyLate runs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.export import export_model
from retrieval.files import save_arrays, write_json
from tests.with_pylate.export_cases import CASES


def make_export(folder: Path, name: str) -> None:
    """Write one case's checkpoint, texts and embeddings."""
    with tempfile.TemporaryDirectory() as backbone:
        encoder, queries, documents = CASES[name](Path(backbone))
    export_model(encoder, folder / "checkpoint", to="pylate")
    vectors = {
        "query": list(encoder.encode_queries(queries)),
        "document": list(encoder.encode_documents(documents)),
    }
    arrays: dict[str, NDArray[Any]] = {}
    for role, embeddings in vectors.items():
        arrays[f"{role}_embeddings"] = np.concatenate(embeddings)
        arrays[f"{role}_offsets"] = np.cumsum([0, *map(len, embeddings)], dtype=np.int64)
    save_arrays(folder / "embeddings.safetensors", arrays)
    facts = {
        "fingerprint": encoder.reference.fingerprint,
        "queries": queries,
        "documents": documents,
    }
    write_json(folder / "reference.json", facts)


if __name__ == "__main__":
    for each in CASES:
        make_export(Path(sys.argv[1]) / each, each)
        print(f"exported {each}", file=sys.stderr)
