"""A run starts from a backbone or from a trained retriever, and no setting is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.errors import ConfigError
from retrieval.training.starting_models import (
    DenseModelSettings,
    MultiVectorModelSettings,
    starting_dense,
    starting_multi_vector,
)


def test_a_trained_retriever_keeps_its_lengths_unless_the_recipe_names_others(
    tiny_backbone: Path, tmp_path: Path
) -> None:
    DenseEncoder.from_backbone(tiny_backbone, query_length=7, document_length=9).save(
        tmp_path / "dense"
    )
    MultiVectorEncoder.from_backbone(tiny_backbone, query_length=7, document_length=9).save(
        tmp_path / "colbert"
    )
    for given, expected in ((None, 9), (12, 12)):
        dense = DenseModelSettings(backbone=str(tmp_path / "dense"), document_length=given)
        transformer: Any = starting_dense(dense, 0).model[0]
        assert (transformer.query_length, transformer.document_length) == (7, expected)
        colbert = MultiVectorModelSettings(
            backbone=str(tmp_path / "colbert"), document_length=given
        )
        transformer = starting_multi_vector(colbert, 0).model[0]
        assert (transformer.query_length, transformer.document_length) == (7, expected)


def test_a_backbone_gets_the_usual_lengths_and_the_prefixes_of_the_recipe(
    tiny_backbone: Path,
) -> None:
    settings = DenseModelSettings(
        backbone=str(tiny_backbone), query_prefix="search_query: ", document_prefix="doc: "
    )
    dense: Any = starting_dense(settings, 0).model
    assert (dense[0].query_length, dense[0].document_length) == (64, 512)
    assert dense.prompts == {"query": "search_query: ", "document": "doc: "}
    plain = MultiVectorModelSettings(backbone=str(tiny_backbone))
    colbert: Any = starting_multi_vector(plain, 0).model
    assert (colbert[0].query_length, colbert[0].document_length) == (32, 180)


def test_settings_that_a_trained_retriever_would_pass_over_are_refused(
    tiny_backbone: Path, tmp_path: Path
) -> None:
    DenseEncoder.from_backbone(tiny_backbone).save(tmp_path / "dense")
    settings = DenseModelSettings(
        backbone=str(tmp_path / "dense"), width=8, query_prefix="search_query: "
    )
    with pytest.raises(ConfigError, match="has its own width, query_prefix: leave them out"):
        starting_dense(settings, 0)
