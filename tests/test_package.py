"""The package's front door: light to import, every name reachable."""

from __future__ import annotations

import subprocess
import sys

import pytest

import retrieval


@pytest.mark.parametrize("module", ["retrieval", "retrieval.indexing", "retrieval.cli.main"])
def test_importing_loads_no_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'faiss', 'bm25s', 'matplotlib', 'datasets'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", retrieval.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(retrieval, name).__name__ == name
    assert name in dir(retrieval)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Indexer'"):
        retrieval.Indexer  # noqa: B018
