"""Programs here import PyLate: they are run, not collected."""

from __future__ import annotations

collect_ignore = ["make_reference.py"]
