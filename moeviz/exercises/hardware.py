"""Exercises of 08_hardware: devices for a model, experts for a batch, and the time of a step."""

from __future__ import annotations

import numpy as np

from moeviz.costs import decode_step, device, fit, model
from moeviz.exercises.exercise import function_asked, number_asked

TRIES = 30
GIGABYTES = "that is how many GB the weights take; how many devices of 80 GB hold them?"

number_asked(
    "08.1",
    4,
    {
        281: GIGABYTES,
        281.2: GIGABYTES,
        1: "that is for the active parameters; every token picks other experts, so all are kept at "
        "hand.",
        2: "141 GB would be one byte a parameter; BF16 takes two.",
        3: "3 devices have 240 GB, less than the weights.",
        8: "16 bits are 2 bytes a parameter, not 4.",
    },
    "Two bytes a parameter: 281 GB. All experts count, not only those that one token visits.",
    "How many devices hold that many bytes? The last one need not be full.",
    difficulty=1,
    minutes=2,
    solution="4  # 281 GB of weights; 3 devices have 240 GB",
    praise="And the cache is still to come: what stays free of 320 GB is 39 GB.",
    tolerance=0.05,
)


def experts_touched(num_experts, top_k, batch):
    missed = (1 - top_k / num_experts) ** batch
    return num_experts * (1 - missed)


def _batches() -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(8)
    cases = [(8, 2, 1), (256, 8, 32)]
    for _ in range(TRIES):
        num_experts = int(rng.integers(2, 300))
        top_k = int(rng.integers(1, num_experts))
        cases.append((num_experts, top_k, int(rng.integers(1, 60))))
    return cases


function_asked(
    "08.2",
    "Take one expert. With which probability does one token miss it, and with which do all tokens "
    "of the batch?",
    "The mean number touched is the number of experts times the probability that one is not "
    "missed. Independent probabilities are multiplied.",
    difficulty=2,
    minutes=6,
    solution=experts_touched,
    praise="Of 256 experts with K = 8, 32 tokens touch 163: most of the model is read for 32 "
    "tokens.",
    cases=_batches,
    mistakes=(
        (
            lambda e, k, b: min(e, k * b),
            "that is right only if no two tokens ever agree on an expert.",
        ),
        (lambda e, k, b: k, "the batch plays no part in it: more tokens touch more experts."),
        (
            lambda e, k, b: e * (1 - (1 - 1 / e) ** (k * b)),
            "that lets a token pick one expert twice; its K experts are distinct, so it misses an "
            "expert with 1 - K/E.",
        ),
        (lambda e, k, b: e * (1 - k / e) ** b, "those are the experts that nobody touches."),
        (
            lambda e, k, b: 1 - (1 - k / e) ** b,
            "that is the share of the experts; how many are they?",
        ),
        (
            lambda e, k, b: 1 - k / e,
            "that is the chance that one token misses an expert; go on from there.",
        ),
    ),
    words="for E = {}, K = {}, B = {} it must be {wanted:.4g}, not {found:.4g}.",
)


def step_seconds(batch, distinct, expert, rest, cache, flops, bandwidth, peak):
    moved = rest + distinct * expert + batch * cache
    return max(moved / bandwidth, batch * flops / peak)


def _steps() -> list[tuple[float, ...]]:
    """Steps of real models on real devices, memory- and compute-bound ones, as arguments."""
    rng = np.random.default_rng(8)
    steps: list[tuple[float, ...]] = []
    names = ("Mixtral 8x7B", "gpt-oss-120b", "Qwen3-30B-A3B", "DeepSeek-V3 / R1")
    for i in range(TRIES):
        architecture = model(names[i % len(names)]).architecture
        assert architecture is not None  # of these four it is public
        chip = device(("H100 SXM", "H200 SXM", "B200 SXM")[i % 3])
        devices, context = 32, 2 ** int(rng.integers(4, 9))
        room = fit(architecture, chip, context_tokens=context, devices=devices)
        batch = min(2 ** int(rng.integers(0, 17)), room.max_batch)
        step = decode_step(architecture, chip, batch=batch, context_tokens=context, devices=devices)
        terms = step.bytes.terms
        experts = sum(t.value for t in terms if t.component == "routed_experts")
        cache = sum(t.value for t in terms if t.label.startswith("cache"))
        steps.append(
            (batch, step.distinct, experts / step.distinct, step.bytes.total - experts - cache,
             cache / batch, step.flops.total / batch, devices * chip.bytes_per_s,
             devices * chip.flops_per_s())
        )  # fmt: skip
    return steps


