"""Trained encoders as files for other libraries: PyLate, ONNX Runtime, OpenVINO.

`pylate_checkpoint`, `onnx_model` and `openvino_model` write one format each; `graph` traces a model
with its pooling and projections, `inputs` says how texts become its inputs, `check` compares
vectors, `folder` makes an export whole or absent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from retrieval.encoders.export.folder import new_folder
from retrieval.errors import ConfigError
from retrieval.records import ModelReference

if TYPE_CHECKING:
    from retrieval.encoders.dense import DenseEncoder
    from retrieval.encoders.multi_vector import MultiVectorEncoder

Target = Literal["pylate", "onnx", "openvino"]


class Export(NamedTuple):
    """What was written.

    Attributes:
        folder: where it is.
        target: whose format it has.
        model: the encoder that it was made from.
        max_difference: the largest absolute difference of a vector's component from the encoder's,
            over the probe texts.
        size_bytes: of all files together.
    """

    folder: Path
    target: Target
    model: ModelReference
    max_difference: float
    size_bytes: int


def export_model(
    encoder: DenseEncoder | MultiVectorEncoder,
    output: str | Path,
    *,
    to: Target,
    overwrite: bool = False,
) -> Export:
    """Write an encoder in another library's format, after a check that it gives the same vectors.

    An export that fails leaves nothing behind, and what was in `output` before stays.

    Args:
        encoder: dense or multi-vector; "pylate" takes multi-vector encoders only.
        output: becomes the folder.
        to: "pylate" for a checkpoint that `pylate.models.ColBERT` loads; "onnx" for a `model.onnx`
            and "openvino" for a `model.xml`, from token ids to final vectors, in float32.
        overwrite: replace a model or an earlier export that is there.

    Raises:
        ConfigError: `output` is taken, or is the model itself.
        ExportError: the format can't express the model, or its copy gives other vectors.
        MissingExtraError: the extra `onnx` or `openvino` is not installed.
    """
    write = writer(to)
    folder = Path(output)
    if Path(encoder.reference.name).resolve() == folder.resolve():
        raise ConfigError(f"{folder}: is the model itself, name another folder")
    with new_folder(folder, overwrite=overwrite) as unfinished:
        max_difference = write(encoder, unfinished)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Export(folder, to, encoder.reference, max_difference, size)


def writer(to: Target) -> Callable[[Any, Path], float]:
    """The function that writes a format into a folder and returns the largest difference.

    Raises:
        MissingExtraError: its packages are not installed.
    """
    if to == "pylate":
        from retrieval.encoders.export.pylate_checkpoint import write_pylate

        return write_pylate
    if to == "onnx":
        from retrieval.encoders.export.onnx_model import write_onnx

        return write_onnx
    from retrieval.encoders.export.openvino_model import write_openvino

    return write_openvino
