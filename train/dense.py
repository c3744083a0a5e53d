"""Train a single-vector retriever: cached in-batch contrastive loss, from a TOML recipe.

    python train/dense.py train/recipes/code-dense.toml --output models/code-dense
    python train/dense.py RECIPE --output DIR optimizer.lr=2e-4 data.limit=10000
    torchrun --nproc-per-node 2 train/dense.py RECIPE --output DIR
    python train/dense.py RECIPE --output DIR --resume
    accelerate launch train/dense.py RECIPE --output DIR

Hardware, wall time and expected result stand in each recipe's `about`. The machinery is in
retrieval/training.
"""

from __future__ import annotations

from retrieval.evaluation.dev_set import MeasuredSet
from retrieval.training.recipes import DenseRecipe
from retrieval.training.runs import train_dense
from retrieval.training.script import parse_arguments, report_errors, report_result


@report_errors
def main() -> None:
    """Read the recipe, train, and say what came of it and where the model is."""
    arguments = parse_arguments(DenseRecipe, __doc__)
    train_dense(
        arguments.recipe,
        arguments.output,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
        resume=arguments.resume,
        dev_sets=MeasuredSet,
        progress=True,
    )
    report_result(arguments.output, as_json=arguments.json)


if __name__ == "__main__":
    main()
