"""Checkpoints for PyLate, without PyLate: what it reads is there, and nothing is lost."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.encoders.export import export_model
from retrieval.errors import ConfigError, ExportError
from tests.with_pylate.export_cases import CASES, OTHER_FINGERPRINT

TOLERANCE = 1e-5  # float32, unit length


@pytest.mark.parametrize("name", CASES)
def test_the_export_gives_the_vectors_and_the_fingerprint_of_the_model(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "backbone").mkdir()
    encoder, queries, documents = CASES[name](tmp_path / "backbone")
    done = export_model(encoder, tmp_path / "pylate", to="pylate")
    copy = MultiVectorEncoder.load(tmp_path / "pylate", device="cpu")
    pairs = [
        *zip(encoder.encode_queries(queries), copy.encode_queries(queries), strict=True),
        *zip(encoder.encode_documents(documents), copy.encode_documents(documents), strict=True),
    ]
    assert [len(theirs) for _, theirs in pairs] == [len(ours) for ours, _ in pairs]
    assert max(np.abs(ours - theirs).max(initial=0) for ours, theirs in pairs) <= TOLERANCE
    assert done.max_difference <= TOLERANCE
    same = copy.reference.fingerprint == encoder.reference.fingerprint
    assert same == (name not in OTHER_FINGERPRINT)


def test_pylate_finds_its_settings_and_classes(tiny_backbone: Path, tmp_path: Path) -> None:
    encoder = MultiVectorEncoder.from_backbone(
        tiny_backbone, width=16, query_length=20, document_length=30, attend_to_expansion=True
    )
    export_model(encoder, tmp_path / "pylate", to="pylate")

    def read(name: str) -> Any:
        return json.loads((tmp_path / "pylate" / name).read_text("utf-8"))

    assert read("config_sentence_transformers.json") == {
        "model_type": "ColBERT",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 20,
        "document_length": 30,
        "do_query_expansion": True,
        "attend_to_expansion_tokens": True,
        "skiplist_words": list(string.punctuation),
    }
    assert [(each["path"], each["type"]) for each in read("modules.json")] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Dense", "pylate.models.Dense.Dense"),
    ]
    assert read("1_Dense/config.json") == {
        "in_features": 32,
        "out_features": 16,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    }


def test_a_prompt_is_an_inserted_token_where_that_gives_the_same_ids(tmp_path: Path) -> None:
    (tmp_path / "backbone").mkdir()
    case = CASES["prompts"](tmp_path / "backbone")
    export_model(case.encoder, tmp_path / "pylate", to="pylate")
    path = tmp_path / "pylate" / "config_sentence_transformers.json"
    settings = json.loads(path.read_text("utf-8"))
    assert (settings["query_prefix"], settings["document_prefix"]) == ("", "[D] ")
    assert settings["prompts"] == {"query": "search_query: ", "document": "search_document: "}


Change = Callable[[Any], None]


def expand_at_least(model: Any) -> None:
    model[0].query_expansion = {"strategy": "min", "attend": True, "length": 8}


def expand_with_another_token(model: Any) -> None:
    model[0].query_expansion = {
        "strategy": "fixed", "attend": False, "length": 8, "token": "[PAD]",
    }  # fmt: skip


def skip_words_of_queries(model: Any) -> None:
    model[2].skiplist_tasks = ["query", "document"]


def leave_out_normalisation(model: Any) -> None:
    del model[3]


def leave_out_projection(model: Any) -> None:
    del model[1]


def leave_out_scoring_mask(model: Any) -> None:
    del model[2]


def project_after_normalisation(model: Any) -> None:
    model.append(Dense(16, 16, module_input_name="token_embeddings"))


def normalise_sentences(model: Any) -> None:
    model[3] = Normalize()


def pool_tokens(model: Any) -> None:
    model.append(HierarchicalTokenPooling(pool_factor=2))


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def activate_by_own_function(model: Any) -> None:
    model[1].activation_function = Doubled()


def forget_every_limit(model: Any) -> None:
    model[0].document_length = None
    model.tokenizer.model_max_length = int(1e30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (expand_at_least, "this model has the expansion strategy 'min'"),
        (expand_with_another_token, r"with the mask token, this model with '\[PAD\]'"),
        (skip_words_of_queries, r"skiplist_tasks \['query', 'document'\]"),
        (leave_out_normalisation, "PyLate normalises every vector"),
        (leave_out_projection, "would add a random projection"),
        (leave_out_scoring_mask, "PyLate scores the expansion tokens"),
        (project_after_normalisation, "in this order: no place for Dense"),
        (normalise_sentences, "no place for Normalize"),
        (pool_tokens, "no place for HierarchicalTokenPooling"),
        (activate_by_own_function, r"activations of torch\.nn only: not .*Doubled"),
        (forget_every_limit, r"set model\[0\]\.document_length first"),
    ],
)
def test_what_pylate_has_no_place_for_is_refused_and_leaves_nothing(
    tiny_backbone: Path, tmp_path: Path, change: Change, message: str
) -> None:
    encoder = MultiVectorEncoder.from_backbone(tiny_backbone, width=16)
    change(encoder.model)
    with pytest.raises(ExportError, match=message):
        export_model(encoder, tmp_path / "pylate", to="pylate")
    assert list(tmp_path.iterdir()) == []


def test_a_dense_model_is_refused(tiny_backbone: Path, tmp_path: Path) -> None:
    encoder = DenseEncoder.from_backbone(tiny_backbone)
    with pytest.raises(ExportError, match="PyLate holds multi-vector models only"):
        export_model(encoder, tmp_path / "pylate", to="pylate")


def test_the_model_itself_is_not_overwritten(tiny_backbone: Path, tmp_path: Path) -> None:
    encoder = MultiVectorEncoder.from_backbone(tiny_backbone, width=16)
    encoder.save(tmp_path / "model")
    with pytest.raises(ConfigError, match="is the model itself"):
        export_model(encoder, tmp_path / "model", to="pylate", overwrite=True)
