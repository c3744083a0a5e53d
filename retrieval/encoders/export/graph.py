"""A whole encoder, from token ids to final vectors, as one graph that other libraries run."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim, ExportedProgram
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from retrieval.encoders.dense import DenseEncoder
from retrieval.encoders.export.check import PROBES, largest_difference
from retrieval.encoders.export.inputs import (
    SETTINGS,
    graph_inputs,
    input_settings,
    save_tokenizer,
)
from retrieval.encoders.multi_vector import MultiVectorEncoder
from retrieval.encoders.tokens import Role
from retrieval.errors import ExportError
from retrieval.files import write_json

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]

INPUTS = ("input_ids", "attention_mask")

# Of a component, float32: another order of additions moves it by some 1e-6.
TOLERANCE = 1e-4

_ATTENTION = "retrieval_export"

# Blanks and the empty text besides: the files beside the graph say how they are treated.
_TEXTS = (*PROBES, "", "  two blanks before, a tab\tand a newline after\n")


class ScoredTokens(torch.nn.Module):
    """A MultiVectorMask for documents as one look-up, because no exporter knows `torch.isin`."""

    def __init__(self, mask: Any, vocabulary: int) -> None:
        super().__init__()
        ids = torch.arange(vocabulary)[None]
        features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        scored = mask(features, task="document")["attention_mask"][0].long()
        self.register_buffer("is_scored", scored)
        self.is_scored: Tensor

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Zero the attention mask at the tokens that are not scored."""
        scored = self.is_scored[features["input_ids"]]
        return {**features, "attention_mask": features["attention_mask"] * scored}


