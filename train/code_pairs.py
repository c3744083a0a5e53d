"""Make docstring -> function pairs of folders, installed packages or the standard library.

    python train/code_pairs.py stdlib numpy scikit-learn --output code
    python train/code_pairs.py ../my-project --output code --held-out 0.1

Writes OUTPUT/train.jsonl, which the recipes read, OUTPUT/sources.json with each package's licence,
and, with --held-out, OUTPUT/held-out: a BEIR folder of the functions of that share of the modules,
none of which is trained on. No package is imported. Hardware: one processor core. The machinery
is in retrieval/training/code_pairs.py and code_sources.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from retrieval.errors import ConfigError, InputError
from retrieval.files import write_json
from retrieval.training.code_pairs import split_by_module
from retrieval.training.code_sources import (
    extract_sources,
    find_code,
    write_collection,
    write_pairs,
)
from retrieval.training.script import report_errors


@report_errors
def main() -> None:
    """Find the code, extract, split, write, and print how many pairs there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("code", nargs="+", help="folders, installed packages, or stdlib")
    parser.add_argument("--output", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--held-out", type=float, default=0.0, help="share of the modules, 0 to 1")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output")
    arguments = parser.parse_args()
    output: Path = arguments.output
    if not 0 <= arguments.held_out < 1:
        raise ConfigError(f"--held-out is {arguments.held_out}, expected 0 up to 1")
    if output.is_dir() and any(output.iterdir()) and not arguments.overwrite:
        raise ConfigError(f"{output}: not empty (--overwrite replaces what is there)")
    sources = [source for each in arguments.code for source in find_code(each)]
    training, held_out = split_by_module(extract_sources(sources), arguments.held_out)
    pairs = write_pairs(output / "train.jsonl", training)
    if not pairs:
        raise InputError(f"no function with a docstring in {', '.join(arguments.code)}")
    stated = [source._replace(root=Path(source.root.name))._asdict() for source in sources]
    write_json(output / "sources.json", [{**each, "root": str(each["root"])} for each in stated])
    print(f"{output / 'train.jsonl'}: {pairs:,} pairs of {len(training):,} functions")
    if arguments.held_out:
        queries = write_collection(output / "held-out", held_out)
        print(f"{output / 'held-out'}: {queries:,} queries, {len(held_out):,} functions")
    for source in sources:
        print(
            f"{source.name}: {source.package or 'a folder'}, licence {source.licence or 'unknown'}"
        )


if __name__ == "__main__":
    main()
