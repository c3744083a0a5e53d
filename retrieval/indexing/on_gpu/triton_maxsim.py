"""MaxSim as one Triton kernel: products are reduced where they are made, and never stored.

Triton 3.6 compiles it for sm_80 and sm_90, and its interpreter gives the oracle's scores; it has
not been run on hardware yet. Imported only where Triton is installed and the device is CUDA.

Legend: B queries, M query tokens, C documents of each query, T tokens, D width, R tokens at a time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_QUERY_TOKENS = 64
"""More of them are several programs: their vectors must stay in shared memory."""
_ROWS = 64


@triton.jit  # type: ignore[untyped-decorator]
def _maxsim(  # type: ignore[no-untyped-def]
    queries,
    tokens,
    starts,
    lengths,
    scores,
    start_strides_B,
    start_strides_C,
    length_strides_B,
    length_strides_C,
    query_tokens,
    width,
    M: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
):
    column, row, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(starts + row * start_strides_B + column * start_strides_C)
    length = tl.load(lengths + row * length_strides_B + column * length_strides_C)
    components = tl.arange(0, D)
    at_M = block * M + tl.arange(0, M)
    query_MD = tl.load(
        queries + (row * query_tokens + at_M[:, None]) * width + components[None, :],
        mask=(at_M[:, None] < query_tokens) & (components[None, :] < width),
        other=0.0,
    )
    # Two halves hold 22 bits of a float: the scores are those of the float32 query.
    high_MD = query_MD.to(tl.float16)
    low_MD = (query_MD - high_MD.to(tl.float32)).to(tl.float16)
    best_M = tl.full((M,), float("-inf"), tl.float32)
    for first in range(0, length, R):
        at_R = first + tl.arange(0, R)
        tokens_DR = tl.load(
            tokens + (start + at_R)[None, :] * width + components[:, None],
            mask=(at_R[None, :] < length) & (components[:, None] < width),
            other=0.0,
        )
        products_MR = tl.dot(low_MD, tokens_DR)
        products_MR = tl.dot(high_MD, tokens_DR, acc=products_MR)
        # What is no token must lose even to a negative product.
        products_MR = tl.where(at_R[None, :] < length, products_MR, float("-inf"))
        best_M = tl.maximum(best_M, tl.max(products_MR, axis=1))
    at = (row * tl.num_programs(0).to(tl.int64) + column) * tl.num_programs(2) + block
    tl.store(scores + at, tl.sum(best_M, axis=0))


def triton_maxsim(
    queries_BMD: Tensor, tokens_TD: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    """As `exact.chosen_scores`; query tokens that fill up a block are zeros, which score 0."""
    queries_BMD, tokens_TD = queries_BMD.float().contiguous(), tokens_TD.contiguous()
    count, length, width = queries_BMD.shape
    block = min(_QUERY_TOKENS, max(16, triton.next_power_of_2(length)))
    blocks = triton.cdiv(length, block)
    columns = starts.shape[1]
    scores = torch.empty((count, columns, blocks), device=queries_BMD.device)
    if scores.numel():
        _maxsim[(columns, count, blocks)](
            queries_BMD,
            tokens_TD,
            starts,
            lengths,
            scores,
            *starts.stride(),
            *lengths.stride(),
            length,
            width,
            M=block,
            D=max(16, triton.next_power_of_2(width)),
            R=_ROWS,
        )
    return scores.sum(dim=2)
