"""Plans, and layers that cannot be built."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import relative
from helpers.routers import check_plan, normal
from moeviz.model.layer import MoEConfig
from moeviz.routing import Plan, RouteContext
from moeviz.routing.token_choice import TokenChoice

# --- the Plan ---


@st.composite
def assignments(draw):
    """Any number of distinct experts a token, in any order of the rows."""
    T, E = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    cells = [(t, e) for t in range(T) for e in range(E)]
    rows = draw(st.lists(st.sampled_from(cells), unique=True, max_size=30))
    return T, E, rows


@settings(max_examples=100)
@given(assignments(), st.integers(0, 10**6), st.booleans())
def test_invariants_of_a_plan_from_rows(case, seed, ordered):
    T, E, cells = case
    token_N = torch.tensor([t for t, _ in cells], dtype=torch.int64)
    expert_N = torch.tensor([e for _, e in cells], dtype=torch.int64)
    weight_N = torch.rand(len(cells), generator=torch.Generator().manual_seed(seed))
    choice = list(range(len(cells))) if ordered else [-1] * len(cells)
    plan = Plan.from_rows(
        token_N,
        expert_N,
        weight_N,
        num_tokens=T,
        num_experts=E,
        choice_N=torch.tensor(choice, dtype=torch.int64) if ordered else None,
    )
    rows = [(*cell, c, w) for cell, c, w in zip(cells, choice, weight_N.tolist(), strict=True)]
    check_plan(plan, T, E, rows)
    assert plan.dropped.shape == (0, 3) and plan.dropped.dtype == torch.int32


@settings(max_examples=60)
@given(st.integers(0, 8), st.integers(1, 9), st.data())
def test_invariants_of_a_plan_from_topk(T, E, data):
    K = data.draw(st.integers(1, E))
    logits_TE = normal(T, E, seed=data.draw(st.integers(0, 10**6)))
    weight_TK, expert_TK = logits_TE.softmax(-1).topk(K)
    cells = [
        (t, k, expert_TK[t, k].item(), weight_TK[t, k].item()) for t in range(T) for k in range(K)
    ]
    plan = Plan.from_topk(expert_TK, weight_TK, num_experts=E)
    check_plan(plan, T, E, [(t, e, k, weight) for t, k, e, weight in cells])
    keep_TK = normal(T, K) > 0
    kept = Plan.from_kept(expert_TK, weight_TK, keep_TK, num_experts=E)
    check_plan(kept, T, E, [(t, e, k, w) for t, k, e, w in cells if keep_TK[t, k]])


@pytest.mark.parametrize(
    "expert,weight,E,sentence",
    [
        (torch.zeros(4, dtype=torch.int64), torch.ones(4), 2, r"both be \[T, K\]"),
        (torch.zeros(4, 2, dtype=torch.int64), torch.ones(4, 1), 2, r"\(4, 2\) and \(4, 1\)"),
        (torch.zeros(4, 2), torch.ones(4, 2), 2, "integers.*got torch.float32"),
        (
            torch.zeros(4, 2, dtype=torch.int64),
            torch.ones(4, 2, dtype=torch.int64),
            2,
            "weight_TK floats",
        ),
        (torch.tensor([[0, 2]]), torch.ones(1, 2), 2, "index 2 outside 0..1"),
        (torch.tensor([[0, -1]]), torch.ones(1, 2), 2, "index -1 outside 0..1"),
        (torch.tensor([[0]]), torch.ones(1, 1), 0, "num_experts=0"),
    ],
)
def test_from_topk_refuses_in_one_sentence(expert, weight, E, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        Plan.from_topk(expert, weight, num_experts=E)
    assert "\n" not in str(refusal.value)


# --- token choice ---


def test_logits_stay_float32_under_autocast():
    """Rounding logits to bf16 moves a probability by as much as half a per cent."""
    made, x_TD = TokenChoice(d_model=16, num_experts=6, top_k=2), normal(9, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = made(x_TD.bfloat16(), RouteContext())
    assert out.logits.dtype == out.plan.weight.dtype == torch.float32
    want = torch.nn.functional.linear(x_TD.bfloat16().double(), made.weight_ED.double())
    assert relative(out.logits, want) < 1e-6


@pytest.mark.parametrize(
    "options,sentence",
    [
        (dict(d_expert=0), "d_expert must be a whole number of at least 1"),
        (dict(router="swich"), "no router 'swich'"),
        (dict(num_shared=-1), "num_shared must be a whole number of at least 0, got -1"),
        (dict(num_shared=1, shared_gate="two"), "shared_gate must be one of one, sigmoid, softmax"),
        (dict(backend="tritn"), "backend must be one of"),
    ],
)
def test_an_impossible_layer_is_refused_before_it_is_built(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MoEConfig(**options)
