"""A ModernBERT that starts as a BERT: every layer fitted to the BERT's states by least squares.

BERT normalises after each block and learns a vector for each position; ModernBERT normalises before
each block and turns queries and keys by their position. The two have no weights in common that
could be copied, but on real texts a BERT's states are nearly a linear image of a stream that grows
by addition, as ModernBERT's does. So each linear layer is solved for, one after the other, on the
states that the layers before it really give; the error that they leave is part of the next target.

What is lost is what the BERT knew by absolute position: training has to bring it back (see
`backbone_distillation`). It starts far ahead of random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ModernBertConfig, ModernBertModel
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from retrieval.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InheritanceSettings:
    """The shape of the new model where it is not the BERT's, and how much is calibrated on."""

    intermediate_size: int = 1024
    """Neurons of each feed-forward layer; the BERT's strongest are taken."""
    global_attention_every: int = 3
    local_attention: int = 128
    rope_theta: float = 160_000.0
    max_positions: int = 8192
    texts: int = 400
    """Texts that the layers are fitted on, the first of those given."""
    max_tokens: int = 96
    """Of each of them."""
    ridge: float = 1e-3
    """Share of the mean variance that is added to every input's."""


@torch.no_grad()
def inherit(
    bert: Any, texts: Sequence[Sequence[int]], settings: InheritanceSettings | None = None
) -> Any:
    """Make a ModernBERT whose states are near a BERT's.

    Args:
        bert: a `transformers.BertModel` with GELU and the special tokens [CLS], [SEP], [PAD] of
            BERT's own vocabulary in its configuration's places (101, 102, 0).
        texts: token ids, special tokens included; more than the settings ask for are passed over.
        settings: the new shape.

    Returns:
        A `ModernBertModel` in float32, with biases in every layer; width, layers, heads and
        vocabulary are
        the BERT's.

    Raises:
        ConfigError: no BERT, or no texts.
    """
    settings = settings or InheritanceSettings()
    config = bert.config
    if config.model_type != "bert" or config.hidden_act != "gelu":
        raise ConfigError(f"expected a BERT with GELU to inherit from, not {config.model_type}")
    if not texts:
        raise ConfigError("there are no texts to fit the layers on")
    ids, is_token = _padded(texts[: settings.texts], settings.max_tokens)
    model = empty_model(config, settings).eval()
    _take_embeddings(model, bert.embeddings, is_token)
    world = _World(model, is_token, settings.ridge)
    teacher = bert.embeddings(ids)
    # `ideal` is the stream that would hold the BERT's states exactly, each channel in a scale of
    # its own; `stream` is the one that the new layers give.
    stream = model.embeddings(ids)
    ideal, scale = teacher.clone(), torch.ones(config.hidden_size)
    for number, (old, new) in enumerate(zip(bert.encoder.layer, model.layers, strict=True)):
        attended, after_attention = world.attend_as_bert(old, teacher)
        ideal = ideal + scale * attended
        stream = world.fit_attention(number, old, new, stream, teacher, ideal)
        scale = world.scale(after_attention, ideal)
        hidden = F.gelu(old.intermediate.dense(after_attention))
        mixed = old.output.dense(hidden)
        ideal = ideal + scale * mixed
        stream = world.fit_feed_forward(old, new, stream, after_attention, hidden, ideal)
        teacher = old.output.LayerNorm(after_attention + mixed)
        scale = world.scale(teacher, ideal)
    gain, shift = world.channelwise(_normalised(stream), teacher)
    model.final_norm.weight.copy_(gain)
    model.final_norm.bias.copy_(shift)
    return model


