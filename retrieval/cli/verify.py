"""`retrieval verify`: whether an index is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli.options import AsJson


def verify(
    index: Annotated[Path, typer.Argument(help="A folder that `retrieval index` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Compare every byte of an index with its manifest, and its files with each other."""
    from retrieval.indexing.verify import verify_index

    found = verify_index(index)
    if as_json:
        print(json.dumps(found._asdict(), indent=2))
        return
    print(
        f"{index}: whole; {found.kind} index of {found.documents:,} documents, version "
        f"{found.version}, {found.bytes:,} bytes in {found.files} files"
    )
