"""Docstring -> function pairs from any tree of Python files, by CodeSearchNet's method.

A function's query is its docstring's first paragraph, its document the function without the
docstring. Source: Husain et al. 2019, CodeSearchNet Challenge, arXiv:1909.09436, section 2.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

MIN_QUERY_WORDS = 3
MIN_CODE_LINES = 3
MAX_QUERY_WORDS = 64
# Tests, other distributions, and test programs that live in the library.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class CodePair(NamedTuple):
    """A question that a function answers, and where the function stands."""

    id: str
    """`module.py:Class.function:line`."""
    module: str
    """Path of the file below the root; pairs are split by it."""
    query: str
    code: str


def standard_library() -> Path:
    """The folder of the running Python's own library."""
    return Path(sysconfig.get_path("stdlib"))


def extract_pairs(root: Path) -> Iterator[CodePair]:
    """Stream the pairs of every Python file below `root`, in order of path and line.

    Left out: tests, dunder methods, queries of fewer than 3 or more than 64 words, functions of
    fewer than 3 lines without their docstring, and whatever has the code or the query of an
    earlier pair (compared without white space and case). Files that this Python can't parse are
    counted in one warning.
    """
    seen: set[str] = set()
    unparsed = 0
    for path in _python_files(root):
        module = path.relative_to(root).as_posix()
        try:
            source = path.read_text("utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
            unparsed += 1
            continue
        for pair in _pairs_of(module, source.splitlines(), tree):
            keys = {_key("code", pair.code), _key("query", pair.query)}
            if keys & seen:
                continue
            seen |= keys
            yield pair
    if unparsed:
        logger.warning("%s: %d files could not be parsed", root, unparsed)


def split_by_module(
    pairs: Iterable[CodePair], held_out_fraction: float
) -> tuple[list[CodePair], list[CodePair]]:
    """Split into training and held-out pairs, so that no module is on both sides.

    The side of a module depends on nothing but its path: it is stable over Python versions.
    """
    training: list[CodePair] = []
    held_out: list[CodePair] = []
    for pair in pairs:
        digest = hashlib.sha256(pair.module.encode()).digest()
        is_held_out = int.from_bytes(digest[:4], "big") < held_out_fraction * 2**32
        (held_out if is_held_out else training).append(pair)
    return training, held_out


def _python_files(root: Path) -> Iterator[Path]:
    """Walk without entering folders that are left out: site-packages alone may be huge."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not _is_left_out(name))
        for name in sorted(names):
            if name.endswith(".py") and not _is_left_out(name.removesuffix(".py")):
                yield Path(folder) / name


def _pairs_of(module: str, lines: list[str], tree: ast.Module) -> Iterator[CodePair]:
    for name, function in _functions(tree, ""):
        docstring = ast.get_docstring(function)
        if not docstring or (function.name.startswith("__") and function.name.endswith("__")):
            continue
        if _is_left_out(function.name):
            continue
        query = " ".join(docstring.split("\n\n")[0].split())
        code = _without_docstring(function, lines)
        if not MIN_QUERY_WORDS <= len(query.split()) <= MAX_QUERY_WORDS:
            continue
        if len([line for line in code.splitlines() if line.strip()]) < MIN_CODE_LINES:
            continue
        yield CodePair(f"{module}:{name}:{function.lineno}", module, query, code)


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from _functions(child, prefix)


def _without_docstring(function: _Function, lines: list[str]) -> str:
    """The function's source lines, dedented, less those of the docstring."""
    first = min([function.lineno, *(each.lineno for each in function.decorator_list)])
    docstring = function.body[0]
    assert docstring.end_lineno is not None
    assert function.end_lineno is not None
    before = lines[first - 1 : docstring.lineno - 1]
    after = lines[docstring.end_lineno : function.end_lineno]
    return "\n".join(line[function.col_offset :] for line in [*before, *after]).strip()


def _is_left_out(name: str) -> bool:
    return name in _LEFT_OUT or name.startswith("test_") or name.endswith("_test")


def _key(kind: str, text: str) -> str:
    return f"{kind} {''.join(text.split()).lower()}"
