"""The parts of routing: top-K, the balancing loss, plans, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import relative
from helpers.routers import normal
from moeviz.model.layer import MoEConfig
from moeviz.ops import topk
from moeviz.routing import Plan, RouteContext
from moeviz.routing.balance import load_balancing_loss
from moeviz.routing.token_choice import TokenChoice

# --- top-k with a fixed order among equals ---


def by_sorting(scores_TE, k):
    """The definition, in Python: sorted() is stable, so the lower index wins."""
    rows = scores_TE.tolist()
    return torch.tensor([sorted(range(len(r)), key=lambda e: -r[e])[:k] for r in rows])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_topk_equals_a_stable_sort_with_ties_negatives_and_signed_zeros(data):
    E = data.draw(st.integers(1, 12))
    # Few values, so that nearly every row has ties; 0.0 == -0.0 is one.
    value = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, 1 + 2**-23])
    rows = data.draw(st.lists(st.lists(value, min_size=E, max_size=E), min_size=1, max_size=5))
    k = data.draw(st.integers(1, E))
    scores_TE = torch.tensor(rows)
    assert topk(scores_TE, k).tolist() == by_sorting(scores_TE, k).tolist()


@pytest.mark.parametrize("E,K", [(1, 1), (5, 3), (64, 8), (1031, 7), (70_001, 5)])
def test_topk_equals_torch_where_nothing_ties(E, K):
    # A permutation of distinct values, negative and positive.
    scores_TE = torch.stack([torch.randperm(E).float() - E / 2 for _ in range(3)])
    assert torch.equal(topk(scores_TE, K), scores_TE.topk(K, dim=1).indices)


def test_topk_takes_the_first_of_a_wide_row_of_equals():
    assert topk(torch.full((2, 5000), -0.7), 4).tolist() == [[0, 1, 2, 3]] * 2
    strided_TE = normal(6, 9).T  # not contiguous: its bits lie in another order
    assert torch.equal(topk(strided_TE, 3), strided_TE.topk(3, dim=1).indices)


# --- losses ---


@pytest.mark.parametrize("K", [1, 2, 5])
def test_balance_loss_is_transformers_for_one_layer_over_k(K, monkeypatch):
    """`load_balancing_loss_func` does not divide by K (an even load gives K, ours 1.0) and pools
    all layers before the product, which hides layers that collapsed in opposite ways: so one layer
    at a time, and divided by K."""
    monkeypatch.setenv("USE_TF", "0")
    pytest.importorskip("transformers", minversion="5.10.2")
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    E = 9
    ours_TE, peer_TE = (normal(40, E, seed=K).requires_grad_() for _ in range(2))
    scores_TE = ours_TE.softmax(-1)
    load_E = topk(ours_TE, K).flatten().bincount(minlength=E)
    got = load_balancing_loss(scores_TE, load_E)
    want = load_balancing_loss_func((peer_TE,), E, K) / K
    assert relative(got, want) < 1e-6
    got.backward()
    want.backward()
    assert relative(ours_TE.grad, peer_TE.grad) < 1e-6


def test_balance_loss_by_hand():
    """1.0 at an even load, E where one expert takes everything, and below 1.0 where share and mean
    score lean different ways: it is no measure of balance by itself."""
    even_TE = torch.full((6, 3), 1 / 3)
    assert load_balancing_loss(even_TE, torch.tensor([4, 4, 4])).item() == pytest.approx(1.0)
    assert load_balancing_loss(even_TE, torch.tensor([12, 0, 0])).item() == pytest.approx(1.0)
    one_TE = torch.tensor([[1.0, 0.0, 0.0]]).expand(6, 3)
    assert load_balancing_loss(one_TE, torch.tensor([6, 0, 0])).item() == pytest.approx(3.0)
    leaning_TE = torch.tensor([[0.2, 0.3, 0.5]]).expand(6, 3)
    below = load_balancing_loss(leaning_TE, torch.tensor([8, 4, 0]))
    assert below.item() == pytest.approx(3 * (0.2 * 2 / 3 + 0.3 / 3))
    assert load_balancing_loss(even_TE, torch.zeros(3, dtype=torch.int64)).item() == 0.0


# --- the Plan ---


@st.composite
def assignments(draw):
    """Any number of distinct experts a token, in any order of the rows."""
    T, E = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    cells = [(t, e) for t in range(T) for e in range(E)]
    rows = draw(st.lists(st.sampled_from(cells), unique=True, max_size=30))
    return T, E, rows


def check_invariants(plan, T, E, rows):
    """rows: (token, expert, weight, choice) of every assignment, in the order that was given."""
    N = len(rows)
    assert plan.num_tokens == T and plan.num_experts == E
    for name in ("token", "expert", "slot", "choice", "inverse", "offsets", "token_offsets"):
        assert getattr(plan, name).dtype == torch.int32, name
    got = list(
        zip(
            plan.token.tolist(),
            plan.expert.tolist(),
            plan.weight.tolist(),
            plan.choice.tolist(),
            strict=True,
        )
    )
    # Sorted by expert; an expert's rows keep the order they were given in.
    assert got == sorted(rows, key=lambda row: row[1])
    offsets = plan.offsets.tolist()
    assert offsets[0] == 0 and offsets[-1] == N
    for e in range(E):
        here = range(offsets[e], offsets[e + 1])
        assert all(plan.expert[i] == e for i in here)
        assert plan.slot[offsets[e] : offsets[e + 1]].tolist() == list(range(len(here)))
    assert plan.load().tolist() == [sum(row[1] == e for row in rows) for e in range(E)]
    assert sorted(plan.inverse.tolist()) == list(range(N))
    bounds = plan.token_offsets.tolist()
    assert bounds[0] == 0 and bounds[-1] == N
    for t in range(T):
        mine = plan.inverse[bounds[t] : bounds[t + 1]].tolist()
        assert set(mine) == {i for i, row in enumerate(got) if row[0] == t}
    dense = torch.zeros(T, E)
    for token, expert, weight, _ in rows:
        dense[token, expert] += weight
    assert torch.equal(plan.dense_weights(), dense)


@settings(max_examples=100, deadline=None)
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
    rows = [(*cell, w, c) for cell, w, c in zip(cells, weight_N.tolist(), choice, strict=True)]
    check_invariants(plan, T, E, rows)
    assert plan.dropped.shape == (0, 3) and plan.dropped.dtype == torch.int32


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 8), st.integers(1, 9), st.data())
def test_invariants_of_a_plan_from_topk(T, E, data):
    K = data.draw(st.integers(1, E))
    logits_TE = normal(T, E, seed=data.draw(st.integers(0, 10**6)))
    weight_TK, expert_TK = logits_TE.softmax(-1).topk(K)
    plan = Plan.from_topk(expert_TK, weight_TK, num_experts=E)
    rows = [
        (t, int(expert_TK[t, k]), float(weight_TK[t, k]), k) for t in range(T) for k in range(K)
    ]
    check_invariants(plan, T, E, rows)


def test_a_plan_carries_what_was_dropped_and_the_gradient():
    weight_N = torch.tensor([0.5, 0.25, 0.25], requires_grad=True)
    plan = Plan.from_rows(
        torch.tensor([1, 0, 1]),
        torch.tensor([1, 1, 0]),
        weight_N,
        num_tokens=2,
        num_experts=2,
        dropped_M3=torch.tensor([[0, 0, 1]]),
    )
    assert plan.dropped.tolist() == [[0, 0, 1]] and plan.dropped.dtype == torch.int32
    (plan.dense_weights() * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert weight_N.grad.tolist() == [4.0, 2.0, 3.0]


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
        (dict(num_experts=2, top_k=3), "top_k must be at most num_experts = 2"),
        (dict(num_experts=0), "num_experts must be a whole number of at least 1"),
        (dict(d_expert=0), "d_expert must be a whole number of at least 1"),
        (dict(router="swich"), "no router 'swich'"),
        (dict(options={"weighting": "half"}), "weighting must be one of"),
        (dict(num_shared=-1), "num_shared must be a whole number of at least 0, got -1"),
        (dict(num_shared=1, shared_gate="two"), "shared_gate must be one of one, sigmoid, softmax"),
        (dict(backend="tritn"), "backend must be one of"),
    ],
)
def test_an_impossible_layer_is_refused_before_it_is_built(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MoEConfig(**options)
