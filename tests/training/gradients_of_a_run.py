"""Train as a launcher's process does, and write the gradients of every step.

    torchrun --nproc-per-node 2 tests/training/gradients_of_a_run.py KIND RECIPE.json OUTPUT

OUTPUT gets `gradients-RANK-STEP.safetensors` beside the run in OUTPUT/run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from retrieval.config import from_mapping, read_recipe
from retrieval.training.processes import leave_group
from retrieval.training.recipes import DenseRecipe, MultiVectorRecipe
from retrieval.training.runs import train_dense, train_multi_vector
from retrieval.training.trainer import LastingTrainer


def main() -> None:
    kind, recipe, folder, *options = sys.argv[1:]
    rank = os.environ.get("RANK", "0")
    original = LastingTrainer.training_step

    def step(self: Any, *arguments: Any) -> Any:
        loss = original(self, *arguments)
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        number = self.state.global_step + 1
        save_file(gradients, f"{folder}/gradients-{rank}-{number}.safetensors")
        return loss

    owner: Any = LastingTrainer
    owner.training_step = step
    settings, output = read_recipe(Path(recipe)), Path(folder) / "run"
    resume = "resume" in options
    if kind == "dense":
        dense = from_mapping(DenseRecipe, settings, source=recipe)
        train_dense(dense, output, resume=resume)
    else:
        colbert = from_mapping(MultiVectorRecipe, settings, source=recipe)
        train_multi_vector(colbert, output, resume=resume)
    leave_group()


if __name__ == "__main__":
    main()
