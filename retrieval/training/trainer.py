"""Sentence Transformers' trainer, whose checkpoints are whole and hold all that a resume needs.

Beside what the trainer saves (weights, optimiser, scheduler, gradient scaler, random states) a
checkpoint here has the loss's own parameters and the sum behind the next logged loss.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.distributed as dist
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from retrieval.files import read_json, write_json
from retrieval.training import checkpoints
from retrieval.training.adapters import has_adapter
from retrieval.training.interruption import Interruption
from retrieval.training.loss_guard import LossGuard, check_weights, first_texts
from retrieval.training.processes import any_process, wait_for_all

logger = logging.getLogger(__name__)

ADAPTED_FILE = "adapted_model.safetensors"
LOSS_FILE = "loss.safetensors"


def lasting(trainer_class: type[Trainer]) -> Any:
    """The same trainer with the habits of `LastingTrainer`."""
    return type("LastingTrainer", (LastingTrainer, trainer_class), {})


class LastingTrainer(Trainer):
    """Laid over one of Sentence Transformers' trainers by `lasting`."""

    model: Any
    loss: Any
    state: Any

    def begin_watching(self, interruption: Interruption, checkpoint_minutes: float | None) -> None:
        """Look at every loss, save at intervals of time, and stop well when asked to."""
        tokenizer = getattr(self.model, "tokenizer", None)
        self.guard = LossGuard(
            lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)) if tokenizer else ""
        )
        self.tokens: Tensor | int = 0
        """Tokens that this process has seen since the run began or was resumed."""
        self.failed_checkpoints = 0
        self._staging: Path | None = None
        self._resumed_from: Path | None = None
        self.stopped_by: str | None = None
        """The signal that stopped the run."""
        self.add_callback(_Watch(self, interruption, checkpoint_minutes))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Also count tokens, keep the loss's own gradients equal over processes, find NaN."""
        heads = first_texts(inputs)
        for key, value in inputs.items():
            if key.endswith("attention_mask"):
                self.tokens = self.tokens + value.sum()
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if dist.is_available() and dist.is_initialized():
            for _, parameter in self._own_parameters():
                # DistributedDataParallel averages the model's gradients, and no others.
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
        self.guard.watch(self.state.global_step + 1, loss, heads)
        return loss

    def resume_finished(self, checkpoint: Path) -> bool:
        """Load a checkpoint of the last step and return True; False where steps are left.

        The trainer itself would take one more step.
        """
        state = read_json(checkpoint / TRAINER_STATE_NAME)
        if state["global_step"] < state["max_steps"]:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self.state.global_step = state["global_step"]
        return True

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else str(super()._get_output_dir(trial))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Without a model card, which draws examples from the random state that is to be saved.

        A model with adapters is saved whole: Sentence Transformers would put a saved adapter on the
        backbone as it was before tokens were added to it.
        """
        if has_adapter(self.model):
            Path(str(output_dir)).mkdir(parents=True, exist_ok=True)
            save_model(self.model, str(Path(str(output_dir)) / ADAPTED_FILE))
            return
        self.model.save_pretrained(str(output_dir), create_model_card=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write everything beside the checkpoints, then rename it into its place.

        Where that fails, for a full disk say, the former checkpoints stay and the run goes on.

        Raises:
            RetrievalError: weights that are no numbers.
        """
        self.guard.check()
        check_weights(self.model, self.state.global_step)
        folder = Path(str(self.args.output_dir))
        if self.args.should_save:
            checkpoints.clear_incomplete(folder)
        wait_for_all()
        self._staging = folder / checkpoints.INCOMPLETE
        written = self._staging / f"checkpoint-{self.state.global_step}"
        problem: Exception | None = None
        # torch reports a failed write as RuntimeError.
        failures = (OSError, RuntimeError, safetensors.SafetensorError)
        try:
            super()._save_checkpoint(model, trial)
            self._save_rest(written)
        except failures as error:
            problem = error
        finally:
            self._staging = None
        if not any_process(problem is not None) and self.args.should_save:
            try:
                checkpoints.commit_checkpoint(written, folder / written.name)
                checkpoints.delete_old_checkpoints(folder)
            except failures as error:
                problem = error
        if problem is not None:
            self.failed_checkpoints += 1
            checkpoints.clear_incomplete(folder)
            kept = checkpoints.list_checkpoints(folder)
            logger.error(
                "no checkpoint at step %d (%s: %s): the run goes on, and would resume from %s",
                self.state.global_step,
                type(problem).__name__,
                problem,
                kept[-1] if kept else "its start",
            )
        wait_for_all()

    def _save_rest(self, folder: Path) -> None:
        """Add what Sentence Transformers leaves out to a checkpoint that is being written."""
        logged = {
            "sum": self._tr_loss.item(),
            "total": self._total_loss_scalar,
            "step": self._globalstep_last_logged,
        }
        write_json(folder / self._logged_name(), logged)
        if not self.args.should_save:
            return
        own = {name: tensor.detach().contiguous() for name, tensor in self._own_tensors()}
        if own:
            save_file(own, folder / LOSS_FILE)
        # A pickle that nothing reads.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._resumed_from = Path(resume_from_checkpoint)
        if has_adapter(self.model):
            load_model(self.model, str(self._resumed_from / ADAPTED_FILE))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint)
        own = dict(self._own_tensors())
        if own:
            saved = load_file(self._resumed_from / LOSS_FILE)
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(saved[name])

    def restore_logging(self) -> None:
        """Go on with the sum of losses that the next logged one is the mean of."""
        path = self._resumed_from / self._logged_name() if self._resumed_from else None
        if path is None or not path.is_file():
            return
        logged = read_json(path)
        self._tr_loss.fill_(logged["sum"])
        self._total_loss_scalar = logged["total"]
        self._globalstep_last_logged = logged["step"]

    def _logged_name(self) -> str:
        return f"logged_{self.args.process_index}.json"

    def _own_parameters(self) -> Iterator[tuple[str, Tensor]]:
        models = {id(parameter) for parameter in self.model.parameters()}
        for prefix, loss in self._losses():
            for name, parameter in loss.named_parameters():
                if parameter.requires_grad and id(parameter) not in models:
                    yield prefix + name, parameter

    def _own_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What a loss has learnt or counted, by names that a wrapped model does not change."""
        yield from self._own_parameters()
        models = {id(buffer) for buffer in self.model.buffers()}
        for prefix, loss in self._losses():
            for name, buffer in loss.named_buffers():
                if id(buffer) not in models:
                    yield prefix + name, buffer

    def _losses(self) -> list[tuple[str, torch.nn.Module]]:
        if isinstance(self.loss, Mapping):
            return [(f"{name}.", loss) for name, loss in sorted(self.loss.items())]
        return [("", self.loss)]


class _Watch(TrainerCallback):
    """Acts between the steps of a `LastingTrainer`."""

    def __init__(
        self, trainer: LastingTrainer, interruption: Interruption, minutes: float | None
    ) -> None:
        self._trainer = trainer
        self._interruption = interruption
        self._seconds = None if minutes is None else minutes * 60
        self._saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.restore_logging()
        self._saved = time.monotonic()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The trainer's own call does not reach a sampler behind two wrappers: one splits batches
        # between processes, one skips those that were done before a resume. And it seeds the plain
        # sampler once: a resumed second epoch would come in the order of the first.
        loader = kwargs["train_dataloader"]
        epoch = state.global_step // len(loader)
        sampler = loader.batch_sampler
        while sampler is not None:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            if isinstance(getattr(sampler, "generator", None), torch.Generator):
                sampler.generator.manual_seed(args.seed + epoch)
            sampler = getattr(sampler, "batch_sampler", None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Processes get signals at different moments, and their clocks differ; they act together.
        signal = self._interruption.signal
        if any_process(signal is not None):
            self._trainer.stopped_by = signal or "another process's signal"
            control.should_save = control.should_training_stop = True
        is_due = self._seconds is not None and time.monotonic() - self._saved >= self._seconds
        if any_process(is_due and args.process_index == 0):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = time.monotonic()
