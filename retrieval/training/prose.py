"""Pairs of a short text and prose that belongs to it: docstrings, WordNet, wiki dumps.

Code and questions are all that pairs for a code retriever speak of. A model that is to follow a
teacher everywhere needs texts about everything: what scientific software says of what it computes,
a dictionary, an encyclopedia.
"""

from __future__ import annotations

import ast
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from retrieval.errors import InputError
from retrieval.training.code_pairs import is_left_out, python_files

MAX_PASSAGE_WORDS = 150
MIN_PASSAGE_WORDS = 20
MIN_PARAGRAPH_WORDS = 12
MIN_QUERY_WORDS = 3
MAX_LEMMAS = 4
_MAX_QUERY_CHARACTERS = 300
_MIN_GLOSS_WORDS = 4
_PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}


class ProsePair(NamedTuple):
    """A text and what belongs to it."""

    query: str
    positive: str
    source: str
    """The module, the part of speech, or the page that it comes from."""


def docstring_pairs(root: Path, seen: set[str] | None = None) -> Iterator[ProsePair]:
    """Pair the first sentence of a docstring with passages of the prose that follows.

    Args:
        root: a folder, a Python file or a wheel; tests are left out.
        seen: paragraphs that were met before, in other roots; they are left out, and those of
            `root` are added.

    Tables of parameters, examples, formulas and lists are no prose.

    Raises:
        InputError: a wheel that cannot be read.
    """
    seen = set() if seen is None else seen
    for module, source in _modules(root):
        for docstring in _docstrings(source):
            fresh = [each for each in _prose(docstring) if each not in seen]
            seen.update(fresh)
            query = _first_sentence(_plain(docstring.split("\n\n")[0]))
            if len(query.split()) < MIN_QUERY_WORDS:
                continue
            text = " ".join(fresh).removeprefix(query)
            for passage in passages([text]):
                yield ProsePair(query[:_MAX_QUERY_CHARACTERS], passage, module)


def wordnet_pairs(folder: Path) -> Iterator[ProsePair]:
    """Pair the words of each synset of WordNet with their gloss, and those of the kinds of it.

    Args:
        folder: with `data.noun`, `data.verb`, `data.adj` and `data.adv` (WordNet 3, wndb(5WN)).

    Raises:
        InputError: one of the files is not there, or a line is not as the format has it.
    """
    synsets = {
        (letter, synset.offset): synset
        for letter, name in _PARTS_OF_SPEECH.items()
        for synset in _synsets(folder / f"data.{name}")
    }
    for (letter, _), synset in synsets.items():
        if len(synset.gloss.split()) < _MIN_GLOSS_WORDS:
            continue
        parts = [synset.gloss]
        for kind in (synsets[key] for key in synset.kinds if key in synsets):
            if sum(len(part.split()) for part in parts) > MAX_PASSAGE_WORDS:
                break
            parts.append(f"{kind.lemmas[0]}: {kind.gloss.split(';')[0]}")
        query = ", ".join(synset.lemmas[:MAX_LEMMAS])
        yield ProsePair(query, ". ".join(parts), _PARTS_OF_SPEECH[letter])


def passages(paragraphs: Iterable[str]) -> Iterator[str]:
    """Cut texts, joined, to passages of 150 words; one of fewer than 20 is left out."""
    words = [word for each in paragraphs for word in each.split()]
    for start in range(0, len(words), MAX_PASSAGE_WORDS):
        passage = words[start : start + MAX_PASSAGE_WORDS]
        if len(passage) >= MIN_PASSAGE_WORDS:
            yield " ".join(passage)


def _modules(root: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each Python file; bytes that are not UTF-8 are left out."""
    if root.suffix == ".whl":
        try:
            with zipfile.ZipFile(root) as wheel:
                for name in sorted(each for each in wheel.namelist() if each.endswith(".py")):
                    if not any(map(is_left_out, PurePosixPath(name).with_suffix("").parts)):
                        yield name, wheel.read(name).decode("utf-8", "ignore")
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{root}: cannot be read as a wheel: {error}") from error
        return
    folder = root.parent if root.is_file() else root
    for path in python_files(root):
        yield path.relative_to(folder).as_posix(), path.read_text("utf-8", "ignore")


def _docstrings(source: str) -> Iterator[str]:
    try:
        with warnings.catch_warnings():  # of escapes in old code
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def _prose(docstring: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = [line.strip() for line in paragraph.splitlines()]
        rules = [at for at, line in enumerate(lines) if re.fullmatch(r"([-=~^])\1{2,}", line)]
        lines = lines[rules[0] + 1 :] if rules else lines
        if any(re.match(r">>>|\.\.|@|http|\+-|\||\*?\w[\w, ]* ?: ", line) for line in lines):
            continue
        text = _plain(" ".join(lines))
        if _is_prose(text):
            yield text


def _is_prose(text: str) -> bool:
    """Whether nearly all of it are words, in sentences."""
    count = len(text.split())
    if count < MIN_PARAGRAPH_WORDS or not text.endswith((".", ":")):
        return False
    letters = sum(each.isalpha() or each.isspace() for each in text)
    words = len(re.findall(r"[A-Za-z][a-z'-]+", text))
    return letters > 0.9 * len(text) and words > 0.75 * count


def _plain(text: str) -> str:
    """Without the marks of reStructuredText, on one line."""
    text = re.sub(r":\w+:`~?([^`<]*?)(?:\s*<[^>]*>)?`", r"\1", text)
    text = re.sub(r"`{1,2}([^`]*)`{1,2}_?", r"\1", text)
    return " ".join(re.sub(r"\[\d+\]_?", "", text).split())


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.:])\s", text, maxsplit=1)[0]


class _Synset(NamedTuple):
    offset: str
    lemmas: list[str]
    gloss: str
    kinds: list[tuple[str, str]]
    """Part of speech and offset of its hyponyms and instances."""


def _synsets(path: Path) -> Iterator[_Synset]:
    if not path.is_file():
        raise InputError(f"{path}: not there: expected WordNet's data.noun, .verb, .adj and .adv")
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if line.startswith("  "):  # the licence
            continue
        try:
            yield _synset(line)
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}:{number}: not a line of WordNet's: {error}") from error


def _synset(line: str) -> _Synset:
    """`offset file type words (word id)* pointers (symbol offset type from/to)* ... | gloss`."""
    fields, gloss = line.split(" | ", 1)
    parts = fields.split()
    count = int(parts[3], 16)
    lemmas = [each.split("(")[0].replace("_", " ") for each in parts[4 : 4 + 2 * count : 2]]
    first = 5 + 2 * count
    pointers = [parts[at : at + 4] for at in range(first, first + 4 * int(parts[first - 1]), 4)]
    kinds = [(letter, offset) for symbol, offset, letter, _ in pointers if symbol in ("~", "~i")]
    return _Synset(parts[0], lemmas, gloss.strip(), kinds)
