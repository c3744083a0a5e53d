"""Lines of a text file with their numbers, for files of columns such as qrels and runs."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import InputError
from retrieval.files import open_text


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Stream (line number from 1, line without its end); blank lines are passed over.

    Raises:
        InputError: no such file, not UTF-8, or a damaged gzip file.
    """
    with open_text(path) as stream:
        number = 0
        while True:
            number += 1
            try:
                line = stream.readline()
            except UnicodeDecodeError as error:
                raise InputError(f"{path}:{number}: not UTF-8 ({error})") from error
            except (EOFError, gzip.BadGzipFile) as error:
                raise InputError(f"{path}:{number}: damaged gzip file ({error})") from error
            if not line:
                return
            if line.strip():
                yield number, line.rstrip("\n")
