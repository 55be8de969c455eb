"""Softmax attention of every kind: weights, products with past keys, and what must be cached.

Grouped queries: Ainslie et al. 2023 (2305.13245); one key head: Shazeer 2019 (1911.02150); latent
attention: DeepSeek-V2 (2405.04434), section 2.1; the indexer: DeepSeek-V3.2 (2512.02556);
compressed attention: the modules of DeepSeek-V4 in transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from moeviz.checks import check_choice, check_whole
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.sizes import check_sizes
from moeviz.costs.shape.terms import Weight, vector, weight

QkNorm = Literal["none", "head", "width"]


@dataclass(frozen=True)
class Cache:
    """What one layer keeps of a sequence: an entry of `width` elements for every `every` tokens, at
    most `kept` of them, of which a decoded token reads at most `read`; words: the width, multiplied
    out. state: a recurrent state instead, of `width` elements at any length, usually in float32."""

    label: str
    width: int
    words: str = ""
    every: int = 1
    kept: int | None = None
    read: int | None = None
    state: bool = False

    def entries(self, context_tokens: int) -> int:
        if self.state:
            return 1
        entries = context_tokens // self.every
        return entries if self.kept is None else min(entries, self.kept)

    def growth(self, context_tokens: int) -> float:
        """Elements that the next token adds when so many are there already, on average."""
        full = self.kept is not None and context_tokens >= self.kept
        return 0 if full or self.state else self.width / self.every

    def elements_read(self, context_tokens: int) -> int:
        """Elements that one decoded token reads."""
        entries = self.entries(context_tokens)
        return self.width * (entries if self.read is None else min(entries, self.read))

    def formula(self, context_tokens: int) -> str:
        if self.state:
            return f"{self.width:,} elements"
        if self.every > 1:
            return f"{self.words} × {context_tokens:,} tokens / {self.every}"
        return f"{self.words} × {self.entries(context_tokens):,} tokens"


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

    def weights(self, d_model: int) -> Iterator[Weight]:
        d, h = ("d_model", d_model), ("head_dim", self.head_dim)
        queries, keys = ("heads", self.heads), ("kv_heads", self.kv_heads)
        yield weight("attention", "queries", d, queries, h)
        yield weight("attention", "keys and values", ("", 2), d, keys, h)
        yield weight("attention", "attention output", queries, h, d)
        if self.output_gate:
            yield weight("attention", "attention output gate", d, queries, h)
        if self.sinks:
            yield vector("attention", "attention sinks", queries)
        if self.qkv_bias:
            yield vector("biases", "query bias", queries, h)
            yield vector("biases", "key and value bias", ("", 2), keys, h)
        if self.qkv_bias and self.output_gate:
            yield vector("biases", "output gate bias", queries, h)
        if self.out_bias:
            yield vector("biases", "attention output bias", d)
        if self.qk_norm == "head":
            yield vector("norms", "query and key norms", ("", 2), h)
        elif self.qk_norm == "width":
            yield vector("norms", "query norm", queries, h)
            yield vector("norms", "key norm", keys, h)

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        """FLOPs of one token beyond its weights: 2 per multiply-add with keys, values or state.
        absorbed: latent attention as it is decoded, on the compressed cache itself."""
        if self.chunked and self.window is not None:
            keys = positions.mean_chunked(self.window)
        else:
            keys = positions.mean_keys(self.window)
        return 4 * self.heads * self.head_dim * keys

    def caches(self) -> list[Cache]:
        width = 2 * self.kv_heads * self.head_dim
        words = f"2 × kv_heads {self.kv_heads} × head_dim {self.head_dim}"
        return [Cache("keys and values", width, words, kept=self.window)]


@dataclass(frozen=True)
class Indexer:
    """A small scorer that picks which past keys attention looks at (DeepSeek Sparse Attention)."""

    heads: int
    head_dim: int

    def __post_init__(self) -> None:
        check_whole("indexer heads", self.heads)
        check_whole("indexer head_dim", self.head_dim)

    def weights(self, d_model: int, query_from: int) -> Iterator[Weight]:
        d, heads, h = ("d_model", d_model), ("heads", self.heads), ("head_dim", self.head_dim)
        yield weight("attention", "indexer queries", ("rank", query_from), heads, h)
        yield weight("attention", "indexer keys", d, h)
        yield weight("attention", "indexer head weights", d, heads)
        yield vector("norms", "indexer key norm", ("", 2), h)

    def score_flops(self, keys: float) -> float:
        return 2 * self.heads * self.head_dim * keys

    def caches(self, every: int = 1) -> list[Cache]:
        return [Cache("indexer keys", self.head_dim, f"head_dim {self.head_dim}", every)]


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

    def weights(self, d_model: int) -> Iterator[Weight]:
        d, heads, rank = ("d_model", d_model), ("heads", self.heads), ("kv_rank", self.kv_rank)
        key = ("nope + rope", self.nope_dim + self.rope_dim)
        if self.q_rank is None:
            yield weight("attention", "queries", d, heads, key)
        else:
            q_rank = ("q_rank", self.q_rank)
            yield weight("attention", "queries, down", d, q_rank)
            yield weight("attention", "queries, up", q_rank, heads, key)
            yield vector("norms", "query latent norm", q_rank)
            if self.bias:
                yield vector("biases", "query latent bias", q_rank)
        latent = ("kv_rank + rope", self.kv_rank + self.rope_dim)
        up = ("nope + value", self.nope_dim + self.value_dim)
        yield weight("attention", "keys and values, down", d, latent)
        yield weight("attention", "keys and values, up", rank, heads, up)
        yield weight("attention", "attention output", heads, ("value_dim", self.value_dim), d)
        yield vector("norms", "key and value latent norm", rank)
        if self.bias:
            yield vector("biases", "key and value latent bias", latent)
            yield vector("biases", "attention output bias", d)
        if self.indexer is not None:
            yield from self.indexer.weights(d_model, self.q_rank or d_model)

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        width = self.nope_dim + self.rope_dim + self.value_dim
        if absorbed:
            width = 2 * self.kv_rank + self.rope_dim
        flops = 2 * self.heads * width * positions.mean_keys(self.top_k)
        if self.indexer is not None:
            flops += self.indexer.score_flops(positions.mean_keys())
        return flops

    def caches(self) -> list[Cache]:
        words = f"(kv_rank {self.kv_rank} + rope {self.rope_dim})"
        width = self.kv_rank + self.rope_dim
        latent = Cache("latent keys and values", width, words, read=self.top_k)
        return [latent, *(self.indexer.caches() if self.indexer is not None else [])]
