"""`retrieval info`: what is installed, or what a folder holds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import retrieval
from retrieval.cli.options import AsJson

_PACKAGES = ("torch", "transformers", "sentence-transformers", "faiss-cpu", "bm25s", "numpy")
_EXTRAS = {
    "train": ("accelerate", "datasets"),
    "lora": ("peft",),
    "eval": ("beir", "matplotlib", "pytrec_eval"),
    "mteb": ("mteb",),
    "static": ("model2vec",),
    "serve": ("fastapi", "uvicorn"),
    "cluster": ("ray",),
    "flash": ("flash_attn",),
    "pylate": ("pylate",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "wiki": ("mwparserfromhell",),
}


def info(
    path: Annotated[
        Path | None, typer.Argument(help="An index, a folder of embeddings, or a model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show versions, extras and hardware; or what an index, embeddings or a model is."""
    facts = _installation() if path is None else _folder(path)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    width = max(map(len, facts))
    for name, value in facts.items():
        console.print(f"{name:{width}}  {_readable(value)}", markup=False, soft_wrap=True)


def _installation() -> dict[str, Any]:
    import torch

    from retrieval import native
    from retrieval.backbone.attention_choice import resolve
    from retrieval.backbone.precision import has_fast_bfloat16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "modernbert-retrieval": retrieval.__version__,
        **{package: _version(package) for package in _PACKAGES},
        "extras": [
            extra
            for extra, modules in _EXTRAS.items()
            if all(importlib.util.find_spec(module) for module in modules)
        ],
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "training precision": "bfloat16" if has_fast_bfloat16(device) else "float32",
        "ModernBERT kernels": native.instruction_set() or "none: torch",
        "attention": resolve("auto", device, torch.bfloat16, False),
        "PLAID engine": _plaid_engine(),
    }


def _plaid_engine() -> str:
    from retrieval import native
    from retrieval.indexing.plaid.searcher import engine_name

    chosen = engine_name("auto", 128)
    return f"native, {native.instruction_set()}" if chosen == "native" else "NumPy"


def _folder(path: Path) -> dict[str, Any]:
    from retrieval.encoders.checkpoints import checkpoint_kind
    from retrieval.encoders.embedding_store import EmbeddingStore, is_embedding_store
    from retrieval.indexing.versions import current_version, index_bytes, read_manifest

    if (path / "CURRENT").exists():
        manifest = read_manifest(path)
        return {
            "index": manifest.kind,
            "documents": manifest.count,
            "bytes": index_bytes(path),
            "version": current_version(path).name,
            "model": manifest.model._asdict() if manifest.model else None,
            "parameters": manifest.parameters,
        }
    if is_embedding_store(path):
        store = EmbeddingStore(path)
        return {
            "embeddings": len(store),
            "dtype": store.dtype,
            "model": store.model._asdict(),
        }
    return {"model": str(path), "kind": checkpoint_kind(str(path))}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
