"""Exercises of 09_frontier_models: the stated solution passes, wrong answers are told apart."""

import pytest

from helpers.exercises import check_asked, run_solution
from moeviz.costs import evaluate
from moeviz.exercises import EXERCISES, check

NUMBERS = [number for number in EXERCISES if number.startswith("09.")]
pytestmark = pytest.mark.usefixtures("no_tries_yet")


@pytest.mark.parametrize("number", NUMBERS)
def test_the_stated_solution_passes(number, capsys):
    check(number, run_solution(number))
    assert capsys.readouterr().out.startswith(f"✔ {number}: right.")
    assert len(EXERCISES[number].hints) == 2


def layer(matrices=3, router=True, shared=True, active_router=None, active_shared=True):
    def answer(d_model, expert_width, num_experts, top_k, shared_width):
        one = matrices * d_model * expert_width
        common = matrices * d_model * shared_width * shared
        gate = d_model * num_experts * router
        met = gate if active_router is None else d_model * active_router(num_experts, top_k)
        return num_experts * one + common + gate, top_k * one + met + common * active_shared

    return answer


@pytest.mark.parametrize(
    "number, answer, fault",
    [
        ("09.1", 560, "rounded 280B"),
        ("09.1", 277, "a multiply and an add"),
        ("09.1", 3662, "as if it were dense"),
        ("09.1", "554", "the answer is one number"),
        ("09.1", 600, "too large"),
        ("09.2", None, "the answer is a function"),
        ("09.2", lambda *a: 3, "two numbers"),
        ("09.2", lambda *a: 1 / 0, "Your code raised ZeroDivisionError"),
        ("09.2", lambda *a: (1, 1), "for d_model 4096"),
        ("09.2", layer(matrices=2), "a gated FFN has three matrices"),
        ("09.2", layer(router=False), "the router is missing"),
        ("09.2", layer(shared=False), "the shared expert is missing"),
        ("09.2", layer(active_router=lambda e, k: k), "looks at all experts"),
        ("09.2", layer(active_router=lambda e, k: 0), "the router is active too"),
        ("09.2", layer(active_shared=False), "a shared expert meets every token"),
        ("09.2", lambda *a: layer()(*a)[::-1], "the other way round"),
        ("09.3", 70272, "the answer is a function"),
        ("09.3", lambda *a: "many", "one number"),
        ("09.3", lambda n, r, p, t, b: 2 * n * t * (r + p) * b / 8, "stored once"),
        ("09.3", lambda n, r, p, t, b: n * t * r * b / 8, "the rotary key"),
        ("09.3", lambda n, r, p, t, b: n * t * (r + p) * b, "8 of them are a byte"),
        ("09.3", lambda n, r, p, t, b: t * (r + p) * b / 8, "every layer keeps its own"),
        ("09.3", lambda *a: 0, "it is 70,272 bytes, not 0"),
    ],
)
def test_wrong_answers_are_told_apart(number, answer, fault, capsys):
    check(number, answer)
    told = capsys.readouterr().out
    assert told.startswith(f"✘ {number}: ") and fault in told


def test_the_rumours_sum_is_the_ledgers():
    assert run_solution("09.1") * 1e9 == evaluate("gpt4_flops").value


def test_the_notebook_asks_for_each_exercise_and_for_no_other():
    check_asked("09_frontier_models", NUMBERS)


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
