"""ONNX Runtime and OpenVINO give our vectors from the exported files alone."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from retrieval import DenseEncoder, MultiVectorEncoder
from retrieval.backbone.scratch import BackboneSettings, create_backbone
from retrieval.encoders.export import Export, export_model
from retrieval.encoders.export.graph import Run, run_graph
from retrieval.encoders.tokens import Role
from retrieval.errors import ExportError, MissingExtraError

TOLERANCE = 1e-4  # what an export promises; 1e-6 is usual

WORDS = ["def", "f(x):", "return", "read", "a", "file", "the", "path", "of", "(or", "folder)"]


class Exported(NamedTuple):
    """An encoder and what was made from it."""

    encoder: DenseEncoder | MultiVectorEncoder
    export: Export
    run: Run


def random_texts(count: int, longest: int) -> list[str]:
    """Texts of 0 to `longest` words, evenly spread."""
    chosen = random.Random(0)
    lengths = [round(longest * at / (count - 1)) for at in range(count)]
    return [" ".join(chosen.choices(WORDS, k=length)) for length in lengths]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One global and two local layers, whose window of 64 tokens to each side is ModernBERT's.

    Its weights are larger than a new model's, so that attention differs from a mean.
    """
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("backbone")
    settings = BackboneSettings(
        vocabulary_size=300, hidden_size=32, intermediate_size=48, layers=3, heads=2
    )
    create_backbone(folder, [" ".join(WORDS)] * 10, settings)
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim == 2 and "embeddings" not in name:
                weights.mul_(10)
    model.save_pretrained(folder)
    return folder


def dense(backbone: Path) -> DenseEncoder:
    return DenseEncoder.from_backbone(
        backbone, width=16, query_prefix="find: ", query_length=20, document_length=300
    )


def multi_vector(backbone: Path) -> MultiVectorEncoder:
    """Expansion as far from the query as a local layer can't see."""
    return MultiVectorEncoder.from_backbone(
        backbone, width=16, query_length=120, document_length=300, skiplist=["("]
    )


def minilm(path: Path) -> DenseEncoder:
    """Cut, and so brought to unit length again."""
    return DenseEncoder.load(path, device="cpu", width=96)


MODELS: dict[str, Callable[[Path], Any]] = {
    "dense": dense,
    "multi-vector": multi_vector,
    "minilm": minilm,
}


@pytest.fixture(
    scope="module",
    params=[(target, name) for target in ("onnx", "openvino") for name in MODELS],
    ids="-".join,
)
def exported(
    request: pytest.FixtureRequest,
    backbone: Path,
    minilm_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    target, name = request.param
    encoder = MODELS[name](minilm_path if name == "minilm" else backbone)
    output = tmp_path_factory.mktemp("export") / "model"
    if target == "onnx":
        from retrieval.encoders.export.onnx_model import load_onnx

        done = export_model(encoder, output, to="onnx")
        return Exported(encoder, done, load_onnx(output / "model.onnx"))
    pytest.importorskip("openvino", reason="needs the extra openvino")
    from retrieval.encoders.export.openvino_model import load_openvino

    done = export_model(encoder, output, to="openvino")
    return Exported(encoder, done, load_openvino(output / "model.xml"))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("role", ["query", "document"])
def test_the_graph_gives_our_vectors_at_every_length(
    exported: Exported, role: Role, batch_size: int
) -> None:
    encoder, export, run = exported
    texts = random_texts(12 if "minilm" in export.model.name else 45, 240)
    encode = encoder.encode_queries if role == "query" else encoder.encode_documents
    expected = list(encode(texts))
    batches = [texts[at : at + batch_size] for at in range(0, len(texts), batch_size)]
    found = [each for batch in batches for each in run_graph(run, export.folder, batch, role)]
    assert [each.shape for each in found] == [each.shape for each in expected]
    assert max(np.abs(a - b).max(initial=0) for a, b in zip(found, expected)) <= TOLERANCE
    if role == "document" and encoder.is_multi_vector:
        assert max(len(each) for each in expected) > 200  # with what the skiplist left out, 300


def test_a_single_token_is_a_batch_too(exported: Exported) -> None:
    encoder, _, run = exported
    ids = torch.tensor([[encoder.model.tokenizer.cls_token_id]])
    with torch.inference_mode():
        features = encoder.model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    outputs = run({"input_ids": ids.numpy(), "attention_mask": np.ones((1, 1), np.int64)})
    name = "token_embeddings" if encoder.is_multi_vector else "sentence_embedding"
    expected = features[name][..., : encoder.width]
    if isinstance(encoder, DenseEncoder) and encoder.normalize:
        expected = torch.nn.functional.normalize(expected, dim=-1)
    assert np.abs(outputs[name] - expected.numpy()).max() <= TOLERANCE


def test_the_settings_beside_the_graph_name_its_origin(exported: Exported) -> None:
    encoder, export, _ = exported
    settings = json.loads((export.folder / "retrieval_export.json").read_text("utf-8"))
    assert settings["model"] == encoder.reference._asdict()
    assert settings["checked"]["max_difference"] == export.max_difference <= TOLERANCE
    assert settings["model"]["width"] == encoder.width
    sizes = [path.stat().st_size for path in export.folder.iterdir()]
    assert export.size_bytes == sum(sizes)
    assert (export.folder / settings["file"]).is_file()


def test_the_exported_model_stays_as_it_was(exported: Exported) -> None:
    model: Any = exported.encoder.model
    assert model[0].auto_model.config._attn_implementation == "sdpa"
    again = type(exported.encoder)(model).reference.fingerprint
    assert again == exported.export.model.fingerprint


@pytest.mark.slow
def test_a_model_in_bfloat16_is_exported_in_float32_and_stays_as_it_was(
    backbone: Path, tmp_path: Path
) -> None:
    model: Any = dense(backbone).model.to(torch.bfloat16)
    before = DenseEncoder(model).reference.fingerprint
    export_model(DenseEncoder(model), tmp_path / "onnx", to="onnx")
    assert model.dtype == torch.bfloat16
    assert DenseEncoder(model).reference.fingerprint == before


def leave_out_the_prompt(model: Any) -> None:
    model[1].include_prompt = False


def add_a_recurrent_layer(model: Any) -> None:
    from sentence_transformers.sentence_transformer.modules import LSTM

    model.insert(1, LSTM(32, 8))


def skip_words_of_queries(model: Any) -> None:
    model[2].skiplist_tasks = ["query"]


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (dense, leave_out_the_prompt, "leaves out the prompt"),
        (dense, add_a_recurrent_layer, "no part of a graph of token ids and masks: LSTM"),
        (multi_vector, skip_words_of_queries, "this model has one for queries"),
    ],
)
def test_what_a_graph_can_not_hold_is_refused_and_leaves_nothing(
    backbone: Path,
    tmp_path: Path,
    make: Callable[[Path], Any],
    change: Callable[[Any], None],
    message: str,
) -> None:
    encoder = make(backbone)
    change(encoder.model)
    with pytest.raises(ExportError, match=message):
        export_model(encoder, tmp_path / "onnx", to="onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("extra", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_extra_is_named(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: Any, package: str
) -> None:
    monkeypatch.delitem(sys.modules, f"retrieval.encoders.export.{extra}_model", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "modernbert-retrieval\[{extra}\]"'):
        export_model(dense(backbone), tmp_path / "export", to=extra)
    assert list(tmp_path.iterdir()) == []
