"""`retrieval export`: a trained encoder into the files of another library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from retrieval.cli.options import AsJson, ModelOptions, Overwrite, load_model


def export(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a model.")],
    to: Annotated[
        Literal["pylate", "onnx", "openvino"],
        typer.Option(
            help="A checkpoint for PyLate, or a graph from token ids to final vectors in float32."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the export.")],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a model for PyLate, ONNX Runtime or OpenVINO, checked to give the same vectors."""
    from retrieval.encoders.export import export_model, writer

    writer(to)  # a missing extra is told before the model is loaded
    encoder = load_model(model, ModelOptions(device="cpu"))
    done = export_model(encoder, output, to=to, overwrite=overwrite)
    if as_json:
        facts = done._asdict() | {"folder": str(done.folder), "model": done.model._asdict()}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    print(
        f"{done.folder}: {done.target}, {done.size_bytes:,} bytes, "
        f"vectors within {done.max_difference:.1e} of the model's"
    )
