"""An encoder as `model.onnx`, for ONNX Runtime and whatever else reads ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from retrieval.encoders.export.graph import INPUTS, Arrays, Run, first_line, quiet, write_graph
from retrieval.errors import ExportError, MissingExtraError

try:
    import onnxruntime
    import onnxscript  # noqa: F401 (torch.onnx asks for it late, and by another error)
except ImportError as error:
    raise MissingExtraError("Export to ONNX", "onnx") from error

# Protocol buffers end at 2 GiB; above this the weights get a file of their own.
_LARGEST_FILE = 1_500_000_000


def write_onnx(encoder: Any, folder: Path) -> float:
    """Write `model.onnx`, `tokenizer.json` and `retrieval_export.json`, checked by ONNX Runtime.

    Weights of more than 1.5 GB go into `model.onnx.data`.

    Returns:
        The largest absolute difference between the components of the vectors.

    Raises:
        ExportError: the model has a part that the graph can't hold, or the vectors differ.
    """
    packages = ("onnx", "onnxruntime")
    return write_graph(
        encoder, folder, file="model.onnx", packages=packages, save=_save, load=load_onnx
    )


def load_onnx(path: Path) -> Run:
    """Open a model on the processor, as a function from named arrays to named arrays."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def run(arrays: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, arrays), strict=True))

    return run


def _save(program: ExportedProgram, outputs: list[str], path: Path) -> None:
    size = sum(each.nbytes for each in program.state_dict.values())
    try:
        with quiet():
            torch.onnx.export(
                program,
                (),
                path,
                input_names=list(INPUTS),
                output_names=outputs,
                dynamo=True,
                external_data=size > _LARGEST_FILE,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"torch can't convert the model to ONNX: {first_line(error)}") from error
