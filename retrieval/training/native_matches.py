"""Best matches of a training batch through the compiled library, over torch's threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from retrieval import native
from retrieval.parallel import in_threads

# R query tokens, P documents, T document tokens, D width


class _Batch(ctypes.Structure):
    _fields_ = (
        ("query_tokens", ctypes.c_void_p),
        ("document_tokens", ctypes.c_void_p),
        ("keep", ctypes.c_void_p),
        ("documents", ctypes.c_int64),
        ("queries", ctypes.c_int32),
        ("tokens", ctypes.c_int32),
        ("width", ctypes.c_int32),
    )


def is_supported(device: torch.device) -> bool:
    """Whether tensors on this device are matched faster here than by torch."""
    return device.type == "cpu" and native.instruction_set() not in (None, "portable")


def best_matches(
    queries_RD: Tensor, documents_PTD: Tensor, keep_PT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Every query token's largest product with a document's tokens.

    Args:
        queries_RD: (R, D) float32.
        documents_PTD: (P, T, D) float32.
        keep_PT: (P, T) bool, the tokens that count; None for all.

    Returns:
        (P, R) float32, -inf where no token counts, and (P, R) int64, the first token that has it.
        What is no number stays so.
    """
    queries, documents = queries_RD.contiguous(), documents_PTD.contiguous()
    keep = None if keep_PT is None else keep_PT.contiguous()
    count, tokens, width = documents.shape
    best_PR = queries.new_empty(count, len(queries))
    token_PR = torch.empty_like(best_PR, dtype=torch.int64)
    run: Callable[..., None] = native.loaded().retrieval_best_matches

    def work(part: slice) -> None:
        batch = _Batch(
            queries.data_ptr(),
            documents[part].data_ptr(),
            None if keep is None else keep[part].data_ptr(),
            len(documents[part]),
            len(queries),
            tokens,
            width,
        )
        best, token = best_PR[part].data_ptr(), token_PR[part].data_ptr()
        run(ctypes.byref(batch), ctypes.c_void_p(best), ctypes.c_void_p(token))

    threads = torch.get_num_threads()
    step = max(1, -(-count // (1 if threads == 1 else 4 * threads)))
    parts = [slice(first, first + step) for first in range(0, count, step)]
    for _ in in_threads(work, parts, threads):
        pass
    return best_PR, token_PR
