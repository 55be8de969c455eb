"""Exercises of 09_frontier_models: a rumour's arithmetic, the parameters of a layer, a cache."""

from __future__ import annotations

import random
from collections import ChainMap
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, combinations
from typing import Any

import numpy as np

from moeviz.checks import brief
from moeviz.exercises.answers import as_number
from moeviz.exercises.exercise import Mistake, Wrong, function_asked, number_asked

number_asked(
    "09.1",
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
    "Which parameters does a token meet? Count its experts and what is shared.",
    "Each parameter that a token meets takes two FLOPs: a multiply and an add.",
    difficulty=1,
    minutes=2,
    solution="2 * (2 * 111 + 55)",
    praise="554 GFLOP a token. By these sizes, the article that says 560 TFLOPs says 1,000 times "
    "too much.",
    tolerance=0.5,
)


def layer_parameters(d_model, expert_width, num_experts, top_k, shared_width):
    one = 3 * d_model * expert_width
    always = 3 * d_model * shared_width + d_model * num_experts  # shared expert, router
    return num_experts * one + always, top_k * one + always


def _layers() -> Sequence[tuple[int, ...]]:
    """Mixtral's and DeepSeek-V3's layers, then any."""
    dice = random.Random(0)
    cases = [(4096, 14336, 8, 2, 0), (7168, 2048, 256, 8, 2048)]
    for _ in range(6):
        experts = dice.randint(2, 64)
        cases.append((dice.randint(1, 64), dice.randint(1, 64), experts, dice.randint(1, experts),
                      dice.choice((0, dice.randint(1, 99)))))  # fmt: skip
    return cases


def _pair(given: Any) -> tuple[float, float]:
    values = [*given] if hasattr(given, "__iter__") and np.ndim(given) == 1 else []
    pair = [as_number(value) for value in values]
    if len(pair) != 2 or pair[0] is None or pair[1] is None:
        raise Wrong(f"it must return two numbers, (all, active); this returned {brief(given)}.")
    return pair[0], pair[1]


def _counted(d: int, f: int, e: int, k: int, s: int, **terms: int) -> list[int]:
    """All and active parameters with other terms than there are."""
    matrices, router, shared = ({"matrices": 3, "router": 1, "shared": 1} | terms).values()
    return [matrices * d * (n * f + shared * s) + router * d * e for n in (e, k)]


FORGOTTEN = (
    ({"matrices": 2}, "a gated FFN has three matrices: gate, up and down"),
    ({"router": 0}, "the router is missing: d_model × num_experts"),
    ({"shared": 0}, "the shared expert is missing"),
)


def _forgotten() -> Iterator[Mistake]:
    """What may be forgotten, alone or together: in both counts, or in that of all alone."""
    for some in chain.from_iterable(combinations(FORGOTTEN, n) for n in (1, 2, 3)):
        both = partial(_counted, **dict(ChainMap(*(terms for terms, _ in some))))
        sentence = "; ".join(words for _, words in some) + "."
        yield both, sentence
        yield lambda *case, both=both: (both(*case)[0], _counted(*case)[1]), sentence


function_asked(
    "09.2",
    "One expert of width f is a gated FFN: 3 × d_model × f. So is the shared one.",
    "Which of experts, shared expert and router meet every token? They stand in both counts.",
    difficulty=2,
    minutes=6,
    solution=layer_parameters,
    praise="That is all a config says about an MoE layer, and 98 % of DeepSeek-V3 follows from it.",
    cases=_layers,
    mistakes=(
        *_forgotten(),
        (
            lambda d, f, e, k, s: (_counted(d, f, e, k, s)[0], 3 * d * (k * f + s) + d * k),
            "the router looks at all experts to choose: all of it is active.",
        ),
        (
            lambda d, f, e, k, s: (_counted(d, f, e, k, s)[0], 3 * d * (k * f + s)),
            "the router is active too: every token meets all of it.",
        ),
        (
            lambda d, f, e, k, s: (_counted(d, f, e, k, s)[0], 3 * d * k * f + d * e),
            "a shared expert meets every token: it is active.",
        ),
        (
            lambda *case: _counted(*case)[::-1],
            "the right numbers the other way round: first all, then active.",
        ),
    ),
    words="for d_model {}, width {}, {} experts, top-{}, shared {} it is {wanted[0]:,} and "
    "{wanted[1]:,}, not {found[0]:,.0f} and {found[1]:,.0f}.",
    read=_pair,
)


def latent_cache_bytes(layers, kv_rank, rope_dim, tokens, bits):
    return layers * tokens * (kv_rank + rope_dim) * bits / 8


def _caches() -> Sequence[tuple[int, ...]]:
    dice = random.Random(1)
    return [(61, 512, 64, 1, 16), (61, 512, 64, 131_072, 8)] + [
        (dice.randint(1, 9), dice.randint(8, 99), dice.randint(2, 33), dice.randint(1, 999),
         dice.choice((4, 8, 16, 32)))
        for _ in range(6)
    ]  # fmt: skip


ONCE = "keys and values come from one latent vector: it is stored once, not twice"
KEY = "the rotary key of rope_dim is kept beside the latent vector"

function_asked(
    "09.3",
    "A token leaves kv_rank + rope_dim numbers in each layer, whatever the number of heads.",
    "Every layer keeps that for every token, and each number has `bits` bits.",
    difficulty=2,
    minutes=4,
    solution=latent_cache_bytes,
    praise="70,272 bytes a token for DeepSeek-V3 in 16 bits. The heads do not appear in it at all.",
    cases=_caches,
    mistakes=(
        (lambda n, r, p, t, b: n * t * 2 * (r + p) * b / 8, f"{ONCE}."),
        (lambda n, r, p, t, b: n * t * r * b / 8, f"{KEY}."),
        (lambda n, r, p, t, b: n * t * 2 * r * b / 8, f"{ONCE}; {KEY}."),
        (lambda n, r, p, t, b: n * t * (r + p) * b, "that is bits; 8 of them are a byte."),
        (lambda n, r, p, t, b: t * (r + p) * b / 8, "every layer keeps its own."),
        (
            lambda n, r, p, t, b: n * (r + p) * b / 8,
            "that is one token's; a sequence keeps them all.",
        ),
    ),
    words="for {} layers, kv_rank {}, rope_dim {}, {:,} tokens and {} bits it is {wanted:,.0f} "
    "bytes, not {found:,.0f}.",
)
