"""The packed forward is the padded one of transformers, in values and in gradients."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.backbone import onednn
from retrieval.backbone.modernbert import PackedModernBert
from retrieval.backbone.packing import pack
from retrieval.errors import ConfigError

LENGTHS = [1, 2, 3, 17, 63, 64, 65, 66, 127, 128, 129, 130, 257]
TOLERANCE = 1e-4  # float32, of states of unit variance; sums in another order give some 1e-6
MIN_COSINE = 0.999  # bfloat16 keeps 8 bits

PATHS = ["auto", "sdpa", "varlen", "flash"]


def packed_states(model: Any, ids: list[list[int]], attention: str = "auto") -> Tensor:
    return PackedModernBert(model, attention=attention)(pack(ids))  # type: ignore[arg-type]


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("attention", PATHS)
def test_states_are_those_of_the_padded_model(
    make_model: Any, token_ids: Any, padded_states: Any, attention: str
) -> None:
    model, ids = make_model(), token_ids(LENGTHS)
    with torch.no_grad():
        expected = padded_states(model, ids)
        found = packed_states(model, ids, attention)
    assert float(expected.std()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("layers", [1, 3])
def test_wanted_tokens_have_the_states_and_gradients_that_they_have_among_all(
    make_model: Any, token_ids: Any, attention: str, layers: int
) -> None:
    model, batch = make_model(num_hidden_layers=layers), pack(token_ids(LENGTHS))
    packed = PackedModernBert(model, attention=attention)  # type: ignore[arg-type]
    wanted = torch.tensor([3, 0, *range(200, 300), 3])

    def states_and_gradients(of: Tensor | None) -> list[Tensor]:
        with torch.no_grad():
            inferred = packed(batch, of)
        model.zero_grad()
        states = packed(batch, of)
        if of is None:
            inferred, states = inferred[wanted], states[wanted]
        torch.autograd.backward(states.square().sum())
        return [inferred, states.detach(), *(each.grad for each in model.parameters())]

    for found, right in zip(states_and_gradients(wanted), states_and_gradients(None), strict=True):
        torch.testing.assert_close(found, right, atol=TOLERANCE, rtol=TOLERANCE)


def test_eight_thousand_tokens_are_those_of_the_padded_model(
    make_model: Any, token_ids: Any, padded_states: Any
) -> None:
    model = make_model(num_hidden_layers=2, num_attention_heads=1)
    lengths = [8_192, 1, 700]
    ids = token_ids(lengths)
    with torch.no_grad():
        # One by one: padded together they take gigabytes.
        expected = torch.cat([padded_states(model, [one]) for one in ids])
        for attention in ("auto", "sdpa"):
            found = packed_states(model, ids, attention)
            torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("attention", PATHS)
def test_bfloat16_keeps_every_tokens_direction(
    make_model: Any, token_ids: Any, padded_states: Any, attention: str
) -> None:
    model, ids = make_model(), token_ids([*LENGTHS, 600])
    with torch.no_grad():
        expected = padded_states(model, ids)
        found = packed_states(model.to(torch.bfloat16), ids, attention)
    assert found.dtype == torch.bfloat16
    assert float(F.cosine_similarity(found.double(), expected.double()).min()) >= MIN_COSINE


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 40, "intermediate_size": 37, "num_attention_heads": 2},
        {"hidden_size": 96, "intermediate_size": 100, "num_attention_heads": 1},
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True},
        {"local_attention": 10},
        {"hidden_activation": "relu"},
    ],
    ids=["head 20", "head 96", "biases", "narrow window", "relu"],
)
@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_other_shapes_agree_too(
    make_model: Any,
    token_ids: Any,
    padded_states: Any,
    settings: dict[str, Any],
    attention: str,
) -> None:
    model, ids = make_model(**settings), token_ids(LENGTHS)
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at zero
            if parameter.dim() == 1:
                parameter.add_(torch.linspace(-0.5, 0.5, len(parameter)))
        expected = padded_states(model, ids)
        found = packed_states(model, ids, attention)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("training", [False, True])
def test_tokens_that_only_look_agree_too(
    make_model: Any, token_ids: Any, padded_states: Any, attention: str, training: bool
) -> None:
    model = make_model(attention="sdpa", local_attention=10).train(training)
    key_lengths = [1, 4, 9, 30, 2]
    ids = token_ids([1, 32, 32, 32, 5])
    expected = padded_states(model, ids, key_lengths).detach()
    with torch.set_grad_enabled(training):
        found = PackedModernBert(model, attention=attention)(  # type: ignore[arg-type]
            pack(ids, key_lengths)
        )
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_the_batch_around_a_sequence_changes_nothing(
    make_model: Any, token_ids: Any, attention: str
) -> None:
    model, ids = make_model(), token_ids(LENGTHS)
    with torch.no_grad():
        together = torch.split(packed_states(model, ids, attention), LENGTHS)
        backwards = torch.split(packed_states(model, ids[::-1], attention), LENGTHS[::-1])
        for one, first, second in zip(ids, together, backwards[::-1], strict=True):
            alone = packed_states(model, [one], attention)
            torch.testing.assert_close(first, alone, atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(second, alone, atol=TOLERANCE, rtol=0)


def checkpoint_layers(model: Any) -> None:
    """As `gradient_checkpointing_enable` of transformers does, which renames it in 5.23."""
    for layer in model.layers:
        layer.gradient_checkpointing = True


def gradients(model: Any, states: Tensor, lengths: list[int]) -> dict[str, Tensor]:
    """Of a contrastive loss over the sequences' means, first half against second."""
    means = F.normalize(
        torch.stack([each.mean(0) for each in torch.split(states, lengths)]), dim=-1
    )
    half = len(lengths) // 2
    scores = means[:half] @ means[half : 2 * half].T * 20
    model.zero_grad()
    torch.autograd.backward(F.cross_entropy(scores, torch.arange(half)))
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.usefixtures("kernels_on_cpu")
@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_padded_model(
    make_model: Any, token_ids: Any, padded_states: Any, attention: str, checkpointing: bool
) -> None:
    lengths = [9, 1, 70, 130, 4, 64, 2, 129]
    model, ids = make_model().train(), token_ids(lengths)
    expected = gradients(model, padded_states(model, ids), lengths)
    if checkpointing:
        checkpoint_layers(model)
    found = gradients(model, packed_states(model, ids, attention), lengths)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in expected.items():
        error = float((found[name] - gradient).norm() / gradient.norm())
        assert error < 1e-4, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_torch_without_onednns_layers_gives_the_same(
    make_model: Any,
    token_ids: Any,
    padded_states: Any,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("this torch has no such operator")

    monkeypatch.setattr(onednn, "is_available", lambda dtype: False)
    for name in ("pack", "linear", "linear_plus"):
        monkeypatch.setattr(onednn, name, refuse)
    lengths = [9, 1, 70, 130, 4, 64, 2, 129]
    model, ids = make_model(mlp_bias=True).train(), token_ids(lengths)
    states = padded_states(model, ids)
    expected = gradients(model, states, lengths)
    # Under autocast numbers are rounded, and what many tokens share adds up.
    most = 1e-4 if dtype == torch.float32 else 0.1
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        found = gradients(model, packed_states(model, ids).float(), lengths)
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) < most, name
    with torch.no_grad():
        inferred = packed_states(model.eval().to(dtype), ids)
    assert float(F.cosine_similarity(inferred.float(), states.detach()).min()) >= MIN_COSINE


