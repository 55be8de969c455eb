"""Attention over a compressed past, as DeepSeek-V4 has it: one cached entry for many tokens."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.costs.shape.mixers import CachePart, Indexer
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.sizes import check_sizes
from moeviz.costs.shape.terms import Weight, vector, weight


@dataclass(frozen=True)
class CompressedAttention:
    """One shared key-value head; the last `window` tokens in full, and one entry for every `every`
    tokens before them (None: the window alone).

    With an indexer (compressed sparse attention, every = 4) entries overlap, so that they are made
    from twice the width, and top_k of them are looked at; without one (heavily compressed
    attention, every = 128) all are. The output goes through out_groups matrices of rank out_rank.
    Weights as counted on the modules of transformers 5.23.
    """

    heads: int
    head_dim: int
    q_rank: int
    out_groups: int
    out_rank: int
    window: int
    every: int | None = None
    top_k: int | None = None
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.heads % self.out_groups:
            raise ValueError(
                f"out_groups must divide heads, got {self.out_groups} groups for {self.heads}."
            )
        if (self.indexer is None) != (self.top_k is None):
            raise ValueError("top_k and indexer must be given together or not at all.")
        if self.indexer is not None and self.every is None:
            raise ValueError("every must be given where there is an indexer, got None.")

    @property
    def kind(self) -> str:
        """Window only, compressed sparse (CSA) or heavily compressed attention (HCA)."""
        return "window" if self.every is None else "HCA" if self.indexer is None else "CSA"

    def weights(self, d_model: int) -> tuple[Weight, ...]:
        d, heads, h = ("d_model", d_model), ("heads", self.heads), ("head_dim", self.head_dim)
        rank, out_rank = ("q_rank", self.q_rank), ("out_rank", self.out_rank)
        found = [
            weight("attention", "queries, down", d, rank),
            weight("attention", "queries, up", rank, heads, h),
            weight("attention", "shared keys and values", d, h),
            weight("attention", "attention output, down", heads, h, out_rank),
            weight("attention", "attention output, up", ("groups", self.out_groups), out_rank, d),
            vector("attention", "attention sinks", heads),
            vector("norms", "query latent norm", rank),
            vector("norms", "key and value norm", h),
        ]
        if self.every is None:
            return tuple(found)
        found += _compressor("compressor", d_model, self.head_dim, self.every, self._overlap)
        if self.indexer is not None:
            small, small_heads = self.indexer.head_dim, ("heads", self.indexer.heads)
            found += _compressor("indexer", d_model, small, self.every, self._overlap)
            found += [
                weight("attention", "indexer queries", rank, small_heads, ("head_dim", small)),
                weight("attention", "indexer head weights", d, small_heads),
            ]
        return tuple(found)

    @property
    def _overlap(self) -> int:
        return 1 if self.indexer is None else 2

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        keys = positions.mean_keys(self.window)
        flops = 0.0
        if self.every is not None:
            keys += positions.mean_keys(self.top_k, self.every)
            if self.indexer is not None:
                flops = self.indexer.score_flops(positions.mean_keys(None, self.every))
        return flops + 4 * self.heads * self.head_dim * keys

    def cache(self, context_tokens: int) -> tuple[CachePart, ...]:
        kept = min(context_tokens, self.window)
        words = f"head_dim {self.head_dim} × {kept} tokens"
        parts = [CachePart("window of shared keys and values", self.head_dim * kept, words)]
        if self.every is not None:
            entries = context_tokens // self.every
            words = f"head_dim {self.head_dim} × {context_tokens:,} tokens / {self.every}"
            parts.append(CachePart("compressed entries", self.head_dim * entries, words))
            if self.indexer is not None:
                small = self.indexer.head_dim
                words = f"head_dim {small} × {context_tokens:,} tokens / {self.every}"
                parts.append(CachePart("indexer keys", small * entries, words))
        return tuple(parts)

    def cache_growth(self, context_tokens: int) -> float:
        growth = 0.0 if context_tokens >= self.window else float(self.head_dim)
        if self.every is not None:
            indexer = 0 if self.indexer is None else self.indexer.head_dim
            growth += (self.head_dim + indexer) / self.every
        return growth

    def cache_read(self, context_tokens: int) -> float:
        read = self.head_dim * min(context_tokens, self.window)
        if self.every is not None:
            entries = context_tokens // self.every
            read += self.head_dim * min(entries, self.top_k or entries)
            if self.indexer is not None:
                read += self.indexer.head_dim * entries
        return read


def _compressor(
    name: str, d_model: int, width: int, every: int, overlap: int
) -> tuple[Weight, ...]:
    """What turns `every` tokens into one entry: values, their gates, a bias by position, a norm."""
    d, wide = ("d_model", d_model), ("width", overlap * width)
    return (
        weight("attention", f"{name} values and gates", ("", 2), d, wide),
        vector("attention", f"{name} position bias", ("tokens", every), wide),
        vector("norms", f"{name} norm", ("width", width)),
    )
