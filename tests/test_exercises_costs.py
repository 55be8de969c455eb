"""Exercises of 08 and 09: what a model costs, compared with the calculators."""

import math

import numpy as np
import pytest
import torch

from helpers.exercises import Contract, run_solution
from moeviz import costs
from moeviz.costs.shape.mixers import Attention
from moeviz.exercises import (
    cached_and_packed,
    frontier,
    hardware,
    many_devices,
)
from moeviz.model import MoEConfig

WRONG = {
    "08.1": [(5, "5 is of the right size, but it is not exact.")],
    "08.2": [
        (lambda *a: 1.01 * hardware.experts_touched(*a), "for E = 8, K = 2, B = 1 it must be 2"),
        (lambda *a: np.nan, "it must give one number, not nan."),
        (lambda *a: round(hardware.experts_touched(*a)), "that is rounded to whole numbers"),
        (lambda *a: math.ceil(hardware.experts_touched(*a)), "that is rounded to whole numbers"),
    ],
    "08.3": [(lambda *a: 2 * hardware.step_seconds(*a), "experts touched it must be ")],
    "08.4": [
        (lambda d, f, e, k: 2.5 * hardware.layer_flops(d, f, e, k), "for d_model 4096, d_expert"),
        (lambda d, f, e, k: (1, 2), "it must give one number, not (1, 2)."),
    ],
    "08.5": [
        (lambda s, n: 0, "in the stream [1, 2, 1, 3, 2, 1] with 2 slots the hits are 1, not 0")
    ],
    "08.6": [
        (lambda w, d: np.arange(len(w)).reshape(d, -1).tolist(), "of 4 devices the busiest has"),
        (lambda w, d: np.argsort(w).reshape(-1, d).T.tolist(), "and 1.0"),
        (lambda w, d: [[0] * 8] * d, "every expert must stand on exactly one device."),
        (lambda w, d: [[0]] + [[1, 2]] * (d - 1), "it must give 4 lists of 8."),
        (lambda w, d: 8, "a list of the experts of each device."),
    ],
    "08.7": [(lambda w, b: w, "with 4 bits these are not the values that the nearest codes")],
    "08.8": [
        (lambda rows, counts, run: rows[:1], "for 2 ranks it must give a list of 2 tensors."),
        (lambda rows, counts, run: [None for _ in rows], "it must give a tensor [N, D] for each"),
        (lambda rows, counts, run: [run(r, x) for r, x in enumerate(rows)], "and by the counts"),
        (lambda rows, counts, run: [run(9, x) for x in rows], "the number of a rank first, 0 to 1"),
        (lambda rows, counts, run: [run(0, None) for _ in rows], "rows that came to a rank second"),
        (lambda rows, counts, run: [x[:, :2] for x in rows], "and gets back [0, 2]."),
        (lambda rows, counts, run: [2 * x for x in rows], "from another expert than theirs."),
    ],
    "08.9": [
        (lambda *a: 1.1 * many_devices.sent_bytes(*a), "for 128 tokens, K = 8, 7168 numbers of 2"),
        (lambda *a: (1, 2), "it must give one number, not (1, 2)."),
    ],
    "09.1": [(600, "600 is of the right size, but it is not exact.")],
    "09.2": [
        (lambda *a: 3, "two numbers, (all, active); this returned 3."),
        (lambda *a: (1, 1), "for d_model 4096"),
        (lambda *a: np.array([1, 2, 3]), "two numbers, (all, active); this returned array([1, 2,"),
    ],
    "09.3": [(lambda *a: 0, "it is 70,272 bytes, not 0")],
}
# As right as the stated solution, and not it.
RIGHT = {
    "08.1": [
        "4",
    ],
    "08.2": [
        lambda e, k, b: sum((k / e) * (1 - k / e) ** i for i in range(b)) * e,
    ],
    "08.3": [
        lambda *a: np.array([hardware.step_seconds(*a)]),
    ],
    "08.4": [
        lambda *a: float(hardware.layer_flops(*a)),
    ],
    "08.5": [lambda s, n: np.int64(cached_and_packed.lru_hits(s, n))],
    "08.6": [lambda w, d: np.array(many_devices.place(w, d)[::-1])],
    "08.7": [lambda w, b: torch.tensor(cached_and_packed.round_group(w, b))],
    "08.8": [lambda rows, counts, run: one_by_one(rows, counts, run)],
    "08.9": [lambda t, k, d, b, r: np.float64(t * k / r * (r - 1)) * (b * d)],
    "09.1": [
        554.4,
    ],
    "09.2": [
        lambda *a: np.array(frontier.layer_parameters(*a)),
        lambda *a: torch.tensor(frontier.layer_parameters(*a)),
    ],
    "09.3": [
        lambda *a: np.float64(frontier.latent_cache_bytes(*a)),
    ],
}


