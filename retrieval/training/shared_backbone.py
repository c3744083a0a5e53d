"""One backbone, two retrievers: a dense and a ColBERT head trained in one pass beside a teacher.

Both heads read the same token states, so a step costs one forward and one backward pass. The dense
vector is their mean, the ColBERT's vectors their projection. The teacher is an encoder with the
same tokenizer and width: its token states are targets, token by token, which says far more about a
text than its pooled vector alone, and keeps the backbone general while pairs make it a retriever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from retrieval.backbone.modernbert import PackedModernBert
from retrieval.backbone.packing import PackedBatch
from retrieval.backbone.precision import Precision, uses_bfloat16
from retrieval.errors import ConfigError, RetrievalError
from retrieval.files import map_arrays, save_arrays
from retrieval.training.muon import Muon

logger = logging.getLogger(__name__)

# T tokens of a batch, H width of a state, D width of a ColBERT vector, Q queries, P documents

TokenIds = NDArray[np.integer[Any]]
Teacher = Callable[[Sequence[TokenIds]], Tensor]
"""Takes N texts, gives the (T, H) float32 states of all their tokens, text after text."""


class TokenPairs(NamedTuple):
    """Texts of a step; without queries it only follows the teacher."""

    queries: list[TokenIds]
    documents: list[TokenIds]
    """`documents[i]` answers `queries[i]`, and no other query of the step."""


@dataclass(frozen=True, kw_only=True)
class SharedSettings:
    """One stretch of training."""

    steps: int
    lr: float
    """Of the backbone."""
    embedding_lr_share: float = 0.2
    """Token vectors come from the teacher: they move less."""
    projection_lr_share: float = 2.0
    warmup_steps: int = 30
    decay_steps: int | None = None
    """The step at which the learning rate would reach 0; `steps` where None."""
    dense_scale: float = 20.0
    """One over the temperature of the dense head's cosine similarities."""
    dense_weight: float = 1.0
    """Of the dense head's contrastive loss; 0 leaves the dense vectors to the teacher alone."""
    colbert_weight: float = 1.0
    """Of the ColBERT head's contrastive loss."""
    token_weight: float = 2.0
    """Of one minus the cosine between a token's state and the teacher's."""
    pooled_weight: float = 4.0
    """The same for mean states."""
    max_gradient: float = 1.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon moves the backbone's matrices along orthogonalised momentum, in steps of AdamW's size;
    everything else is AdamW's all the same. Source: https://kellerjordan.github.io/posts/muon/."""
    precision: Precision = "auto"
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0:
            raise ConfigError(f"steps is {self.steps}, lr {self.lr}: expected more than 0")


