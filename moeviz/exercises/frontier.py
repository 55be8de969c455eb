"""Exercises of 09_frontier_models: a rumour's arithmetic, the parameters of a layer, a cache."""

from __future__ import annotations

import math
import random
from itertools import product
from typing import Any

from moeviz.costs import Architecture, LatentAttention, Layer, MoE, kv_cache_bytes
from moeviz.exercises.exercise import Exercise, is_number, number_near


def _rumour(answer: Any) -> str | None:
    return number_near(
        answer,
        554,
        {
            277: "that is the active parameters in billions; each takes a multiply and an add.",
            280: "that is the rumour's own rounded figure of active parameters, not FLOPs.",
            560: "that is twice the rumour's rounded 280B; take 2 × 111B + 55B.",
            3662: "that is all 16 experts, as if it were dense; a token visits two.",
            3552: "that is all 16 experts, and without the shared part.",
            444: "the shared 55B meet every token too.",
            332: "a token visits two experts, not one.",
            554e9: "the answer is in GFLOP, billions.",
        },
        tolerance=0.5,
    )


# 09.2


def _layer(answer: Any) -> str | None:
    if not callable(answer):
        return "the answer is a function of d_model, expert_width, num_experts, top_k, shared_width"
    dice = random.Random(0)
    # Mixtral's and DeepSeek-V3's layers, then any.
    cases = [(4096, 14336, 8, 2, 0), (7168, 2048, 256, 8, 2048)]
    for _ in range(6):
        experts = dice.randint(2, 64)
        cases.append((dice.randint(1, 64), dice.randint(1, 64), experts, dice.randint(1, experts),
                      dice.choice((0, dice.randint(1, 99)))))  # fmt: skip
    for d_model, width, experts, top_k, shared in cases:
        moe = MoE(experts, top_k, width, shared_experts=int(shared > 0), shared_width=shared)
        weights = [*moe.weights(d_model)]
        want = (sum(w.count for w in weights), sum(w.active for w in weights))
        given = answer(d_model, width, experts, top_k, shared)
        if not isinstance(given, tuple | list) or len(given) != 2 or not all(map(is_number, given)):
            return f"it must return two numbers, (all, active); this returned {given!r}."
        if tuple(given) == want:
            continue
        fault = _layer_fault(tuple(given), want, d_model, width, experts, top_k, shared)
        where = (f"d_model {d_model}, width {width}, {experts} experts, top-{top_k}, shared "
                 f"{shared}")  # fmt: skip
        return fault or f"for {where} it is {want[0]:,} and {want[1]:,}, not " + " and ".join(
            f"{v:,}" for v in given
        )
    return None


def _layer_fault(
    given: tuple, want: tuple, d: int, width: int, experts: int, top_k: int, shared: int
) -> str | None:
    """Which well-known other thing it is."""
    router = d * experts
    for matrices, routed, common in product((3, 2), (True, False), (True, False)):
        each = matrices * d * (experts * width + (shared if common else 0))
        if (matrices, routed, common) != (3, True, True) and given[0] == each + routed * router:
            faults = ["a gated FFN has three matrices: gate, up and down"] if matrices == 2 else []
            faults += [] if routed else ["the router is missing: d_model × num_experts"]
            faults += [] if common or not shared else ["the shared expert is missing"]
            if faults:
                return "; ".join(faults) + "."
    if given[0] == want[0] and given[1] == want[1] - router + d * top_k:
        return "the router looks at all experts to choose: all of it is active."
    if given[0] == want[0] and given[1] == want[1] - router:
        return "the router is active too: every token meets all of it."
    if given[0] == want[0] and shared and given[1] == want[1] - 3 * d * shared:
        return "a shared expert meets every token: it is active."
    if given == want[::-1]:
        return "the right numbers the other way round: first all, then active."
    return None


# 09.3


def _cache(answer: Any) -> str | None:
    if not callable(answer):
        return "the answer is a function of layers, kv_rank, rope_dim, tokens and bits."
    dice = random.Random(1)
    cases = [(61, 512, 64, 1, 16), (61, 512, 64, 131_072, 8)]
    cases += [
        (dice.randint(1, 9), dice.randint(8, 99), dice.randint(2, 33), dice.randint(1, 999),
         dice.choice((4, 8, 16, 32)))
        for _ in range(6)
    ]  # fmt: skip
    for layers, rank, rope, tokens, bits in cases:
        want = _latent_bytes(layers, rank, rope, tokens, bits)
        given = answer(layers, rank, rope, tokens, bits)
        if not is_number(given):
            return f"it must return one number, bytes; this returned {given!r}."
        if math.isclose(given, want, rel_tol=1e-9):
            continue
        latent = rank / (rank + rope)
        once = "keys and values come from one latent vector: it is stored once, not twice"
        key = "the rotary key of rope_dim is kept beside the latent vector"
        for factor, words in (
            (2, once),
            (latent, key),
            (2 * latent, f"{once}; {key}"),
            (8, "that is bits; 8 of them are a byte"),
            (1 / layers, "every layer keeps its own"),
            (1 / tokens, "that is one token's; a sequence keeps them all"),
        ):
            if math.isclose(given, factor * want, rel_tol=1e-9):
                return f"{words}."
        return (
            f"for {layers} layers, kv_rank {rank}, rope_dim {rope}, {tokens:,} tokens and {bits} "
            f"bits it is {want:,.0f} bytes, not {given:,.0f}."
        )
    return None


def _latent_bytes(layers: int, rank: int, rope: int, tokens: int, bits: int) -> float:
    attention = LatentAttention(heads=2, kv_rank=rank, rope_dim=rope, nope_dim=4, value_dim=4)
    shape = Architecture("one", 8, 8, (Layer(attention, None),) * layers)
    return kv_cache_bytes(shape, tokens, bits=bits).total


RUMOUR = Exercise(
    _rumour,
    (
        "Active parameters: two experts and what is shared, 2 × 111B + 55B.",
        "Two FLOPs for each parameter that a token meets: a multiply and an add.",
    ),
    "2 * (2 * 111 + 55)",
    "554 GFLOP a token. The article that says 560 TFLOPs is off by a thousand, whatever GPT-4 is.",
)
LAYER = Exercise(
    _layer,
    (
        "One expert of width f is a gated FFN: 3 × d_model × f. So is the shared one.",
        "all = experts × one + shared + router; active = top_k × one + shared + router.",
    ),
    "def layer_parameters(d_model, expert_width, num_experts, top_k, shared_width):\n"
    "    one = 3 * d_model * expert_width\n"
    "    always = 3 * d_model * shared_width + d_model * num_experts  # shared expert, router\n"
    "    return num_experts * one + always, top_k * one + always",
    "That is all a config says about an MoE layer, and 98 % of DeepSeek-V3 follows from it.",
)
CACHE = Exercise(
    _cache,
    (
        "A token leaves kv_rank + rope_dim numbers in each layer, whatever the number of heads.",
        "bytes = layers × tokens × (kv_rank + rope_dim) × bits / 8",
    ),
    "def latent_cache_bytes(layers, kv_rank, rope_dim, tokens, bits):\n"
    "    return layers * tokens * (kv_rank + rope_dim) * bits / 8",
    "70,272 bytes a token for DeepSeek-V3 in 16 bits. The heads do not appear in it at all.",
)
