"""Find out what a model folder or hub name holds, before any weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from retrieval.errors import CheckpointError

CheckpointKind = Literal["dense", "multi_vector", "backbone"]
"""A Sentence Transformers encoder, a ColBERT-style one of any make, or a plain backbone."""


def checkpoint_kind(name: str, *, revision: str | None = None) -> CheckpointKind:
    """Tell a dense checkpoint from a multi-vector one and from a plain backbone.

    Reads Sentence Transformers, PyLate (`model_type` "ColBERT") and Stanford ColBERT
    (`architectures` "HF_ColBERT") checkpoints by their JSON files.

    Args:
        name: a folder, or a name on the Hugging Face hub.
        revision: a branch, tag or commit on the hub.

    Raises:
        CheckpointError: nothing usable is there, or it is a model of another kind.
    """
    settings = _read(name, "config_sentence_transformers.json", revision) or {}
    model_type = settings.get("model_type")
    if model_type in ("ColBERT", "MultiVectorEncoder") or "query_prefix" in settings:
        return "multi_vector"
    if model_type not in (None, "SentenceTransformer"):
        raise CheckpointError(f"{name}: holds a {model_type}, expected a retriever")
    if _read(name, "modules.json", revision) is not None:
        return "dense"
    config = _read(name, "config.json", revision)
    if config is None:
        raise CheckpointError(
            f"{name}: no model there (neither modules.json nor config.json): expected a folder, or "
            "a name on the Hugging Face hub, which has to be in reach or in the local cache"
        )
    return "multi_vector" if "HF_ColBERT" in (config.get("architectures") or ()) else "backbone"


def remembered_name(name: str | Path) -> str:
    """The name that an index keeps of its model: a local folder's absolute path, else the name.

    An index finds its model again from whichever folder it is opened.
    """
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def _read(name: str, filename: str, revision: str | None) -> Any:
    if Path(name).is_dir():
        path = Path(name) / filename
        return json.loads(path.read_text("utf-8")) if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        path = Path(hf_hub_download(name, filename, revision=revision))
    except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError):
        return None
    except OSError as error:
        raise CheckpointError(f"{name}: no such folder, and not to be had from the hub") from error
    return json.loads(path.read_text("utf-8"))
