"""Where Python code is: a folder, the standard library, or an installed package, with its licence.

Nothing is imported: a package's files are found by its metadata and by the import system's paths.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from retrieval.errors import InputError
from retrieval.files import atomic_write, write_jsonl
from retrieval.training.code_pairs import CodeFunction, extract_functions, standard_library

STANDARD_LIBRARY = "stdlib"
_MAX_LICENCE = 100


class CodeSource(NamedTuple):
    """A tree of Python files, or a single one."""

    name: str
    """Before the paths of its modules, so that two packages never share one."""
    root: Path
    package: str | None
    """The distribution and its version; None for a folder."""
    licence: str | None
    """As the package's metadata states it; None where they say nothing."""


def find_code(target: str) -> list[CodeSource]:
    """Find a folder or file, "stdlib", or an installed package by its name or what it imports as.

    Raises:
        InputError: there is none; a package that has no Python files counts as none.
    """
    path = Path(target)
    if path.exists():
        return [CodeSource(path.resolve().name.removesuffix(".py"), path, None, None)]
    if target == STANDARD_LIBRARY:
        return [CodeSource(target, standard_library(), "Python", "PSF-2.0")]
    try:
        distribution = importlib.metadata.distribution(target)
        names = _top_level(distribution)
    except importlib.metadata.PackageNotFoundError:
        # Not the name on the index: the name that is imported, `sklearn` of scikit-learn.
        owners = importlib.metadata.packages_distributions().get(target, [])
        if not owners:
            raise InputError(
                f"{target}: no folder, and no package of this name is installed here: install it, "
                f"or give a path ({STANDARD_LIBRARY} is Python's own library)"
            ) from None
        distribution, names = importlib.metadata.distribution(owners[0]), [target]
    package = f"{distribution.metadata['Name']} {distribution.version}"
    found = [
        CodeSource(name, root, package, licence(distribution))
        for name in names
        if (root := _root(name)) is not None
    ]
    if not found:
        raise InputError(f"{target}: the installed package has no Python files")
    return found


def licence(distribution: importlib.metadata.Distribution) -> str | None:
    """The licence that a package states: its SPDX expression, its classifiers, or its first line.

    Classifiers come before the free text, which is often the whole licence.
    """
    metadata = distribution.metadata
    for expression in metadata.get_all("License-Expression") or []:
        return str(expression)
    marked = [
        each.split(" :: ")[-1]
        for each in metadata.get_all("Classifier") or []
        if each.startswith("License :: ") and not each.endswith("OSI Approved")
    ]
    lines = "\n".join(metadata.get_all("License") or []).strip().splitlines()
    stated = " AND ".join(marked) or (lines[0].strip()[:_MAX_LICENCE] if lines else "")
    return stated or None


def extract_sources(sources: Iterable[CodeSource]) -> Iterator[CodeFunction]:
    """The functions of several sources, without those that an earlier one has."""
    seen: set[str] = set()
    for source in sources:
        for function in extract_functions(source.root, seen):
            yield function._replace(
                id=f"{source.name}/{function.id}", module=f"{source.name}/{function.module}"
            )


def write_pairs(path: Path, functions: Iterable[CodeFunction]) -> int:
    """Write docstring -> function pairs as the recipes read them; returns how many."""
    pairs = (
        {"query": each.query, "positive": each.code, "module": each.module}
        for each in functions
        if each.query is not None
    )
    return write_jsonl(path, pairs)


def write_collection(folder: Path, functions: Sequence[CodeFunction]) -> int:
    """Write a BEIR folder: every function is a document, every docstring asks for its own.

    Returns:
        How many queries there are.
    """
    asked = [each for each in functions if each.query is not None]
    write_jsonl(folder / "corpus.jsonl", ({"_id": f.id, "text": f.code} for f in functions))
    write_jsonl(folder / "queries.jsonl", ({"_id": f"q:{f.id}", "text": f.query} for f in asked))
    with atomic_write(folder / "qrels" / "test.tsv") as stream:
        stream.write(b"query-id\tcorpus-id\tscore\n")
        for each in asked:
            stream.write(f"q:{each.id}\t{each.id}\t1\n".encode())
    return len(asked)


def _top_level(distribution: importlib.metadata.Distribution) -> list[str]:
    """What a distribution installs to import, in order of name."""
    stated = distribution.read_text("top_level.txt")
    if stated:
        return sorted(set(stated.split()))
    parts = [file.parts[0] for file in distribution.files or [] if file.suffix == ".py"]
    return sorted({part.removesuffix(".py") for part in parts if part != ".."})


def _root(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
