"""Tokens' nearest centroids by matrix products on a device.

Legend: T tokens, K centroids, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.indexing.on_gpu.devices import Device, find_device
from retrieval.indexing.plaid.values import Floats

_PRODUCTS_BYTES = 1 << 29
_TOKENS_AT_ONCE = 1 << 18
"""Copied to the device together."""


class TorchCentroidSearch:
    """Compares every token with every centroid: what `kmeans.CentroidSearch` is in NumPy.

    There is no search by groups: a product of 2.5 million tokens with 32,768 centroids is 21
    TFLOP, less than a second for a GPU. On CUDA the products are of float16, whose steps near 1 are
    an eighth of bfloat16's: among centroids that are equally near within 1e-3 any one is taken.

    Satisfies `kmeans.Nearest`.
    """

    def __init__(
        self,
        centroids_KD: Floats,
        device: Device | None = None,
        *,
        dtype: torch.dtype | None = None,
        memory_bytes: int = _PRODUCTS_BYTES,
    ) -> None:
        """Copy the centroids to the device.

        Args:
            centroids_KD: (K, D) of unit length.
            device: as in `find_device`.
            dtype: of the products; by default float16 on CUDA, else float32.
            memory_bytes: that products may take at a time.
        """
        self._device = find_device(device)
        self._dtype = dtype or (torch.float16 if self._device.type == "cuda" else torch.float32)
        centroids = torch.from_numpy(np.array(centroids_KD, np.float32))
        self._centroids_DK = centroids.to(self._device, self._dtype).T.contiguous()
        bytes_of_a_token = len(centroids_KD) * self._dtype.itemsize
        self._tokens = max(1, memory_bytes // bytes_of_a_token)

    @torch.inference_mode()
    def nearest(self, tokens_TD: Floats) -> NDArray[np.int64]:
        """For each of (T, D) tokens the number of its centroid."""
        codes_T = np.empty(len(tokens_TD), np.int64)
        for at in range(0, len(tokens_TD), _TOKENS_AT_ONCE):
            part = torch.from_numpy(np.array(tokens_TD[at : at + _TOKENS_AT_ONCE], np.float32))
            codes_T[at : at + len(part)] = self._nearest(part.to(self._device)).cpu().numpy()
        return codes_T

    def _nearest(self, tokens_TD: Tensor) -> Tensor:
        # Of unit length: float16 would lose short tokens, and the lengths of others change nothing.
        units_TD = torch.nn.functional.normalize(tokens_TD, dim=1).to(self._dtype)
        parts = torch.split(units_TD, self._tokens)
        return torch.cat([(part @ self._centroids_DK).argmax(dim=1) for part in parts])
