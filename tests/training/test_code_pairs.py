"""Docstring and function pairs by CodeSearchNet's rules."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from retrieval.training.code_pairs import (
    CodeFunction,
    extract_functions,
    split_by_module,
    standard_library,
)

SOURCE = '''
import os

@cache
def read(path):
    """Read the whole   file.

    Not this paragraph.
    """
    with open(path) as stream:
        return stream.read()

def bare(x):
    y = x + 1
    return y

def short(x):
    """Give back the argument."""
    return x

def brief(x):
    """Two words."""
    y = x
    return y

class Box:
    def __init__(self):
        """Make an empty box here."""
        self.a = 1
        self.b = 2

    async def open(self):
        """Open the box slowly."""
        await self.lid
        return self

        # end

    def test_open(self):
        """Open it in a test."""
        assert self
        assert self.open
'''


def write(root: Path, name: str, source: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(source, "utf-8")


def extract(root: Path) -> dict[str, CodeFunction]:
    return {each.id.split(":")[1]: each for each in extract_functions(root)}


def test_queries_are_first_paragraphs_and_code_has_no_docstring(tmp_path: Path) -> None:
    write(tmp_path, "package/module.py", SOURCE)
    functions = extract(tmp_path)
    assert functions["read"] == CodeFunction(
        id="package/module.py:read:5",
        module="package/module.py",
        query="Read the whole file.",
        code="@cache\ndef read(path):\n    with open(path) as stream:\n        "
        "return stream.read()",
    )
    assert functions["Box.open"].query == "Open the box slowly."
    assert functions["Box.open"].code.startswith("async def open(self):\n    await self.lid")


def test_too_short_dunder_and_test_functions_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "module.py", SOURCE)
    assert set(extract(tmp_path)) == {"read", "bare", "brief", "Box.open"}


def test_functions_without_a_usable_docstring_have_no_query(tmp_path: Path) -> None:
    write(tmp_path, "module.py", SOURCE)
    functions = extract(tmp_path)
    assert functions["bare"].query is None
    assert functions["brief"].query is None


def test_repeated_code_and_repeated_queries_are_left_out(tmp_path: Path) -> None:
    function = 'def {}(x):\n    """Add one to it."""\n    y = x + {}\n    return y\n'
    write(tmp_path, "a.py", function.format("f", 1))
    write(tmp_path, "b.py", function.format("f", 1))
    write(tmp_path, "c.py", function.format("g", 2))
    assert [each.id for each in extract_functions(tmp_path)] == ["a.py:f:1"]


@pytest.mark.parametrize("name", ["tests/a.py", "test_a.py", "site-packages/a.py", "a_test.py"])
def test_test_files_and_other_distributions_are_not_entered(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, SOURCE)
    assert not list(extract_functions(tmp_path))


def test_a_file_that_is_no_python_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "broken.py", "def (:")
    write(tmp_path, "module.py", SOURCE)
    with caplog.at_level(logging.WARNING):
        assert extract(tmp_path)
    assert "1 files could not be parsed" in caplog.text


def test_no_module_is_on_both_sides_of_the_split(tmp_path: Path) -> None:
    functions = [
        CodeFunction(f"m{n % 50}.py:f:{n}", f"m{n % 50}.py", "a query", "code") for n in range(500)
    ]
    training, held_out = split_by_module(functions, 0.3)
    assert len(training) + len(held_out) == 500
    assert {each.module for each in training}.isdisjoint(each.module for each in held_out)
    assert 5 <= len({each.module for each in held_out}) <= 25
    assert split_by_module(functions[::-1], 0.3)[1] == held_out[::-1]


def test_the_standard_library_has_thousands_of_pairs() -> None:
    pairs = [each for each in extract_functions(standard_library()) if each.query]
    assert len(pairs) > 2_000
    assert len({each.id for each in pairs}) == len(pairs)
