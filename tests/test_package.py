"""The package's front door: light to import, every name reachable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import retrieval

ROOT = Path(__file__).parents[1]


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


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, which says what the files are")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "retrieval"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    build = ["setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path), "build_py"]
    subprocess.run(
        [sys.executable, *build, "--build-lib", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert [name for name in names if not (tmp_path / name).is_file()] == []
