"""Our Muon: orthogonal steps of AdamW's size, those of torch's own but for its rounding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from retrieval.training import muon
from retrieval.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (32, 32)])
@pytest.mark.parametrize("is_fast", [False, True], ids=["float32", "bfloat16"])
def test_singular_values_end_near_1_and_vectors_stay(
    shape: tuple[int, int], is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "has_fast_bfloat16", lambda device: is_fast)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix)
    assert found.dtype == torch.float32
    tolerance = 0.05 if is_fast else 1e-4
    inside = left.T @ found @ right.T
    assert float((inside - inside.diag().diag()).abs().max()) < tolerance
    large = values > 0.1 * values.max()
    assert float(inside.diag()[large].min()) > 0.6
    assert float(inside.diag().max()) < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch 2.9 or newer")
def test_steps_are_those_of_torch() -> None:
    def moved(optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]) -> Tensor:
        weight = torch.nn.Parameter(torch.zeros(24, 48))
        steps = optimizer([weight])
        generator = torch.Generator().manual_seed(1)
        for _ in range(10):  # gradients that have nothing to do with each other
            weight.grad = torch.randn(24, 48, generator=generator)
            steps.step()
        return weight.detach()

    ours = moved(lambda params: Muon(params, lr=0.02))
    theirs = moved(
        lambda params: torch.optim.Muon(
            params, lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
    )
    other = moved(lambda params: Muon(params, lr=0.02, momentum=0.9))
    # torch's rounding to bfloat16, and what another momentum makes of it.
    assert float((ours - theirs).norm() / ours.norm()) < 0.02
    assert float((ours - other).norm() / ours.norm()) > 0.1


def test_a_zero_gradient_moves_nothing_and_no_gradient_is_passed_over() -> None:
    moved, still, unused = (torch.nn.Parameter(torch.ones(4, 6)) for _ in range(3))
    steps = Muon([moved, still, unused], lr=0.1)
    (moved * torch.arange(6.0)).sum().backward()  # type: ignore[no-untyped-call]
    still.grad = torch.zeros(4, 6)
    steps.step()
    assert not torch.equal(moved, torch.ones(4, 6))
    assert torch.equal(still, torch.ones(4, 6))
    assert torch.equal(unused, torch.ones(4, 6))


def test_only_matrices_are_taken() -> None:
    with pytest.raises(ValueError, match=r"matrices, not the shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.ones(3))], lr=0.1)
