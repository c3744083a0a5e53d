"""Every command and snippet of the documents runs as written, in a copy of the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Snippet(NamedTuple):
    """A fenced block of a document."""

    document: str
    language: str
    text: str


def snippets(document: str) -> list[Snippet]:
    text = (ROOT / document).read_text("utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Snippet(document, language, block) for language, block in blocks]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files in a folder of their own, over this checkout's environment."""
    if not (ROOT / ".venv").is_dir() or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout with a filled .venv: make setup")
    # Else the copy's `make demo` would install the copy into the environment of both.
    if subprocess.run(["make", "--question", "setup"], cwd=ROOT, check=False).returncode:
        pytest.fail(".venv is older than what it is made of: make setup")
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def commands(snippet: Snippet) -> Iterator[str]:
    """The lines of a block; the suite does not start itself, nor what needs another set-up."""
    for line in snippet.text.splitlines():
        if re.match(r"make (test|check|format)", line):
            yield f"make --dry-run {line.removeprefix('make ')}"
        else:
            yield line


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"}
    environment["HF_HUB_OFFLINE"] = "1"
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_the_readme_runs_from_top_to_bottom(checkout: Path) -> None:
    ran = 0
    for snippet in snippets("README.md"):
        if snippet.language == "python":
            done = run([sys.executable, "-c", snippet.text], checkout)
        elif snippet.language == "bash":
            script = "set -euo pipefail\n" + "\n".join(commands(snippet))
            done = run(["bash", "-c", script], checkout)
        else:
            continue
        assert done.returncode == 0, f"{snippet.text}\n{done.stdout}\n{done.stderr}"
        ran += 1
        if "make demo" in snippet.text:
            check_demo(checkout, done)
    assert ran >= 5


def check_demo(checkout: Path, done: subprocess.CompletedProcess[str]) -> None:
    """The demo wrote its table and plot, named the winner, and answered both questions."""
    table = (checkout / "demo/results/table.md").read_text("utf-8")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "BM25",
        "dense, FAISS",
        "ColBERT, PLAID",
        "starter dense, FAISS",
        "starter ColBERT, PLAID",
    ]
    figures = re.findall(r"[01]\.\d{3}", table)
    assert len(figures) == 15
    assert all(float(figure) > 0.05 for figure in figures)
    assert (checkout / "demo/results/plot.png").read_bytes().startswith(b"\x89PNG")
    for system in ("bm25", "faiss", "plaid", "starter-faiss", "starter-plaid"):
        result = checkout / "demo/results" / system / "result.json"
        assert json.loads(result.read_text("utf-8"))["manifest"], result
    assert "Ahead of BM25" in done.stdout
    assert done.stdout.count("  5. ") == 2


def test_the_other_documents_name_make_targets_that_exist(checkout: Path) -> None:
    for document in ("CONTRIBUTING.md", "train/README.md"):
        for snippet in snippets(document):
            for line in snippet.text.splitlines():
                target = line.split("#")[0].split()[1]
                done = run(["make", "--dry-run", target], checkout)
                assert done.returncode == 0, done.stderr


def test_every_linked_file_exists() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "train/README.md", "benchmarks/README.md"):
        text = (ROOT / document).read_text("utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / document).parent / target).exists(), f"{document} links {target}"
