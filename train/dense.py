"""Train a single-vector retriever: cached in-batch contrastive loss, from a TOML recipe.

    python train/dense.py train/recipes/code-dense.toml --output models/code-dense
    python train/dense.py RECIPE --output DIR optimizer.lr=2e-4 data.limit=10000
    torchrun --nproc-per-node 2 train/dense.py RECIPE --output DIR
    accelerate launch train/dense.py RECIPE --output DIR

Hardware, wall time and expected result stand in each recipe's `about`. The machinery is in
retrieval/training.
"""

from __future__ import annotations

from retrieval.training.recipes import DenseRecipe
from retrieval.training.runs import train_dense
from retrieval.training.script import parse_arguments, report_errors


@report_errors
def main() -> None:
    """Read the recipe, train, and say where the model is."""
    arguments = parse_arguments(DenseRecipe, __doc__)
    train_dense(
        arguments.recipe,
        arguments.output,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
    )
    print(arguments.output / "model")


if __name__ == "__main__":
    main()
