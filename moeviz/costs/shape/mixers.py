"""Softmax attention of every kind: weights, products with past keys, and what must be cached.

Grouped queries: Ainslie et al. 2023 (2305.13245); one key head: Shazeer 2019 (1911.02150); latent
attention: DeepSeek-V2 (2405.04434), section 2.1; the indexer: DeepSeek-V3.2 (2512.02556);
compressed attention: the modules of DeepSeek-V4 in transformers 5.23.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from moeviz.checks import check_choice, check_whole
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.sizes import check_sizes
from moeviz.costs.shape.terms import Weight, vector, weight

QkNorm = Literal["none", "head", "width"]


@dataclass(frozen=True)
class CachePart:
    """What one layer keeps of a sequence: elements; state: whether it is a recurrent state, of a
    size that no token adds to and usually kept in float32."""

    label: str
    elements: float
    formula: str
    state: bool = False


class Mixer(Protocol):
    """What a layer does along the sequence."""

    @property
    def kind(self) -> str: ...

    def weights(self, d_model: int) -> tuple[Weight, ...]: ...

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        """FLOPs of one token beyond its weights: 2 per multiply-add with keys, values or state.
        absorbed: latent attention as it is decoded, on the compressed cache itself."""

    def cache(self, context_tokens: int) -> tuple[CachePart, ...]: ...

    def cache_growth(self, context_tokens: int) -> float:
        """Elements that the next token adds when so many are there already, on average."""

    def cache_read(self, context_tokens: int) -> float:
        """Elements that one decoded token reads."""


@dataclass(frozen=True)
class Attention:
    """Multi-head (kv_heads = heads), grouped (fewer) or multi-query attention (1).

    qk_norm: norms of queries and keys, "head" with one vector of head_dim for each, "width" with
    one of their whole width. output_gate: a second projection as wide as the queries multiplies the
    output (Qwen3-Next). sinks: one learned logit a head (gpt-oss). window: keys that a query sees
    at most; chunked: it sees those of its own stretch of `window` tokens instead (Llama 4).
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: QkNorm = "none"
    output_gate: bool = False
    sinks: bool = False
    window: int | None = None
    chunked: bool = False

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads must divide heads, got {self.kv_heads} key heads for {self.heads} heads."
            )
        check_choice("qk_norm", self.qk_norm, get_args(QkNorm))
        if self.chunked and self.window is None:
            raise ValueError("window must be given where attention is chunked, got None.")

    @property
    def kind(self) -> str:
        """MHA, GQA or MQA."""
        return "MHA" if self.kv_heads == self.heads else "MQA" if self.kv_heads == 1 else "GQA"

    def weights(self, d_model: int) -> tuple[Weight, ...]:
        d, h = ("d_model", d_model), ("head_dim", self.head_dim)
        queries, keys = ("heads", self.heads), ("kv_heads", self.kv_heads)
        found = [
            weight("attention", "queries", d, queries, h),
            weight("attention", "keys and values", ("", 2), d, keys, h),
            weight("attention", "attention output", queries, h, d),
        ]
        if self.output_gate:
            found.append(weight("attention", "attention output gate", d, queries, h))
        if self.sinks:
            found.append(vector("attention", "attention sinks", queries))
        if self.qkv_bias:
            found.append(vector("biases", "query bias", queries, h))
            found.append(vector("biases", "key and value bias", ("", 2), keys, h))
            if self.output_gate:
                found.append(vector("biases", "output gate bias", queries, h))
        if self.out_bias:
            found.append(vector("biases", "attention output bias", d))
        if self.qk_norm == "head":
            found.append(vector("norms", "query and key norms", ("", 2), h))
        elif self.qk_norm == "width":
            found.append(vector("norms", "query norm", queries, h))
            found.append(vector("norms", "key norm", keys, h))
        return tuple(found)

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        if self.chunked and self.window is not None:
            keys = positions.mean_chunked(self.window)
        else:
            keys = positions.mean_keys(self.window)
        return 4 * self.heads * self.head_dim * keys

    def _kept(self, context_tokens: int) -> int:
        return min(context_tokens, self.window or context_tokens)

    def cache(self, context_tokens: int) -> tuple[CachePart, ...]:
        kept = self._kept(context_tokens)
        elements = 2 * self.kv_heads * self.head_dim * kept
        words = f"2 × kv_heads {self.kv_heads} × head_dim {self.head_dim} × {kept:,} tokens"
        return (CachePart("keys and values", elements, words),)

    def cache_growth(self, context_tokens: int) -> float:
        full = self.window is not None and context_tokens >= self.window
        return 0 if full else 2 * self.kv_heads * self.head_dim

    def cache_read(self, context_tokens: int) -> float:
        return 2 * self.kv_heads * self.head_dim * self._kept(context_tokens)


