"""Mixers with a state of constant size instead of a cache that grows: linear attention and SSMs."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.checks import check_whole
from moeviz.costs.shape.mixers import CachePart
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.terms import Weight, vector, weight

Factors = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Recurrence:
    """A layer that carries a state along the sequence. Made by the functions below.

    matrices, vectors: (label, the named factors of its size). state: elements of the state;
    conv_state: of the short convolution's past inputs. products: multiply-adds of one token with
    each state element: 2 for write and read, 3 where the old value is read back before it is
    replaced (the delta rule).
    """

    kind: str
    matrices: tuple[tuple[str, Factors], ...]
    vectors: tuple[tuple[str, Factors], ...]
    norm: int
    bias: int
    state: int
    conv_state: int
    products: int

    def weights(self, d_model: int) -> tuple[Weight, ...]:
        found = [weight("attention", label, *factors) for label, factors in self.matrices]
        found += [vector("attention", label, *factors) for label, factors in self.vectors]
        if self.norm:
            found.append(vector("norms", f"{self.kind} norms", ("", self.norm)))
        if self.bias:
            found.append(vector("biases", f"{self.kind} biases", ("", self.bias)))
        return tuple(found)

    def score_flops(self, positions: Positions, absorbed: bool) -> float:
        return 2 * self.products * self.state

    def cache(self, context_tokens: int) -> tuple[CachePart, ...]:
        parts = [CachePart("recurrent state", self.state, f"{self.state:,} elements", True)]
        if self.conv_state:
            words = f"{self.conv_state:,} elements"
            parts.append(CachePart("convolution state", self.conv_state, words, True))
        return tuple(parts)

    def cache_growth(self, context_tokens: int) -> float:
        return 0

    def cache_read(self, context_tokens: int) -> float:
        return self.state + self.conv_state


def gated_delta_net(
    d_model: int, key_heads: int, value_heads: int, key_dim: int, value_dim: int, conv: int
) -> Recurrence:
    """Gated DeltaNet (Yang et al. 2024, 2412.06464) as in Qwen3-Next: keys are shared by groups of
    value heads; a short convolution over queries, keys and values."""
    _check(locals())
    d, keys, values = ("d_model", d_model), key_heads * key_dim, value_heads * value_dim
    channels = 2 * keys + values
    return Recurrence(
        kind="Gated DeltaNet",
        matrices=(
            ("queries, keys, values and gate", (d, ("2 keys + 2 values", channels + values))),
            ("decay and write strength", (d, ("", 2), ("value_heads", value_heads))),
            ("short convolution", (("channels", channels), ("conv", conv))),
            ("mixer output", (("values", values), d)),
        ),
        vectors=(("decay and time step", (("", 2), ("value_heads", value_heads))),),
        norm=value_dim,
        bias=0,
        state=value_heads * key_dim * value_dim,
        conv_state=channels * (conv - 1),
        products=3,
    )


def mamba(
    d_model: int, d_state: int, conv: int, expand: int, dt_rank: int, *, conv_bias: bool,
    proj_bias: bool,
) -> Recurrence:  # fmt: skip
    """Mamba (Gu and Dao 2023, 2312.00752) with the norms that Jamba adds to dt, B and C."""
    _check(locals())
    inner = expand * d_model
    d, wide = ("d_model", d_model), ("inner", inner)
    return Recurrence(
        kind="Mamba",
        matrices=(
            ("input and gate", (d, ("", 2), wide)),
            ("short convolution", (wide, ("conv", conv))),
            ("time step, B and C", (wide, ("dt_rank + 2 d_state", dt_rank + 2 * d_state))),
            ("time step, up", (("dt_rank", dt_rank), wide)),
            ("mixer output", (wide, d)),
        ),
        vectors=(("A", (wide, ("d_state", d_state))), ("D", (wide,))),
        norm=dt_rank + 2 * d_state,
        bias=inner + inner * conv_bias + (2 * inner + d_model) * proj_bias,
        state=inner * d_state,
        conv_state=inner * (conv - 1),
        products=2,
    )


def mamba2(
    d_model: int, heads: int, head_dim: int, d_state: int, groups: int, conv: int, *,
    conv_bias: bool, proj_bias: bool,
) -> Recurrence:  # fmt: skip
    """Mamba-2 (Dao and Gu 2024, 2405.21060): a decay for each head, B and C for groups of them."""
    _check(locals())
    d, inner = ("d_model", d_model), heads * head_dim
    channels = inner + 2 * groups * d_state
    projected = inner + channels + heads
    return Recurrence(
        kind="Mamba-2",
        matrices=(
            ("gate, input, B, C and time step", (d, ("projected", projected))),
            ("short convolution", (("channels", channels), ("conv", conv))),
            ("mixer output", (("inner", inner), d)),
        ),
        vectors=(("A, D and time step", (("", 3), ("heads", heads))),),
        norm=inner,
        bias=channels * conv_bias + (projected + d_model) * proj_bias,
        state=inner * d_state,
        conv_state=channels * (conv - 1),
        products=2,
    )


def lightning(d_model: int, heads: int, head_dim: int) -> Recurrence:
    """Lightning attention (Qin et al. 2024, 2401.04658) as in MiniMax-01: linear attention with a
    fixed decay a head and a gated, normed output."""
    _check(locals())
    d, wide = ("d_model", d_model), ("inner", heads * head_dim)
    return Recurrence(
        kind="lightning attention",
        matrices=(
            ("queries, keys and values", (("", 3), d, wide)),
            ("attention output gate", (d, wide)),
            ("mixer output", (wide, d)),
        ),
        vectors=(),
        norm=heads * head_dim,
        bias=0,
        state=heads * head_dim * head_dim,
        conv_state=0,
        products=2,
    )


def _check(sizes: dict[str, int]) -> None:
    for name, value in sizes.items():
        if not isinstance(value, bool):
            check_whole(name, value)
