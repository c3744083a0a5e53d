"""Train a ColBERT: contrastive, or distilled from a teacher's scores, from a TOML recipe.

    python train/colbert.py train/recipes/code-colbert.toml --output models/code-colbert
    python train/colbert.py RECIPE --output DIR optimizer.lr=2e-4 model.document_length=300
    torchrun --nproc-per-node 2 train/colbert.py RECIPE --output DIR
    python train/colbert.py RECIPE --output DIR --resume
    accelerate launch train/colbert.py RECIPE --output DIR

Hardware, wall time and expected result stand in each recipe's `about`. The machinery is in
retrieval/training.
"""

from __future__ import annotations

from retrieval.evaluation.dev_set import MeasuredSet
from retrieval.training.recipes import MultiVectorRecipe
from retrieval.training.runs import train_multi_vector
from retrieval.training.script import parse_arguments, report_errors, report_result


@report_errors
def main() -> None:
    """Read the recipe, train, and say what came of it and where the model is."""
    arguments = parse_arguments(MultiVectorRecipe, __doc__)
    train_multi_vector(
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
