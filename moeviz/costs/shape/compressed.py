"""Attention over a compressed past, as DeepSeek-V4 has it: one cached entry for many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moeviz.costs.shape.mixers import Cache, Indexer
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

    def weights(self, d_model: int) -> Iterator[Weight]:
        d, heads, h = ("d_model", d_model), ("heads", self.heads), ("head_dim", self.head_dim)
        rank, out_rank = ("q_rank", self.q_rank), ("out_rank", self.out_rank)
        yield weight("attention", "queries, down", d, rank)
        yield weight("attention", "queries, up", rank, heads, h)
        yield weight("attention", "shared keys and values", d, h)
        yield weight("attention", "attention output, down", heads, h, out_rank)
        yield weight("attention", "attention output, up", ("groups", self.out_groups), out_rank, d)
        yield vector("attention", "attention sinks", heads)
        yield vector("norms", "query latent norm", rank)
        yield vector("norms", "key and value norm", h)
        if self.every is None:
            return
        overlap = 1 if self.indexer is None else 2
        yield from _compressor("compressor", d_model, self.head_dim, self.every, overlap)
        if self.indexer is not None:
            small, small_heads = self.indexer.head_dim, ("heads", self.indexer.heads)
            yield from _compressor("indexer", d_model, small, self.every, overlap)
            yield weight("attention", "indexer queries", rank, small_heads, ("head_dim", small))
            yield weight("attention", "indexer head weights", d, small_heads)

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        keys = positions.mean_keys(self.window)
        flops = 0.0
        if self.every is not None:
            keys += positions.mean_keys(self.top_k, self.every)
            if self.indexer is not None:
                flops = self.indexer.score_flops(positions.mean_keys(None, self.every))
        return flops + 4 * self.heads * self.head_dim * keys

    def caches(self) -> list[Cache]:
        words, width = f"head_dim {self.head_dim}", self.head_dim
        caches = [Cache("window of shared keys and values", width, words, kept=self.window)]
        if self.every is not None:
            caches.append(Cache("compressed entries", width, words, self.every, read=self.top_k))
            if self.indexer is not None:
                caches += self.indexer.caches(self.every)
        return caches


def _compressor(name: str, d_model: int, width: int, every: int, overlap: int) -> Iterator[Weight]:
    """What turns `every` tokens into one entry: values, their gates, a bias by position, a norm."""
    d, wide = ("d_model", d_model), ("width", overlap * width)
    yield weight("attention", f"{name} values and gates", ("", 2), d, wide)
    yield vector("attention", f"{name} position bias", ("tokens", every), wide)
    yield vector("norms", f"{name} norm", ("width", width))