@dataclass(frozen=True)
class Indexer:
    """A small scorer that picks which past keys attention looks at (DeepSeek Sparse Attention)."""

    heads: int
    head_dim: int

    def __post_init__(self) -> None:
        check_whole("indexer heads", self.heads)
        check_whole("indexer head_dim", self.head_dim)

    def weights(self, d_model: int, query_from: int) -> tuple[Weight, ...]:
        d, heads, h = ("d_model", d_model), ("heads", self.heads), ("head_dim", self.head_dim)
        return (
            weight("attention", "indexer queries", ("rank", query_from), heads, h),
            weight("attention", "indexer keys", d, h),
            weight("attention", "indexer head weights", d, heads),
            vector("norms", "indexer key norm", ("", 2), h),
        )

    def score_flops(self, keys: float) -> float:
        return 2 * self.heads * self.head_dim * keys


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention: keys and values are made from a cached vector of kv_rank, beside
    one shared rotary key of rope_dim.

    q_rank: queries go through a bottleneck of their own, None: straight from the input. nope_dim,
    rope_dim, value_dim: of one head's key without and with rotation, and of its value. bias: of the
    two down-projections and of the output. top_k: keys that are looked at, as `indexer` chose or,
    without one, as an earlier layer's did.
    """

    heads: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    q_rank: int | None = None
    bias: bool = False
    top_k: int | None = None
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.indexer is not None and self.top_k is None:
            raise ValueError("top_k must be given where there is an indexer, got None.")

    @property
    def kind(self) -> str:
        return "MLA" if self.top_k is None else "MLA, sparse"

    def weights(self, d_model: int) -> tuple[Weight, ...]:
        d, heads, rank = ("d_model", d_model), ("heads", self.heads), ("kv_rank", self.kv_rank)
        key = ("nope + rope", self.nope_dim + self.rope_dim)
        found = []
        if self.q_rank is None:
            found.append(weight("attention", "queries", d, heads, key))
        else:
            q_rank = ("q_rank", self.q_rank)
            found.append(weight("attention", "queries, down", d, q_rank))
            found.append(weight("attention", "queries, up", q_rank, heads, key))
            found.append(vector("norms", "query latent norm", q_rank))
            if self.bias:
                found.append(vector("biases", "query latent bias", q_rank))
        latent = ("kv_rank + rope", self.kv_rank + self.rope_dim)
        up = ("nope + value", self.nope_dim + self.value_dim)
        found += [
            weight("attention", "keys and values, down", d, latent),
            weight("attention", "keys and values, up", rank, heads, up),
            weight("attention", "attention output", heads, ("value_dim", self.value_dim), d),
            vector("norms", "key and value latent norm", rank),
        ]
        if self.bias:
            found.append(vector("biases", "key and value latent bias", latent))
            found.append(vector("biases", "attention output bias", d))
        if self.indexer is not None:
            found += self.indexer.weights(d_model, self.q_rank or d_model)
        return tuple(found)

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        width = self.nope_dim + self.rope_dim + self.value_dim
        if absorbed:
            width = 2 * self.kv_rank + self.rope_dim
        flops = 2 * self.heads * width * positions.mean_keys(self.top_k)
        if self.indexer is not None:
            flops += self.indexer.score_flops(positions.mean_keys())
        return flops

    def cache(self, context_tokens: int) -> tuple[CachePart, ...]:
        latent = self.kv_rank + self.rope_dim
        words = f"(kv_rank {self.kv_rank} + rope {self.rope_dim}) × {context_tokens:,} tokens"
        parts = [CachePart("latent keys and values", latent * context_tokens, words)]
        if self.indexer is not None:
            words = f"head_dim {self.indexer.head_dim} × {context_tokens:,} tokens"
            elements = self.indexer.head_dim * context_tokens
            parts.append(CachePart("indexer keys", elements, words))
        return tuple(parts)

    def cache_growth(self, context_tokens: int) -> float:
        indexer = 0 if self.indexer is None else self.indexer.head_dim
        return self.kv_rank + self.rope_dim + indexer

    def cache_read(self, context_tokens: int) -> float:
        looked_at = min(context_tokens, self.top_k or context_tokens)
        indexer = 0 if self.indexer is None else self.indexer.head_dim * context_tokens
        return (self.kv_rank + self.rope_dim) * looked_at + indexer
