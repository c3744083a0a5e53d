"""Make pairs of prose, to follow a teacher on, of docstrings, WordNet or a wiki's dump.

    python train/prose_pairs.py docstrings wheels/*.whl ../mine --output pairs/docprose.jsonl.gz
    python train/prose_pairs.py wordnet WordNet-3.1/dict --output pairs/wordnet.jsonl.gz
    python train/prose_pairs.py wiki enwiki-pages-articles.xml.bz2 --output pairs/wiki.jsonl.gz

Writes `anchor`, `positive` and `source` as JSONL (.gz: the same bytes whenever it is written). No
package is imported. Hardware: one processor core. The machinery is in retrieval/training/prose.py
and wiki_dumps.py; train/recipes/starter.toml says what the starters were made with.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval.errors import InputError
from retrieval.files import write_jsonl
from retrieval.training.prose import ProsePair, docstring_pairs, wordnet_pairs
from retrieval.training.script import report_errors
from retrieval.training.wiki_dumps import wiki_pairs


@report_errors
def main() -> None:
    """Extract, write, and print how many pairs there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["docstrings", "wordnet", "wiki"])
    parser.add_argument(
        "paths", nargs="+", type=Path, help="folders, files or wheels; WordNet's; dumps"
    )
    parser.add_argument("--output", type=Path, required=True, help="a file of pairs")
    arguments = parser.parse_args()
    for path in arguments.paths:
        if not path.exists():
            raise InputError(f"{path}: not there")
    rows = (
        {"anchor": each.query, "positive": each.positive, "source": each.source}
        for each in _pairs(arguments.kind, arguments.paths)
    )
    count = write_jsonl(arguments.output, rows)
    if not count:
        arguments.output.unlink()
        raise InputError(f"no prose in {', '.join(map(str, arguments.paths))}")
    print(f"{arguments.output}: {count:,} pairs")


def _pairs(kind: str, paths: Sequence[Path]) -> Iterator[ProsePair]:
    seen: set[str] = set()
    for path in paths:
        if kind == "docstrings":
            yield from docstring_pairs(path, seen)
        else:
            yield from wordnet_pairs(path) if kind == "wordnet" else wiki_pairs(path)


if __name__ == "__main__":
    main()
