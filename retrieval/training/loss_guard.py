"""Stops a run at the step whose loss is no number, without waiting for a GPU at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrieval.errors import RetrievalError

_SHOWN_TEXTS = 2
_SHOWN_CHARACTERS = 80


class _Step(NamedTuple):
    """A step whose loss is on its way from the device."""

    number: int
    loss: Tensor
    is_there: torch.cuda.Event | None
    heads: dict[str, Tensor]


class LossGuard:
    """Looks at the loss of every step.

    On the CPU the loss is known at once, and the step that spoilt it is the one that raises. On a
    GPU its copy to the CPU is only started, and looked at when the next step has been queued:
    the device never waits, and the error, one step late, still names the right step. `check` waits
    for it; a checkpoint asks first.

    Args:
        decode: token ids of one text, to text.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._last: _Step | None = None

    def watch(self, step: int, loss: Tensor, heads: dict[str, Tensor]) -> None:
        """Look at the loss of the step before, and at this one as soon as that costs no wait.

        Args:
            step: number of the step that gave the loss, from 1.
            loss: a scalar.
            heads: what `first_texts` kept of the batch.

        Raises:
            RetrievalError: the loss is NaN or infinite.
        """
        self.check()
        if loss.device.type != "cuda":
            self._last = _Step(step, loss, None, heads)
            self.check()
            return
        copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
        copy.copy_(loss, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._last = _Step(step, copy, event, heads)

    def check(self) -> None:
        """Look at the last loss now.

        Raises:
            RetrievalError: it is NaN or infinite.
        """
        if self._last is None:
            return
        step, self._last = self._last, None
        if step.is_there is not None:
            step.is_there.synchronize()
        loss = float(step.loss)
        if not math.isfinite(loss):
            raise RetrievalError(
                f"the loss is {loss} at step {step.number}: lower optimizer.lr, or try "
                f"optimizer.precision=float32; the step's batch begins with {self._show(step)}. "
                "The last checkpoint, if there is one, is older and sound"
            )

    def _show(self, step: _Step) -> str:
        shown = []
        for column, rows in step.heads.items():
            texts = (self._decode(row)[:_SHOWN_CHARACTERS] for row in rows.tolist())
            shown.append(f"{column} {', '.join(map(repr, texts))}")
        return "; ".join(shown) or "no texts"


def first_texts(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The token ids of a batch's first texts, by column: copies, so that the batch can go."""
    return {
        key.removesuffix("_input_ids"): value[:_SHOWN_TEXTS].clone()
        for key, value in inputs.items()
        if key.endswith("_input_ids") and isinstance(value, Tensor)
    }


def check_weights(model: torch.nn.Module, step: int) -> None:
    """Refuse weights that are no numbers: a finite loss can have a gradient that is none.

    Raises:
        RetrievalError: a parameter is NaN or infinite; the message names it.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise RetrievalError(
                f"{name} is no longer finite after step {step}, so no checkpoint is made of it: "
                "lower optimizer.lr, or try optimizer.precision=float32"
            )
