"""An encoder as `model.xml` and `model.bin`, for OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from retrieval.encoders.export.graph import INPUTS, Arrays, Run, first_line, quiet, write_graph
from retrieval.errors import ExportError, MissingExtraError

try:
    import openvino
    from openvino.frontend import GeneralFailure, OpConversionFailure
except ImportError as error:
    raise MissingExtraError("Export to OpenVINO", "openvino") from error


def write_openvino(encoder: Any, folder: Path) -> float:
    """Write `model.xml` and `model.bin` in float32, `tokenizer.json` and `retrieval_export.json`.

    OpenVINO computes in bfloat16 on processors that are faster with it, whatever the weights are;
    `INFERENCE_PRECISION_HINT` "f32" gives the vectors that were checked.

    Returns:
        The largest absolute difference between the components of the vectors, in float32.

    Raises:
        ExportError: the model has a part that the graph can't hold, or the vectors differ.
    """
    return write_graph(
        encoder, folder, file="model.xml", packages=["openvino"], save=_save, load=load_openvino
    )


def load_openvino(path: Path) -> Run:
    """Compile a model for the processor in float32, as a function from and to named arrays."""
    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(arrays: Arrays) -> Arrays:
        return {output.any_name: array for output, array in model(arrays).items()}

    return run


def _save(program: ExportedProgram, outputs: list[str], path: Path) -> None:
    try:
        with quiet():
            model = openvino.convert_model(program)
    except (GeneralFailure, OpConversionFailure) as error:
        raise ExportError(f"OpenVINO can't convert the model: {first_line(error)}") from error
    for port, name in [*zip(model.inputs, INPUTS), *zip(model.outputs, outputs)]:
        port.get_tensor().set_names({name})
    openvino.save_model(model, str(path), compress_to_fp16=False)