function_asked(
    "08.3",
    "Bytes: rest once, distinct × expert, and the cache of every sequence. FLOPs: those of one "
    "token, for every sequence.",
    "Bytes take one time, FLOPs another. The device does both at once: which one lasts?",
    difficulty=2,
    minutes=8,
    solution=step_seconds,
    praise="That is the calculator behind the second panel, to the last digit.",
    cases=_steps,
    mistakes=(
        (
            lambda b, d, e, r, c, f, w, p: (r + d * e + b * c) / w + b * f / p,
            "it adds the two times; a device reads and computes at once, so the longer one counts.",
        ),
        (
            lambda b, d, e, r, c, f, w, p: min((r + d * e + b * c) / w, b * f / p),
            "that is the shorter of the two times; who waits for whom?",
        ),
        (
            lambda b, d, e, r, c, f, w, p: max((r + d * e + c) / w, b * f / p),
            "every sequence has a cache of its own to be read.",
        ),
        (
            lambda b, d, e, r, c, f, w, p: max((b * (r + e * d) + b * c) / w, b * f / p),
            "weights are read once a step, however many tokens share them.",
        ),
        (
            lambda b, d, e, r, c, f, w, p: (r + d * e + b * c) / w,
            # Also what comes of the FLOPs of one token: they never take longer than the weights.
            "with a large batch the arithmetic takes longer than the memory: it is done for every "
            "sequence.",
        ),
    ),
    words="for batch {}, {:.4g} experts touched it must be {wanted:.4g}, not {found:.4g}.",
)


def layer_flops(d_model, d_expert, num_experts, top_k):
    router = 2 * d_model * num_experts
    expert = 2 * 3 * d_model * d_expert
    return router + top_k * expert


def _layers() -> list[tuple[int, int, int, int]]:
    """Mixtral's and Qwen3-30B-A3B's layers, then any."""
    rng = np.random.default_rng(4)
    cases = [(4096, 14336, 8, 2), (2048, 768, 128, 8)]
    for _ in range(TRIES):
        num_experts = int(rng.integers(2, 300))
        top_k = int(rng.integers(1, num_experts))
        cases.append((int(rng.integers(1, 999)), int(rng.integers(1, 999)), num_experts, top_k))
    return cases


function_asked(
    "08.4",
    "A matrix of A × B numbers takes a token 2 · A · B FLOPs: a multiply and an add for each.",
    "An expert has three matrices, and a token visits top_k experts. Which other matrix meets it?",
    difficulty=1,
    minutes=4,
    solution=layer_flops,
    praise="That is what the package counts for a layer. The router's part grows with E, the "
    "experts' does not.",
    cases=_layers,
    mistakes=(
        (lambda d, f, e, k: 6 * d * f * k, "the router is missing: it scores all experts."),
        (lambda d, f, e, k: d * e + 3 * d * f * k, "each number takes two FLOPs."),
        (lambda d, f, e, k: 2 * d * e + 4 * d * f * k, "a gated FFN has three matrices, not two."),
        (
            lambda d, f, e, k: 4 * d * f * k,
            "three matrices make an expert; the router is missing.",
        ),
        (lambda d, f, e, k: 2 * d * e + 6 * d * f * e, "a token visits top_k experts, not all."),
        (lambda d, f, e, k: 2 * d * k + 6 * d * f * k, "the router scores all experts to choose."),
    ),
    words="for d_model {}, d_expert {}, E = {}, K = {} it is {wanted:,} FLOPs, not {found:,.0f}.",
)