class _World:
    """The texts that everything is fitted on, and the fits."""

    def __init__(self, model: Any, is_token: Tensor, ridge: float) -> None:
        self.model = model
        self.is_token = is_token
        self.ridge = ridge
        self.heads = model.config.num_attention_heads
        length = is_token.shape[1]
        self.positions = torch.arange(length)[None]
        self.mask = torch.zeros(is_token.shape).masked_fill(~is_token, -1e9)[:, None, None]
        distance = (self.positions[0][:, None] - self.positions[0]).abs()
        is_far = distance > model.config.local_attention // 2
        self.window = torch.zeros(length, length).masked_fill(is_far, -1e9)

    def rows(self, x: Tensor) -> Tensor:
        """(T, H) states of the real tokens."""
        return x[self.is_token]

    def attend_as_bert(self, old: Any, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What the BERT's attention adds, and the normalised sum."""
        own = old.attention.self
        query, key, value = (
            self._by_head(each(teacher)) for each in (own.query, own.key, own.value)
        )
        attended = old.attention.output.dense(_attend(query, key, value, self.mask))
        return attended, old.attention.output.LayerNorm(teacher + attended)

    def fit_attention(
        self, number: int, old: Any, new: Any, stream: Tensor, teacher: Tensor, ideal: Tensor
    ) -> Tensor:
        """Fit one attention block; returns the stream after it."""
        # The first layer has no norm: it gets the embeddings' own.
        x = stream if number == 0 else _normalised(stream)
        if number:
            _neutral(new.attn_norm)
        weight, bias = _in_quiet_bases(old.attention.self, self.rows(teacher), self.heads)
        image, offset = self.least_squares(x, teacher)
        new.attn.Wqkv.weight.copy_(weight @ image)
        new.attn.Wqkv.bias.copy_(weight @ offset + bias)
        kind = self.model.config.layer_types[number]
        cosines, sines = self.model.rotary_emb(x, self.positions, kind)
        query, key, value = (self._by_head(each) for each in new.attn.Wqkv(x).chunk(3, dim=-1))
        query, key = apply_rotary_pos_emb(query, key, cosines, sines)
        mask = self.mask if kind == "full_attention" else self.mask + self.window
        context = _attend(query, key, value, mask)
        return self._fit_output(new.attn.Wo, context, stream, ideal)

    def fit_feed_forward(
        self,
        old: Any,
        new: Any,
        stream: Tensor,
        after_attention: Tensor,
        hidden: Tensor,
        ideal: Tensor,
    ) -> Tensor:
        """Fit one feed-forward block; returns the stream after it.

        The gate is 1: the BERT has none. Its weights are small random numbers, to learn from.
        """
        strength = self.rows(hidden).std(dim=0) * old.output.dense.weight.norm(dim=0)
        neurons = new.mlp.Wi.out_features // 2
        kept = strength.argsort(descending=True)[:neurons].sort().values
        _neutral(new.mlp_norm)
        x = _normalised(stream)
        image, offset = self.least_squares(x, after_attention)
        weight, bias = old.intermediate.dense.weight[kept], old.intermediate.dense.bias[kept]
        new.mlp.Wi.weight[: len(kept)] = weight @ image
        new.mlp.Wi.bias.zero_()
        new.mlp.Wi.bias[: len(kept)] = weight @ offset + bias
        new.mlp.Wi.weight[neurons:].normal_(std=0.002)
        new.mlp.Wi.bias[neurons:] = 1.0
        values, gate = new.mlp.Wi(x).chunk(2, dim=-1)
        return self._fit_output(new.mlp.Wo, F.gelu(values) * gate, stream, ideal)

    def _fit_output(self, linear: Any, x: Tensor, stream: Tensor, ideal: Tensor) -> Tensor:
        weight, bias = self.least_squares(x, ideal - stream)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        after: Tensor = stream + linear(x)
        return after

    def least_squares(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(O, I) and (O,) of the linear map from x to the target, over all real tokens."""
        inputs, outputs = self.rows(x), self.rows(target)
        mean_in, mean_out = inputs.mean(dim=0), outputs.mean(dim=0)
        centred = (inputs - mean_in).double()
        gram = centred.T @ centred
        gram += torch.eye(len(gram), dtype=gram.dtype) * (self.ridge * gram.diagonal().mean())
        weight = torch.linalg.solve(gram, centred.T @ (outputs - mean_out).double()).T.float()
        return weight, mean_out - weight @ mean_in

    def channelwise(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(H,) gain and (H,) shift from x to the target, each channel by itself."""
        inputs, outputs = self.rows(x), self.rows(target)
        centred = inputs - inputs.mean(dim=0)
        variance = centred.square().mean(dim=0).clamp_min(1e-12)
        gain = (centred * (outputs - outputs.mean(dim=0))).mean(dim=0) / variance
        return gain, outputs.mean(dim=0) - gain * inputs.mean(dim=0)

    def scale(self, state: Tensor, ideal: Tensor) -> Tensor:
        """(H,) how large the ideal stream is where a state of the BERT is 1."""
        return self.channelwise(state, ideal)[0]

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def _in_quiet_bases(attention: Any, states: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """The BERT's stacked query, key and value weights, queries and keys in bases of our choice.

    A rotation of both changes no score of the BERT's. Rotary angles grow fast in the first pairs of
    components and slowly in the last, so the components that matter least come first: the rotation
    by position then disturbs as little as it can.
    """
    weights = [each.weight.clone() for each in (attention.query, attention.key, attention.value)]
    biases = [each.bias.clone() for each in (attention.query, attention.key, attention.value)]
    queries, keys = (states @ weights[at].T + biases[at] for at in (0, 1))
    size = len(biases[0]) // heads
    pairs = torch.arange(size // 2)
    # Components i and i + size / 2 turn together.
    order = torch.cat([2 * pairs, 2 * pairs + 1])
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        q, k = queries[:, part], keys[:, part] - keys[:, part].mean(dim=0)
        product = (q.T @ q / len(q)) @ (k.T @ k / len(k))
        _, vectors = torch.linalg.eigh((product + product.T) / 2)
        basis = vectors[:, order].T
        for at in (0, 1):
            weights[at][part] = basis @ weights[at][part]
            biases[at][part] = basis @ biases[at][part]
    return torch.cat(weights), torch.cat(biases)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def _normalised(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-5)


def _neutral(norm: Any) -> None:
    norm.weight.fill_(1)
    norm.bias.zero_()


def _take_embeddings(model: Any, old: Any, is_token: Tensor) -> None:
    """Word vectors plus what the BERT adds everywhere: its type 0 and the mean position."""
    counts = is_token.sum(dim=0, dtype=torch.float32)
    positions = old.position_embeddings.weight[: len(counts)]
    everywhere = old.token_type_embeddings.weight[0] + counts @ positions / counts.sum()
    model.embeddings.tok_embeddings.weight.copy_(old.word_embeddings.weight + everywhere)
    model.embeddings.norm.load_state_dict(old.LayerNorm.state_dict())


def empty_model(bert: Any, settings: InheritanceSettings) -> Any:
    """A ModernBERT of the shape that `inherit` gives, for a BERT's configuration."""
    rope = {"rope_type": "default", "rope_theta": settings.rope_theta}
    shape: dict[str, Any] = {
        "vocab_size": bert.vocab_size,
        "hidden_size": bert.hidden_size,
        "intermediate_size": min(settings.intermediate_size, bert.intermediate_size),
        "num_hidden_layers": bert.num_hidden_layers,
        "num_attention_heads": bert.num_attention_heads,
        "max_position_embeddings": settings.max_positions,
        "global_attn_every_n_layers": settings.global_attention_every,
        "local_attention": settings.local_attention,
        "rope_parameters": {"full_attention": rope, "sliding_attention": dict(rope)},
        "attention_bias": True,
        "mlp_bias": True,
        "norm_bias": True,
        "pad_token_id": 0,
        "cls_token_id": 101,
        "bos_token_id": 101,
        "sep_token_id": 102,
        "eos_token_id": 102,
    }
    return ModernBertModel(ModernBertConfig(**shape))


def _padded(texts: Sequence[Sequence[int]], max_tokens: int) -> tuple[Tensor, Tensor]:
    longest = min(max_tokens, max(map(len, texts)))
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    is_token = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        kept = torch.tensor(text[:longest])
        ids[row, : len(kept)] = kept
        is_token[row, : len(kept)] = True
    return ids, is_token
