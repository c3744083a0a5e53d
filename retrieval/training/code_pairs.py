"""Docstring -> function pairs from any tree of Python files, by CodeSearchNet's method.

A function's query is its docstring's first paragraph, its document the function without the
docstring. Source: Husain et al. 2019, CodeSearchNet Challenge, arXiv:1909.09436, section 2.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import re
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


class CodeFunction(NamedTuple):
    """A function, and the question that it answers where its docstring asks a usable one."""

    id: str
    """`module.py:Class.function:line`."""
    module: str
    """Path of the file below the root; functions are split by it."""
    query: str | None
    code: str
    """The source without the docstring, dedented."""


def standard_library() -> Path:
    """The folder of the running Python's own library."""
    return Path(sysconfig.get_path("stdlib"))


def extract_functions(root: Path, seen: set[str] | None = None) -> Iterator[CodeFunction]:
    """Stream the functions of every Python file below `root`, in order of path and line.

    Args:
        root: a folder, or one Python file.
        seen: what was met before, in other roots; repeated code and queries are left out over all
            calls that share it.

    Left out: tests, dunder methods, functions of fewer than 3 lines without their docstring, and
    repeated code or queries (compared without white space and case). A query is None where there
    is no docstring, or where its first paragraph has fewer than 3 or more than 64 words. Files
    that this Python can't parse are counted in one warning.
    """
    seen = set() if seen is None else seen
    unparsed = 0
    folder = root.parent if root.is_file() else root
    for path in python_files(root):
        module = path.relative_to(folder).as_posix()
        try:
            source = path.read_text("utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
            unparsed += 1
            continue
        for function in _functions_of(module, source.splitlines(), tree):
            keys = {_key("code", function.code)}
            if function.query:
                keys.add(_key("query", function.query))
            if keys & seen:
                continue
            seen |= keys
            yield function
    if unparsed:
        logger.warning("%s: %d files could not be parsed", root, unparsed)


def split_by_module(
    functions: Iterable[CodeFunction], held_out_fraction: float
) -> tuple[list[CodeFunction], list[CodeFunction]]:
    """Split into training and held-out functions, so that no module is on both sides.

    The side of a module depends on nothing but its path: it is stable over Python versions.
    """
    training: list[CodeFunction] = []
    held_out: list[CodeFunction] = []
    for function in functions:
        digest = hashlib.sha256(function.module.encode()).digest()
        is_held_out = int.from_bytes(digest[:4], "big") < held_out_fraction * 2**32
        (held_out if is_held_out else training).append(function)
    return training, held_out


def python_files(root: Path) -> Iterator[Path]:
    """Every Python file below `root` but tests, in order; `root` itself where it is a file."""
    if root.is_file():
        yield root
        return
    # Folders that are left out are not entered: site-packages alone may be huge.
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not is_left_out(name))
        for name in sorted(names):
            if name.endswith(".py") and not is_left_out(name.removesuffix(".py")):
                yield Path(folder) / name


def _functions_of(module: str, lines: list[str], tree: ast.Module) -> Iterator[CodeFunction]:
    for name, function in _definitions(tree, ""):
        if is_left_out(function.name) or re.fullmatch("__.*__", function.name):
            continue
        docstring = ast.get_docstring(function)
        code = _source(function, lines, without_docstring=docstring is not None)
        if len([line for line in code.splitlines() if line.strip()]) < MIN_CODE_LINES:
            continue
        query = " ".join((docstring or "").split("\n\n")[0].split())
        is_usable = MIN_QUERY_WORDS <= len(query.split()) <= MAX_QUERY_WORDS
        identifier = f"{module}:{name}:{function.lineno}"
        yield CodeFunction(identifier, module, query if is_usable else None, code)


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from _definitions(child, prefix)


def _source(function: _Function, lines: list[str], *, without_docstring: bool) -> str:
    first = min([function.lineno, *(each.lineno for each in function.decorator_list)]) - 1
    assert function.end_lineno is not None
    kept = lines[first : function.end_lineno]
    if without_docstring:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        del kept[docstring.lineno - 1 - first : docstring.end_lineno - first]
    return "\n".join(line[function.col_offset :] for line in kept).strip()


def is_left_out(name: str) -> bool:
    """Whether a folder or module of this name, without its suffix, holds tests or no code."""
    return name in _LEFT_OUT or name.startswith("test_") or name.endswith("_test")


def _key(kind: str, text: str) -> str:
    return f"{kind} {''.join(text.split()).lower()}"
