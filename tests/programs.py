"""The programs of a checkout, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_program(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program, such as "eval/tables.py"; nothing is raised where it fails."""
    return subprocess.run(
        [sys.executable, ROOT / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
