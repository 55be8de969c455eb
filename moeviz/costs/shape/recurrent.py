"""Mixers with a state of constant size instead of a cache that grows: linear attention and SSMs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moeviz.costs.shape.mixers import Cache
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.terms import Weight, vector, weight


@dataclass(frozen=True)
class Recurrence:
    """A layer that carries a state along the sequence. Made by the functions below.

    parts: its weights, of which those that are switched off have size 0. state: elements of the
    state; conv_state: of the short convolution's past inputs. products: multiply-adds of one token
    with each state element: 2 for write and read, 3 where the old value is read back before it is
    replaced (the delta rule).
    """

    kind: str
    parts: tuple[Weight, ...]
    state: int
    conv_state: int
    products: int

    def weights(self, d_model: int) -> Iterator[Weight]:
        return (part for part in self.parts if part.size)

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        return 2 * self.products * self.state

    def caches(self) -> list[Cache]:
        sizes = {"recurrent state": self.state, "convolution state": self.conv_state}
        return [Cache(label, size, state=True) for label, size in sizes.items() if size]


def gated_delta_net(
    d_model: int, key_heads: int, value_heads: int, key_dim: int, value_dim: int, conv: int
) -> Recurrence:
    """Gated DeltaNet (Yang et al. 2024, 2412.06464) as in Qwen3-Next: keys are shared by groups of
    value heads; a short convolution over queries, keys and values."""
    d, keys, values = ("d_model", d_model), key_heads * key_dim, value_heads * value_dim
    channels, heads = 2 * keys + values, ("value_heads", value_heads)
    both = ("2 keys + 2 values", channels + values)
    parts = (
        weight("attention", "queries, keys, values and gate", d, both),
        weight("attention", "decay and write strength", d, ("", 2), heads),
        weight("attention", "short convolution", ("channels", channels), ("conv", conv)),
        weight("attention", "mixer output", ("values", values), d),
        vector("attention", "decay and time step", ("", 2), heads),
        vector("norms", "Gated DeltaNet norms", ("", value_dim)),
    )
    return Recurrence("Gated DeltaNet", parts, values * key_dim, channels * (conv - 1), 3)


def mamba(
    d_model: int, d_state: int, conv: int, expand: int, dt_rank: int, *, conv_bias: bool,
    proj_bias: bool,
) -> Recurrence:  # fmt: skip
    """Mamba (Gu and Dao 2023, 2312.00752) with the norms that Jamba adds to dt, B and C."""
    inner, normed = expand * d_model, dt_rank + 2 * d_state
    d, wide = ("d_model", d_model), ("inner", inner)
    biases = inner + inner * conv_bias + (2 * inner + d_model) * proj_bias
    parts = (
        weight("attention", "input and gate", d, ("", 2), wide),
        weight("attention", "short convolution", wide, ("conv", conv)),
        weight("attention", "time step, B and C", wide, ("dt_rank + 2 d_state", normed)),
        weight("attention", "time step, up", ("dt_rank", dt_rank), wide),
        weight("attention", "mixer output", wide, d),
        vector("attention", "A", wide, ("d_state", d_state)),
        vector("attention", "D", wide),
        vector("norms", "Mamba norms", ("", normed)),
        vector("biases", "Mamba biases", ("", biases)),
    )
    return Recurrence("Mamba", parts, inner * d_state, inner * (conv - 1), 2)


def mamba2(
    d_model: int, heads: int, head_dim: int, d_state: int, groups: int, conv: int, *,
    conv_bias: bool, proj_bias: bool,
) -> Recurrence:  # fmt: skip
    """Mamba-2 (Dao and Gu 2024, 2405.21060): a decay for each head, B and C for groups of them."""
    d, inner = ("d_model", d_model), heads * head_dim
    channels = inner + 2 * groups * d_state
    projected = inner + channels + heads
    biases = channels * conv_bias + (projected + d_model) * proj_bias
    parts = (
        weight("attention", "gate, input, B, C and time step", d, ("projected", projected)),
        weight("attention", "short convolution", ("channels", channels), ("conv", conv)),
        weight("attention", "mixer output", ("inner", inner), d),
        vector("attention", "A, D and time step", ("", 3), ("heads", heads)),
        vector("norms", "Mamba-2 norms", ("", inner)),
        vector("biases", "Mamba-2 biases", ("", biases)),
    )
    return Recurrence("Mamba-2", parts, inner * d_state, channels * (conv - 1), 2)


def lightning(d_model: int, heads: int, head_dim: int) -> Recurrence:
    """Lightning attention (Qin et al. 2024, 2401.04658) as in MiniMax-01: linear attention with a
    fixed decay a head and a gated, normed output."""
    d, wide = ("d_model", d_model), ("inner", heads * head_dim)
    parts = (
        weight("attention", "queries, keys and values", ("", 3), d, wide),
        weight("attention", "attention output gate", d, wide),
        weight("attention", "mixer output", wide, d),
        vector("norms", "lightning attention norms", ("", heads * head_dim)),
    )
    return Recurrence("lightning attention", parts, heads * head_dim * head_dim, 0, 2)
