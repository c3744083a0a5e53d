"""How tests run commands, and the three documents that many of them index."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

LINES = [
    '{"_id": "paris", "title": "France", "text": "Paris is the capital of France."}',
    '{"_id": "berlin", "text": "Berlin is the capital of Germany."}',
    '{"_id": "bread", "text": "Bread is baked from flour, water and salt."}',
]


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]
