"""Show on which texts a student is far from its teacher: cosines of their vectors, by collection.

    python train/likeness.py starter-dense path/to/all-MiniLM-L6-v2 data/scifact data/cranfield
    python train/likeness.py models/student models/teacher pairs/*.jsonl.gz --texts 1000 --words 60

Takes BEIR folders and files of pairs, and prints for the queries and the documents of each the mean
cosine, what nine tenths of the texts reach, how many were drawn, and their words. The lowest means
come last: such texts are what the training lacks. Hardware: one processor core, some 10 s for 300
texts and encoders of the starters' size. The machinery is in retrieval/training/likeness.py.
"""

from __future__ import annotations

import argparse

from retrieval.encoders.loading import load_encoder
from retrieval.training.likeness import likenesses
from retrieval.training.script import report_errors


@report_errors
def main() -> None:
    """Load both encoders, compare, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", help="a folder, a hub's name, or starter-dense")
    parser.add_argument("teacher", help="of the same width")
    parser.add_argument("sources", nargs="+", help="BEIR folders, files of pairs")
    parser.add_argument("--texts", type=int, default=300, help="of each kind; default 300")
    parser.add_argument("--words", type=int, default=120, help="texts are cut; default 120")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = likenesses(
        load_encoder(arguments.student),
        load_encoder(arguments.teacher),
        arguments.sources,
        texts=arguments.texts,
        words=arguments.words,
        seed=arguments.seed,
    )
    print(f"{'cosine':>6} {'9 in 10':>7} {'texts':>6} {'words':>6}")
    for each in sorted(found, key=lambda each: -each.cosine):
        print(
            f"{each.cosine:6.4f} {each.low:7.4f} {each.texts:6,} {each.words:6.1f}  "
            f"{each.kind} of {each.source}"
        )


if __name__ == "__main__":
    main()
