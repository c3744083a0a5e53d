"""Make tiny ColBERT checkpoints with PyLate 1.6, and the embeddings that PyLate computes for them.

    .venv-pylate/bin/python -m tests.with_pylate.make_reference tests/fixtures

Runs where PyLate runs (see `make test-pylate`): 2 CPU cores, 10 seconds, 1 MB. Each folder that it
writes holds `checkpoint/`, the texts in `reference.json`, and their embeddings in
`embeddings.safetensors`. The default tests compare against the committed ones without PyLate.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pylate.models import ColBERT, Dense
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors
from sentence_transformers.models import Transformer  # type: ignore[import-not-found]

from retrieval.encoders.multi_vector import MultiVectorEncoder
from tests.with_pylate.backbones import make_bert, make_modernbert
from tests.with_pylate.texts import DOCUMENTS, QUERIES

SEED = 20260218
WIDTH = 32
BATCH_SIZE = 5  # below the number of texts, so that they are padded in several batches


def make_default(backbone: Path, folder: Path) -> None:
    """PyLate's own settings: expansion tokens are scored but not attended to."""
    _save(ColBERT(str(backbone), embedding_size=WIDTH, device="cpu"), folder)


def make_attending(backbone: Path, folder: Path) -> None:
    """Query expansion that the query's own tokens see."""
    model = ColBERT(
        str(backbone), embedding_size=WIDTH, attend_to_expansion_tokens=True, device="cpu"
    )
    _save(model, folder)


def make_unexpanded(backbone: Path, folder: Path) -> None:
    """No expansion; prefixes, lengths and skiplist differ from PyLate's own, with a bias."""
    model = ColBERT(
        str(backbone),
        embedding_size=WIDTH,
        bias=True,
        query_prefix="search_query: ",
        document_prefix="",
        query_length=24,
        document_length=50,
        do_query_expansion=False,
        skiplist_words=[",", "Ġthe", "Ġof", "no-such-token"],
        device="cpu",
    )
    _save(model, folder)


def make_prompted(backbone: Path, folder: Path) -> None:
    """Prompts after the prefixes, as in ColBERT-Zero, and two projections, one with a residual."""
    transformer = Transformer(str(backbone))
    model = ColBERT(
        modules=[
            transformer,
            Dense(transformer.get_word_embedding_dimension(), 40, bias=False, use_residual=True),
            Dense(40, WIDTH, bias=False),
        ],
        prompts={"query": "search_query: ", "document": "search_document: "},
        query_length=40,
        document_length=64,
        device="cpu",
    )
    _save(model, folder)


def make_stanford(backbone: Path, folder: Path) -> None:
    """The layout of colbert-ir/colbertv2.0: a BERT and `linear.weight` in one file."""
    transformer = Transformer(str(backbone))
    weights = {f"bert.{name}": each for name, each in transformer.auto_model.state_dict().items()}
    hidden = transformer.get_word_embedding_dimension()
    weights["linear.weight"] = torch.randn(WIDTH, hidden) * hidden**-0.5
    transformer.tokenizer.save_pretrained(folder)
    config = transformer.auto_model.config.to_diff_dict()
    config = {**config, "architectures": ["HF_ColBERT"], "_name_or_path": "tiny"}
    _write_json(folder / "config.json", config)
    save_tensors(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    metadata = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_token": "[Q]",
        "doc_token": "[D]",
        "dim": WIDTH,
        "similarity": "cosine",
        "query_maxlen": 28,
        "doc_maxlen": 90,
        "attend_to_mask_tokens": False,
        "mask_punctuation": True,
    }
    _write_json(folder / "artifact.metadata", metadata)


VARIANTS: dict[str, tuple[Callable[[Path], None], Callable[[Path, Path], None]]] = {
    "pylate-default": (make_modernbert, make_default),
    "pylate-attending": (make_modernbert, make_attending),
    "pylate-unexpanded": (make_modernbert, make_unexpanded),
    "pylate-prompted": (make_modernbert, make_prompted),
    "pylate-bert": (make_bert, make_default),
    "stanford-bert": (make_bert, make_stanford),
}


def make_reference(folder: Path, name: str) -> None:
    """Write one variant's checkpoint, texts and embeddings; an older one is replaced."""
    make_backbone, make_checkpoint = VARIANTS[name]
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as backbone:
        make_backbone(Path(backbone))
        make_checkpoint(Path(backbone), checkpoint)
    model = ColBERT(str(checkpoint), device="cpu")
    queries = encode(model, QUERIES, is_query=True)
    documents = encode(model, DOCUMENTS, is_query=False)
    arrays = {**_flatten("query", queries), **_flatten("document", documents)}
    save_arrays(arrays, folder / "embeddings.safetensors")
    libraries = ("pylate", "sentence-transformers", "transformers", "tokenizers", "torch")
    reference = {
        "made_with": {each: version(each) for each in libraries},
        "fingerprint": MultiVectorEncoder(model).reference.fingerprint,
        "queries": QUERIES,
        "documents": DOCUMENTS,
    }
    _write_json(folder / "reference.json", reference)


def encode(model: Any, texts: Sequence[str], *, is_query: bool) -> list[NDArray[np.float32]]:
    """PyLate's embeddings, with the model's prompt where it has one."""
    role = "query" if is_query else "document"
    return list(
        model.encode(
            list(texts),
            is_query=is_query,
            prompt_name=role if model.prompts.get(role) else None,
            batch_size=BATCH_SIZE,
            show_progress_bar=False,
        )
    )


def _flatten(role: str, embeddings: list[NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    lengths = [0, *(len(each) for each in embeddings)]
    return {
        f"{role}_embeddings": np.concatenate(embeddings).astype(np.float32),
        f"{role}_offsets": np.cumsum(lengths, dtype=np.int64),
    }


def _save(model: Any, folder: Path) -> None:
    # a used model leaves its last length and padding in the files, as one saved after training does
    encode(model, QUERIES, is_query=True)
    model.save_pretrained(str(folder), create_model_card=False)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    for each in VARIANTS:
        make_reference(Path(sys.argv[1]) / each, each)
        print(f"made {each}", file=sys.stderr)
