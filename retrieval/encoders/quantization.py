"""Dense embeddings as 8-bit codes or as bits, by ranges that are fixed beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ConfigError, EmbeddingError, ShapeError

Precision = Literal["int8", "uint8", "binary", "ubinary"]
"""A component as a code of 8 bits, signed or not; or its sign as one bit, eight to an int8 or
uint8."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """Turns float embeddings into those of `sentence_transformers.quantize_embeddings`.

    The ranges never come from the embeddings at hand, so that a text's code does not depend on the
    texts beside it.
    """

    precision: Precision
    ranges: NDArray[np.float32] | None = None
    """(2, D), the least and the greatest value of each component: for int8 and uint8 only."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision is {self.precision!r}, expected one of {get_args(Precision)}"
            )
        if self.is_binary != (self.ranges is None):
            raise ConfigError(
                f"{self.precision} takes {'no' if self.is_binary else 'the'} ranges of components"
                f"{'' if self.is_binary else ': see Quantization.calibrated'}"
            )
        if self.ranges is None:
            return
        ranges = np.asarray(self.ranges, np.float32)
        if ranges.ndim != 2 or len(ranges) != 2:
            raise ShapeError(f"expected ranges (2, D), got the shape {ranges.shape}")
        if not np.isfinite(ranges).all():
            raise EmbeddingError("the ranges of a quantization are not finite")
        object.__setattr__(self, "ranges", ranges)

    @classmethod
    def calibrated(cls, precision: Precision, embeddings: Iterable[NDArray[np.float32]]) -> Self:
        """Take the ranges from a sample of float embeddings, each (D,); bits need no sample.

        Raises:
            ConfigError: no embeddings, where `precision` needs them.
        """
        if precision not in ("int8", "uint8"):
            return cls(precision=precision)
        ranges: NDArray[np.float32] | None = None
        for each in embeddings:
            if ranges is None:
                ranges = np.stack([each, each])
            ranges = np.stack([np.minimum(ranges[0], each), np.maximum(ranges[1], each)])
        if ranges is None:
            raise ConfigError(f"{precision} needs texts to take its ranges from, got none")
        return cls(precision=precision, ranges=ranges)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """The inverse of `to_mapping`."""
        ranges = mapping.get("ranges")
        array = None if ranges is None else np.array(ranges, np.float32)
        return cls(precision=mapping["precision"], ranges=array)

    def to_mapping(self) -> dict[str, Any]:
        """Precision and ranges as JSON has them."""
        ranges = None if self.ranges is None else self.ranges.tolist()
        return {"precision": self.precision, "ranges": ranges}

    @property
    def is_binary(self) -> bool:
        """Whether a component is one bit."""
        return self.precision in ("binary", "ubinary")

    def width(self, components: int) -> int:
        """The length of a quantized embedding."""
        return (components + 7) // 8 if self.is_binary else components

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[Any]:
        """Quantize (N, D) float32 to (N, D) codes or (N, D / 8) packed bits.

        Raises:
            ShapeError: the ranges are of another width.
        """
        from sentence_transformers import quantize_embeddings

        if self.ranges is not None and self.ranges.shape[1] != embeddings.shape[1]:
            raise ShapeError(
                f"ranges of width {self.ranges.shape[1]}, embeddings of {embeddings.shape[1]}"
            )
        quantized: Any = quantize_embeddings(embeddings, self.precision, ranges=self.ranges)
        codes: NDArray[Any] = np.asarray(quantized)
        return codes
