"""Exercises of 09_frontier_models: the stated solution passes, wrong answers are told apart."""

import pytest

from helpers.exercises import Contract, run_solution
from moeviz.costs import evaluate


def layer(matrices=3, router=True, shared=True, active_router=None, active_shared=True):
    def answer(d_model, expert_width, num_experts, top_k, shared_width):
        one = matrices * d_model * expert_width
        common = matrices * d_model * shared_width * shared
        gate = d_model * num_experts * router
        met = gate if active_router is None else d_model * active_router(num_experts, top_k)
        return num_experts * one + common + gate, top_k * one + met + common * active_shared

    return answer


WRONG = {
    "09.1": [
        (560, "rounded 280B"),
        (277, "a multiply and an add"),
        (3662, "as if it were dense"),
        (600, "too large"),
    ],
    "09.2": [
        (None, "the answer is a function"),
        (lambda *a: 3, "two numbers"),
        (lambda *a: (1, 1), "for d_model 4096"),
        (layer(matrices=2), "a gated FFN has three matrices"),
        (layer(router=False), "the router is missing"),
        (layer(shared=False), "the shared expert is missing"),
        (layer(active_router=lambda e, k: k), "looks at all experts"),
        (layer(active_router=lambda e, k: 0), "the router is active too"),
        (layer(active_shared=False), "a shared expert meets every token"),
        (lambda *a: layer()(*a)[::-1], "the other way round"),
    ],
    "09.3": [
        (70272, "the answer is a function"),
        (lambda *a: "many", "one number"),
        (lambda n, r, p, t, b: 2 * n * t * (r + p) * b / 8, "stored once"),
        (lambda n, r, p, t, b: n * t * r * b / 8, "the rotary key"),
        (lambda n, r, p, t, b: n * t * (r + p) * b, "8 of them are a byte"),
        (lambda n, r, p, t, b: t * (r + p) * b / 8, "every layer keeps its own"),
        (lambda *a: 0, "it is 70,272 bytes, not 0"),
    ],
}


class TestContract(Contract):
    wrong = WRONG


def test_the_rumours_sum_is_the_ledgers():
    assert run_solution("09.1") * 1e9 == evaluate("gpt4_flops").value


def test_what_the_notebook_says_is_what_is_counted():
    """The figures in its text, beside those that its panels show."""
    from moeviz.costs import DEVICES, active_parameters, model, parameters, six_n_d_flops
    from moeviz.costs.cost.parameters import active_share

    v3 = model("DeepSeek-V3 / R1").architecture
    met = active_parameters(v3)
    assert active_share(v3).total == pytest.approx(0.056, abs=0.0005)
    assert met.part("attention") / met.total == pytest.approx(0.30, abs=0.005)
    every = parameters(v3)
    experts = sum(every.part(p) for p in ("routed_experts", "shared_experts", "router"))
    assert experts / every.total == pytest.approx(0.98, abs=0.005), "the praise of 09.2"
    bare = met.total - met.part("routed_experts")
    assert parameters(v3).total / bare == pytest.approx(39, abs=0.5)
    assert evaluate("unselected_not_loaded").value == pytest.approx(163, abs=0.5)
    ratio = evaluate("cost_per_trillion", llama_usd_per_hour=2).value
    assert (round(evaluate("cost_per_trillion").value, 1), round(ratio, 1)) == (15.7, 10.5)
    oss = active_parameters(model("gpt-oss-120b").architecture, "ex_input_embedding").total
    flops = 2.1e6 * 3600 * DEVICES["H100 SXM"].bf16_flops_per_s * 0.4
    assert flops / six_n_d_flops(oss, 1).total == pytest.approx(97e12, rel=0.01)