def test_checkpointing_keeps_no_activations_of_the_layers_that_ask_for_it(
    make_model: Any, token_ids: Any
) -> None:
    model, ids = make_model().train(), token_ids([200] * 4)

    def saved_bytes() -> int:
        total = 0

        def pack_hook(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
            packed_states(model, ids)
        return total

    every = saved_bytes()
    checkpoint_layers(model)
    none = saved_bytes()
    model.layers[0].gradient_checkpointing = False
    assert none < saved_bytes() < every


def test_training_runs_without_a_warning(make_model: Any, token_ids: Any) -> None:
    model, ids = make_model().train(), token_ids([5, 9])
    checkpoint_layers(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.autograd.backward(packed_states(model, ids).sum())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_runs_in_training_only_and_repeats_with_the_seed(
    make_model: Any, token_ids: Any, checkpointing: bool
) -> None:
    rates = {f"{part}_dropout": 0.2 for part in ("attention", "mlp", "embedding")}
    model, ids = make_model(**rates).train(), token_ids([40, 90, 3])
    if checkpointing:
        checkpoint_layers(model)

    def run(seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        states = packed_states(model, ids)
        model.zero_grad()
        torch.autograd.backward(states.square().sum())
        return states.detach(), model.layers[1].attn.Wqkv.weight.grad.clone()

    first, again, other = run(0), run(0), run(1)
    assert all(map(torch.equal, first, again))
    assert not torch.allclose(first[0], other[0], atol=1e-2)
    model.eval()
    with torch.no_grad():
        assert torch.equal(packed_states(model, ids), packed_states(model, ids))


def test_attention_dropout_alone_changes_the_states(make_model: Any, token_ids: Any) -> None:
    model, ids = make_model(attention_dropout=0.3).train(), token_ids([40, 90])
    for layer in model.layers:
        layer.attn.out_drop.p = 0.0  # it has the same rate
    with torch.no_grad():
        assert (packed_states(model, ids) - packed_states(model, ids)).abs().max() > 0.01


def test_autocast_runs_the_products_in_bfloat16_and_keeps_the_residual_stream(
    make_model: Any, token_ids: Any, padded_states: Any
) -> None:
    model, ids = make_model().train(), token_ids(LENGTHS)
    expected = padded_states(model, ids).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = packed_states(model, ids)
        reference = padded_states(model, ids)
    assert found.dtype == reference.dtype
    cosines = F.cosine_similarity(found.double(), expected.double())
    assert MIN_COSINE <= float(cosines.detach().min()) < 1 - 1e-7
    torch.autograd.backward(found.float().sum())
    assert model.layers[0].attn.Wqkv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("checkpointing", [False, True])
def test_twenty_training_steps_give_the_padded_models_losses(
    make_model: Any, token_ids: Any, padded_states: Any, checkpointing: bool
) -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 100, (20, 16)).tolist()
    losses: dict[bool, list[float]] = {}
    for is_packed in (False, True):
        model = make_model().train()
        if checkpointing and is_packed:
            checkpoint_layers(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses[is_packed] = []
        for step, each in enumerate(lengths):
            ids = token_ids(each, seed=step)
            ids[8:] = [[*question, *text] for question, text in zip(ids[:8], ids[8:])]
            sizes = [len(one) for one in ids]
            states = packed_states(model, ids) if is_packed else padded_states(model, ids)
            means = torch.stack([one.mean(0) for one in torch.split(states, sizes)])
            scores = F.normalize(means[:8], dim=-1) @ F.normalize(means[8:], dim=-1).T * 20
            loss = F.cross_entropy(scores, torch.arange(8))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses[is_packed].append(loss.item())
    assert losses[True] == pytest.approx(losses[False], abs=1e-3)
    assert np.mean(losses[True][-5:]) < np.mean(losses[True][:5])


def test_another_architecture_is_refused() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8, vocab_size=9
    )
    with pytest.raises(ConfigError, match="BertModel is no ModernBERT"):
        PackedModernBert(BertModel(config))


def test_an_attention_that_does_not_run_here_is_refused(make_model: Any, token_ids: Any) -> None:
    with pytest.raises(ConfigError, match="runs on a CUDA device, not on cpu"):
        packed_states(make_model(), token_ids([3]), "varlen")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("attention", ["auto", "varlen", "flash", "sdpa"])
@pytest.mark.parametrize("key_lengths", [None, LENGTHS[::-1]], ids=["all", "some"])
def test_a_gpu_gives_the_same_states(
    make_model: Any,
    token_ids: Any,
    padded_states: Any,
    attention: str,
    key_lengths: list[int] | None,
) -> None:
    if attention == "flash":
        pytest.importorskip("flash_attn")
    model, ids = make_model(attention="sdpa"), token_ids(LENGTHS)
    if key_lengths is not None:
        key_lengths = [min(pair) for pair in zip(key_lengths, LENGTHS)]
    with torch.no_grad():
        expected = padded_states(model, ids, key_lengths)
        model.to("cuda", torch.bfloat16)
        batch = pack(ids, key_lengths, device="cuda")
        found = PackedModernBert(model, attention=attention)(batch)  # type: ignore[arg-type]
    cosines = F.cosine_similarity(found.cpu().double(), expected.double())
    assert float(cosines.min()) >= MIN_COSINE