class SharedBackbone:
    """A ModernBERT with two heads.

    Attributes:
        backbone: the `ModernBertModel`.
        projection: (D, H) of the ColBERT head; no bias.
        scale: multiplies MaxSim scores in the loss; learnt, and no part of the model.
    """

    def __init__(
        self, backbone: Any, projection: Tensor, *, skiplist: Sequence[int] = (), scale: float = 1.5
    ) -> None:
        """Take both as they are; document tokens in `skiplist` do not count."""
        self.backbone = backbone
        self.projection = torch.nn.Parameter(projection.clone())
        self.log_scale = torch.nn.Parameter(torch.tensor(scale).log())
        self.skipped = torch.tensor(list(skiplist), dtype=torch.long)
        self._packed = PackedModernBert(backbone)

    @property
    def scale(self) -> float:
        """What MaxSim scores are multiplied by."""
        return float(self.log_scale.detach().exp())

    def save(self, path: Path) -> None:
        """Write the weights of the backbone and of both heads, atomically."""
        save_arrays(path, {name: each.detach().numpy() for name, each in self._parts().items()})

    def load(self, path: Path) -> None:
        """Take the weights that `save` wrote, for a backbone of the same shape."""
        with torch.no_grad():
            kept = map_arrays(path)
            for name, part in self._parts().items():
                part.copy_(torch.from_numpy(np.array(kept[name])))

    def _parts(self) -> dict[str, Tensor]:
        heads = {"projection": self.projection, "log_scale": self.log_scale}
        return {**heads, **self.backbone.state_dict(prefix="backbone.")}

    def states(self, texts: Sequence[TokenIds]) -> Tensor:
        """(T, H) float32 token states, text after text."""
        ids = torch.from_numpy(np.concatenate(texts).astype(np.int64))
        lengths = np.array([len(each) for each in texts], np.int32)
        return self._packed(PackedBatch(ids, lengths)).float()

    def fit(
        self,
        batches: Iterable[TokenPairs],
        teacher: Teacher,
        settings: SharedSettings,
        *,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        """Train on the first `settings.steps` batches.

        Args:
            batches: pairs for both heads, or documents alone.
            teacher: gives the targets.
            settings: of this stretch.
            report: gets the mean losses, the tokens a second and the step, now and then.

        Raises:
            RetrievalError: a loss is no number; the step is named.
        """
        self.backbone.train()
        optimizers = self._optimizers(settings)
        is_bf16 = uses_bfloat16(settings.precision, "cpu")
        sums, seen, started = _Sums(), 0, time.perf_counter()
        for step, pairs in zip(range(1, settings.steps + 1), batches):
            share = _schedule(step, settings)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["highest_lr"] * share
            texts = [*pairs.queries, *pairs.documents]
            targets = teacher(texts)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                states = self.states(texts)
            losses = self._losses(states, targets, pairs, settings)
            loss = torch.stack(list(losses.values())).sum()
            if not bool(torch.isfinite(loss)):
                raise RetrievalError(f"the loss is {loss.item()} at step {step}: lower lr")
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), settings.max_gradient)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            seen += len(states)
            sums.add({name: float(value.detach()) for name, value in losses.items()})
            if report and (step % settings.log_every == 0 or step == settings.steps):
                rate = seen / (time.perf_counter() - started)
                report({"step": step, **sums.take(), "scale": self.scale, "tokens/s": rate})
        self.backbone.eval()

    def _optimizers(self, settings: SharedSettings) -> list[torch.optim.Optimizer]:
        embedding = self.backbone.embeddings.tok_embeddings.weight
        others = [each for each in self.backbone.parameters() if each is not embedding]
        is_muon = settings.optimizer == "muon"
        matrices = [each for each in others if is_muon and each.ndim == 2]
        shares = [
            ([each for each in others if not (is_muon and each.ndim == 2)], 1.0),
            ([embedding], settings.embedding_lr_share),
            ([self.projection, self.log_scale], settings.projection_lr_share),
        ]
        groups = [
            {"params": each, "highest_lr": settings.lr * share} for each, share in shares if each
        ]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                groups, lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
            )
        ]
        if is_muon:
            optimizers.append(Muon([{"params": matrices, "highest_lr": settings.lr}], settings.lr))
        return optimizers

    def _losses(
        self, states: Tensor, targets: Tensor, pairs: TokenPairs, settings: SharedSettings
    ) -> dict[str, Tensor]:
        texts = [*pairs.queries, *pairs.documents]
        lengths = np.array([len(each) for each in texts])
        pooled = mean_states(states, lengths)
        token = 1 - F.cosine_similarity(states, targets, dim=-1).mean()
        text = 1 - (pooled * mean_states(targets, lengths)).sum(dim=-1).mean()
        losses = {"token": settings.token_weight * token, "pooled": settings.pooled_weight * text}
        if not pairs.queries:
            return losses
        count = len(pairs.queries)
        own = torch.arange(count)
        dense = settings.dense_scale * pooled[:count] @ pooled[count:].T
        both_ways = (F.cross_entropy(dense, own) + F.cross_entropy(dense.T, own)) / 2
        losses["dense"] = settings.dense_weight * both_ways
        vectors = F.normalize(states @ self.projection.T, dim=-1)
        asked = int(lengths[:count].sum())
        ids = torch.from_numpy(np.concatenate(pairs.documents).astype(np.int64))
        scores = packed_maxsim(
            vectors[:asked],
            lengths[:count],
            vectors[asked:],
            lengths[count:],
            ~torch.isin(ids, self.skipped),
        )
        losses["colbert"] = settings.colbert_weight * F.cross_entropy(
            self.log_scale.exp() * scores, own
        )
        return losses


def mean_states(states: Tensor, lengths: NDArray[np.integer[Any]]) -> Tensor:
    """(N, H) unit vectors of the (T, H) token states of N texts."""
    sums = torch.zeros(len(lengths), states.shape[1])
    return F.normalize(sums.index_add_(0, _owners(lengths), states), dim=-1)


def packed_maxsim(
    queries: Tensor,
    query_lengths: NDArray[np.integer[Any]],
    documents: Tensor,
    document_lengths: NDArray[np.integer[Any]],
    keep: Tensor,
) -> Tensor:
    """(Q, P) MaxSim scores, differentiable.

    Args:
        queries: (T, D) vectors of all queries' tokens, query after query.
        query_lengths: (Q,) tokens of each.
        documents: the same for documents.
        document_lengths: (P,) tokens of each.
        keep: (T,) which document tokens count.
    """
    rows = _owners(document_lengths)
    starts = np.concatenate([[0], np.cumsum(document_lengths)[:-1]])
    columns = torch.arange(len(documents)) - torch.from_numpy(starts)[rows]
    shape = (len(document_lengths), int(document_lengths.max()))
    padded = documents.new_zeros(*shape, documents.shape[1]).index_put((rows, columns), documents)
    is_kept = torch.zeros(shape, dtype=torch.bool).index_put((rows, columns), keep)
    similarities = torch.einsum("td,pld->tpl", queries, padded)
    best = similarities.masked_fill(~is_kept, -1e4).amax(dim=-1)
    sums = best.new_zeros(len(query_lengths), len(document_lengths))
    return sums.index_add_(0, _owners(query_lengths), best)


def principal_projection(states: Tensor, width: int) -> Tensor:
    """(D, H) orthonormal rows that keep most of (T, H) unit states: the ColBERT head's start."""
    unit = F.normalize(states, dim=-1)
    _, vectors = torch.linalg.eigh(unit.T @ unit / len(unit))
    projection: Tensor = vectors[:, -width:].T.contiguous()
    return projection


def _owners(lengths: NDArray[np.integer[Any]]) -> Tensor:
    return torch.repeat_interleave(
        torch.arange(len(lengths)), torch.from_numpy(lengths.astype(np.int64))
    )


def _schedule(step: int, settings: SharedSettings) -> float:
    last = settings.decay_steps or settings.steps
    warmup = settings.warmup_steps
    fall = (last - step) / max(1, last - warmup)
    return min(step / max(1, warmup), max(0.02, fall))


class _Sums:
    """Means of named figures since they were last taken."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, figures: dict[str, float]) -> None:
        self._count += 1
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
