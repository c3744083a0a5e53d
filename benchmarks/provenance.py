"""Which code printed a figure."""

from __future__ import annotations

import subprocess


def commit() -> str:
    """The checkout's commit, with "-dirty" where it was changed."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