class TextGraph(torch.nn.Module):
    """Backbone, pooling, projections, Matryoshka width and normalisation in one forward."""

    def __init__(self, model: Any, width: int, *, is_normalized: bool) -> None:
        super().__init__()
        self.backbone = model[0].auto_model
        vocabulary = self.backbone.get_input_embeddings().num_embeddings
        self.following = torch.nn.ModuleList(
            ScoredTokens(module, vocabulary) if hasattr(module, "skiplist_words") else module
            for module in list(model)[1:]
        )
        self.width = width
        self.is_normalized = is_normalized

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Vectors of a padded batch.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T) int64, 1 for what the text attends to.

        Returns:
            (B, D) sentence embeddings, or (B, T, D) token embeddings and (B, T) int64, 1 for the
            tokens that are scored if the text is a document.
        """
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
        features: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_embeddings": states.last_hidden_state,
        }
        for module in self.following:
            features = module(features)
        if "sentence_embedding" in features:
            embedding = features["sentence_embedding"][:, : self.width]
            if self.is_normalized:
                embedding = torch.nn.functional.normalize(embedding, p=2, dim=1)
            return (embedding,)
        return features["token_embeddings"], features["attention_mask"]


def write_graph(
    encoder: DenseEncoder | MultiVectorEncoder,
    folder: Path,
    *,
    file: str,
    packages: Sequence[str],
    save: Callable[[ExportedProgram, list[str], Path], None],
    load: Callable[[Path], Run],
) -> float:
    """Trace, save, run what was saved on probe texts, and describe it in `retrieval_export.json`.

    Args:
        encoder: whose model is copied to the processor in float32; itself it stays as it is.
        folder: an empty one.
        file: the name of the graph.
        packages: whose versions are noted beside torch and transformers.
        save: writes a program with the names of its outputs.
        load: opens the file again and gives a function from inputs to outputs.

    Returns:
        The largest absolute difference between the components of the vectors.

    Raises:
        ExportError: the model has a part that the graph can't hold, or the vectors differ.
    """
    model: Any = encoder.model
    _check_modules(model)
    model = copy.deepcopy(model).to("cpu").float().eval()
    on_cpu: DenseEncoder | MultiVectorEncoder
    if isinstance(encoder, DenseEncoder):
        on_cpu, outputs = DenseEncoder(model, normalize=encoder.normalize), ["sentence_embedding"]
        graph = TextGraph(model, encoder.width, is_normalized=encoder.normalize)
    else:
        on_cpu, outputs = MultiVectorEncoder(model), ["token_embeddings", "document_mask"]
        graph = TextGraph(model, encoder.width, is_normalized=False)
    program = _trace(model, graph)
    save(program, outputs, folder / file)
    save_tokenizer(encoder, folder)
    settings = {
        "file": file,
        "kind": "multi_vector" if encoder.is_multi_vector else "dense",
        "model": encoder.reference._asdict(),
        "inputs": list(INPUTS),
        "outputs": outputs,
        **input_settings(on_cpu),
        "versions": {each: version(each) for each in ("torch", "transformers", *packages)},
    }
    write_json(folder / SETTINGS, settings)
    run = load(folder / file)

    def encode(texts: Sequence[str], role: Role) -> list[NDArray[np.float32]]:
        return run_graph(run, folder, texts, role)

    difference = largest_difference(on_cpu, encode, tolerance=TOLERANCE, texts=_TEXTS)
    checked = {"max_difference": difference, "tolerance": TOLERANCE}
    write_json(folder / SETTINGS, {**settings, "checked": checked})
    return difference


def run_graph(
    run: Run, folder: Path, texts: Sequence[str], role: Role
) -> list[NDArray[np.float32]]:
    """The vectors of texts by an exported graph, in one batch."""
    inputs = graph_inputs(folder, texts, role)
    outputs = run(dict(inputs.arrays))
    if "sentence_embedding" in outputs:
        return list(outputs["sentence_embedding"])
    is_scored = inputs.is_token
    if role == "document":
        is_scored = outputs["document_mask"].astype(bool)
    vectors = outputs["token_embeddings"]
    return [each[keep] for each, keep in zip(vectors, is_scored, strict=True)]


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in which a token that may see nothing gets zeros, as from torch's SDPA.

    Query expansion far from its query is such a token in a local layer. transformers' eager
    attention gives it the mean of all values there, and so do the exporters for SDPA.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BHTT = query @ key.transpose(2, 3) * scale
    if attention_mask is None:
        weights_BHTT = scores_BHTT.softmax(-1)
    else:
        weights_BHTT = (scores_BHTT + attention_mask).softmax(-1) * (attention_mask == 0)
    return (weights_BHTT @ value).transpose(1, 2).contiguous(), None


def _trace(model: Any, graph: TextGraph) -> ExportedProgram:
    backbone = model[0].auto_model
    AttentionInterface.register(_ATTENTION, _attention)
    AttentionMaskInterface.register(_ATTENTION, eager_mask)
    ids = torch.full((2, 12), model.tokenizer.cls_token_id or 0)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    shape = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    before = backbone.config._attn_implementation
    try:
        backbone.set_attn_implementation(_ATTENTION)
        with torch.no_grad(), quiet():
            return torch.export.export(graph.eval(), (ids, mask), dynamic_shapes=(shape, shape))
    except (RuntimeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        raise ExportError(
            f"torch can't trace {type(backbone).__name__}: {first_line(error)}"
        ) from error
    finally:
        backbone.set_attn_implementation(before)


def first_line(error: Exception) -> str:
    """What an error of a library has to say in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what tracing and converting say about their own insides."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _check_modules(model: Any) -> None:
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

    fitting = (Dense, Dropout, LayerNorm, MultiVectorMask, Normalize, Pooling)
    for module in list(model)[1:]:
        if type(module) not in fitting:
            raise ExportError(f"no part of a graph of token ids and masks: {module}")
        if type(module) is Pooling and not module.include_prompt:
            raise ExportError(
                "the pooling leaves out the prompt, whose length the graph isn't told"
            )
        if type(module) is MultiVectorMask and "query" in module.skiplist_tasks:
            raise ExportError(
                "the graph has a skiplist for documents, this model has one for queries"
            )
