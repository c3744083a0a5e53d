"""A codec and its segments as tensors, as the stages of a search on a device read them.

Legend: N documents of all segments, T tokens, K centroids, D width, P bytes of a token's residual,
E entries of all lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrieval.indexing.on_gpu.devices import on_device
from retrieval.indexing.plaid.codec import ResidualCodec, Section
from retrieval.indexing.plaid.segment import Segment, merged_lists
from retrieval.indexing.plaid.values import values_of_bytes


class SectionTable(NamedTuple):
    """Components of a residual that have equally many bits, and what their bytes stand for."""

    section: Section
    table: Tensor
    """(256, components of a byte) float32."""


class SegmentTensors(NamedTuple):
    """All segments as one; positions count through them."""

    centroids_KD: Tensor
    """float32."""
    sections: tuple[SectionTable, ...]
    """The components of a residual, in order."""
    directions_CD: Tensor | None
    """That the components are along, float32; None for the vector's own."""
    offsets: Tensor
    """(N + 1,) int64: document i has the tokens from offsets[i] to offsets[i + 1]."""
    codes: Tensor
    """(T,) int32."""
    residuals: Tensor
    """(T, P) uint8."""
    scales: Tensor
    """(T,) float16."""
    list_starts: Tensor
    """(K + 1,) int64: the list of centroid i goes from list_starts[i] to list_starts[i + 1]."""
    list_documents: Tensor
    """(E,) int32 positions."""
    tokens: Tensor | None
    """(T, D) float16 for exact scores; None where they are not kept."""

    @property
    def documents(self) -> int:
        """N."""
        return len(self.offsets) - 1

    @property
    def width(self) -> int:
        """D."""
        return self.centroids_KD.shape[1]

    def decode(self, rows: Tensor) -> Tensor:
        """(rows, D) residuals of these tokens."""
        bytes_TP = self.residuals[rows].long()
        parts, first = [], 0
        for section, table in self.sections:
            part_TP = bytes_TP[:, first : first + section.bytes]
            parts.append(table[part_TP].flatten(1)[:, : section.components])
            first += section.bytes
        components_TC = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return components_TC if self.directions_CD is None else components_TC @ self.directions_CD


def to_tensors(
    codec: ResidualCodec, segments: Sequence[Segment], device: torch.device
) -> SegmentTensors:
    """Copy segments to the device: some 80 bytes a token at 4 bits and width 128."""
    # A segment from before there was a codec has documents without tokens, and bytes of no width.
    filled = [segment for segment in segments if len(segment.codes)]
    lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(each.offsets) for each in segments)])
    has_tokens = bool(filled) and all(segment.tokens is not None for segment in filled)
    list_lengths = np.zeros(len(codec.centroids) + 1, np.int64)
    list_documents = [np.empty(0, np.int32)]
    for lists in merged_lists(segments):
        list_lengths[lists.centroids + 1] = np.diff(lists.starts)
        list_documents.append(lists.documents)
    no_codes, no_bytes = np.empty(0, np.int32), codec.encode(codec.centroids[:0], np.empty(0, int))
    return SegmentTensors(
        torch.from_numpy(codec.centroids.copy()).to(device),
        tuple(
            SectionTable(each, torch.from_numpy(values_of_bytes(each.values)).to(device))
            for each in codec.sections
        ),
        torch.from_numpy(codec.principal.directions.copy()).to(device) if codec.principal else None,
        torch.from_numpy(np.cumsum(lengths)).to(device),
        on_device([no_codes, *(each.codes for each in filled)], np.dtype("i4"), device),
        on_device(
            [no_bytes.residuals, *(each.residuals for each in filled)], np.dtype("u1"), device
        ),
        on_device([no_bytes.scales, *(each.scales for each in filled)], np.dtype("f2"), device),
        torch.from_numpy(np.cumsum(list_lengths)).to(device),
        on_device(list_documents, np.dtype("i4"), device),
        on_device(
            [each.tokens for each in filled if each.tokens is not None], np.dtype("f2"), device
        )
        if has_tokens
        else None,
    )