def one_by_one(rows, counts, run):
    """Row by row, with the ranks as a dictionary of letters: no split, no sum of counts."""
    here, back = counts.shape[1] // len(rows), {}
    for to in range(len(rows)):
        letters = []
        for sender, count_E in enumerate(counts.tolist()):
            experts = [e for e, n in enumerate(count_E) for _ in range(n)]
            letters += [(sender, n) for n, e in enumerate(experts) if e // here == to]
        x_MD = torch.stack([rows[r][n] for r, n in letters]) if letters else rows[0][:0]
        back |= dict(zip(letters, run(to, x_MD), strict=True))
    return [
        torch.stack([back[r, n] for n in range(len(x))]) if len(x) else x
        for r, x in enumerate(rows)
    ]


def solved(number):
    return run_solution(number, math=math, np=np, torch=torch)


class TestContract(Contract):
    wrong, right, solved = WRONG, RIGHT, staticmethod(solved)


def test_the_numbers_asked_for():
    size = costs.weight_bytes(costs.model("Mixtral 8x22B").architecture, "bf16").total
    assert solved("08.1") == math.ceil(size / 80e9) and round(320 - size / 1e9) == 39
    assert solved("09.1") * 1e9 == costs.evaluate("gpt4_flops").value


def test_the_functions_asked_for():
    for case in hardware._batches():
        wanted = costs.distinct_experts(*case).total
        assert hardware.experts_touched(*case) == pytest.approx(wanted, rel=1e-12)
    for d_model, width, num_experts, top_k, shared in frontier._layers():
        one = int(shared > 0)
        layer = costs.MoE(num_experts, top_k, width, shared_experts=one, shared_width=shared)
        weights = [*layer.weights(d_model)]
        wanted = sum(w.count for w in weights), sum(w.active for w in weights)
        assert frontier.layer_parameters(d_model, width, num_experts, top_k, shared) == wanted
    for layers, rank, rope, tokens, bits in frontier._caches():
        mixer = costs.LatentAttention(2, kv_rank=rank, rope_dim=rope, nope_dim=4, value_dim=4)
        shape = costs.Architecture("one", 8, 8, (costs.Layer(mixer, None),) * layers)
        wanted = costs.kv_cache_bytes(shape, tokens, bits=bits).total
        assert frontier.latent_cache_bytes(layers, rank, rope, tokens, bits) == wanted


def test_the_steps_asked_for_are_bound_by_memory_and_by_compute():
    steps = hardware._steps()
    computes = sum(hardware.step_seconds(*step) == step[0] * step[5] / step[7] for step in steps)
    assert 3 <= computes <= len(steps) - 3
    assert steps == hardware._steps(), "the same for everyone"


def test_the_layers_flops_are_the_packages():
    for d_model, d_expert, num_experts, top_k in hardware._layers():
        layer = MoEConfig(num_experts, top_k, d_expert)
        wanted = layer.flops_per_token(d_model, seq_len=16)
        assert hardware.layer_flops(d_model, d_expert, num_experts, top_k) == wanted


def test_the_ranks_of_the_exchange_are_uneven_and_some_have_nothing():
    spreads = many_devices._spreads()
    assert all(0 in map(len, spread.rows) for spread in spreads)
    assert any(
        not spread.counts_RE[:, : spread.here].any() and spread.here > 1 for spread in spreads
    )
    assert {len(spread.rows) for spread in spreads} == {2, 3, 4, 5}


def test_the_bytes_asked_for_are_the_calculators():
    for tokens, top_k, d_model, bytes_each, devices in many_devices._exchanges():
        layer = costs.MoE(devices * top_k, top_k, 16)
        mixer = Attention(1, 1, 8)
        shape = costs.Architecture("one", d_model, 8, (costs.Layer(mixer, layer),))
        moved = costs.all_to_all(
            shape, tokens_per_device=tokens, nodes=1, devices_per_node=devices, copies="expert",
            dispatch_bits=8 * bytes_each,
        )  # fmt: skip
        wanted = sum(moved.dispatch_bytes[0][1:])
        assert many_devices.sent_bytes(
            tokens, top_k, d_model, bytes_each, devices
        ) == pytest.approx(wanted)


def test_what_09_says_is_what_is_counted():
    """The figures in its text, beside those that its panels show."""
    v3 = costs.model("DeepSeek-V3 / R1").architecture
    met, every = costs.active_parameters(v3), costs.parameters(v3)
    assert met.total / every.total == pytest.approx(0.056, abs=0.0005)
    assert met.part("attention") / met.total == pytest.approx(0.30, abs=0.005)
    experts = sum(every.part(p) for p in ("routed_experts", "shared_experts", "router"))
    assert experts / every.total == pytest.approx(0.98, abs=0.005), "the praise of 09.2"
    bare = met.total - met.part("routed_experts")
    assert every.total / bare == pytest.approx(39, abs=0.5)
    assert costs.evaluate("unselected_not_loaded").value == pytest.approx(163, abs=0.5)
    ratio = costs.evaluate("cost_per_trillion", llama_usd_per_hour=2).value
    assert (round(costs.evaluate("cost_per_trillion").value, 1), round(ratio, 1)) == (15.7, 10.5)
    gpt = costs.model("gpt-oss-120b").architecture
    oss = costs.active_parameters(gpt, "ex_input_embedding").total
    flops = 2.1e6 * 3600 * costs.DEVICES["H100 SXM"].bf16_flops_per_s * 0.4
    assert flops / costs.six_n_d_flops(oss, 1).total == pytest.approx(97e12, rel=0.01)
