"""Routing: who goes where, against transformers' routers and against the definitions."""

import os

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.numerics import relative
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.ops import topk
from moeviz.routing import Plan, RouteContext, build_router
from moeviz.routing.balance import load_balancing_loss, z_loss
from moeviz.routing.token_choice import TokenChoice

CONTEXT = RouteContext()
WEIGHTINGS = ("renormalise", "raw")


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def router(D, E, K, weighting="renormalise", seed=0):
    """A router with unit-scale logits: what it starts with is too small to be a hard case."""
    made = TokenChoice(d_model=D, num_experts=E, top_k=K, weighting=weighting)
    with torch.no_grad():
        made.weight_ED.copy_(normal(E, D, seed=seed) / D**0.5)
    return made


def layer(D, E, K, d_expert, weighting="renormalise", backend="auto", seed=0):
    config = MoEConfig(
        num_experts=E,
        top_k=K,
        d_expert=d_expert,
        options={"weighting": weighting},
        backend=backend,
    )
    made = MoEFFN(D, config)
    with torch.no_grad():
        made.router.weight_ED.copy_(normal(E, D, seed=seed + 1) / D**0.5)
        made.w13_E2FD.copy_(normal(E, 2 * d_expert, D, seed=seed + 2) / D**0.5)
        made.w2_EDF.copy_(normal(E, D, d_expert, seed=seed + 3) / d_expert**0.5)
    return made


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


# --- against transformers ---


@pytest.fixture(scope="module")
def peers():
    """(name, weighting, a transformers block) of one tiny size.

    Traps of these oracles: without _experts_implementation = "eager" a whole model may choose a
    fused path; weights are created empty and must all be set; `load_balancing_loss_func` pools all
    layers before its product and does not divide by K, so it is asked for one layer and divided.
    """
    os.environ.setdefault("USE_TF", "0")
    pytest.importorskip("transformers", minversion="5.10.2")
    from transformers import MixtralConfig, OlmoeConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

    D, F, E, K = 12, 20, 7, 3
    shared = dict(hidden_size=D, intermediate_size=F, num_experts_per_tok=K, vocab_size=8)
    heads = dict(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    mixtral = MixtralConfig(num_local_experts=E, **shared, **heads)
    olmoe = OlmoeConfig(num_experts=E, norm_topk_prob=False, **shared, **heads)
    olmoe_normed = OlmoeConfig(num_experts=E, norm_topk_prob=True, **shared, **heads)
    for config in (mixtral, olmoe, olmoe_normed):
        config._experts_implementation = "eager"
    return (D, F, E, K), {
        "mixtral": ("renormalise", MixtralSparseMoeBlock(mixtral)),
        "olmoe": ("raw", OlmoeSparseMoeBlock(olmoe)),
        "olmoe-normed": ("renormalise", OlmoeSparseMoeBlock(olmoe_normed)),
    }


PEERS = ("mixtral", "olmoe", "olmoe-normed")


def same_weights(ours, block):
    """The peer's fused gate_up_proj has our layout, gate rows first, so a copy is all it takes."""
    with torch.no_grad():
        block.gate.weight.copy_(ours.router.weight_ED)
        block.experts.gate_up_proj.copy_(ours.w13_E2FD)
        block.experts.down_proj.copy_(ours.w2_EDF)
    block.zero_grad(set_to_none=True)
    return block


@pytest.mark.parametrize("name", PEERS)
def test_the_router_equals_transformers(peers, name):
    (D, F, E, K), blocks = peers
    weighting, block = blocks[name]
    ours = layer(D, E, K, F, weighting)
    x_TD = normal(33, D, seed=9)
    logits_TE, weight_TK, expert_TK = same_weights(ours, block).gate(x_TD)
    out = ours.router(x_TD, CONTEXT)
    want_TE = torch.zeros(33, E).scatter(1, expert_TK, weight_TK.detach())
    assert relative(out.logits, logits_TE) < 1e-6
    assert relative(out.plan.dense_weights(), want_TE) < 1e-6
    assert torch.equal(out.stats.load, expert_TK.flatten().bincount(minlength=E))
    row_sum_T = out.plan.dense_weights().sum(1)
    if weighting == "renormalise":
        assert torch.allclose(row_sum_T, torch.ones(33))
    else:
        assert (row_sum_T < 0.99).all()


@pytest.mark.parametrize("backend", ["reference", "grouped"])
@pytest.mark.parametrize("name", PEERS)
def test_the_whole_layer_and_its_gradients_equal_transformers(peers, name, backend):
    (D, F, E, K), blocks = peers
    weighting, block = blocks[name]
    ours = layer(D, E, K, F, weighting, backend)
    same_weights(ours, block)
    x_TD, grad_TD = normal(33, D, seed=9), normal(33, D, seed=10)
    ours_x, peer_x = x_TD.clone().requires_grad_(), x_TD.clone().requires_grad_()
    got, want = ours(ours_x, CONTEXT)[0], block(peer_x[None])[0]
    got.backward(grad_TD)
    want.backward(grad_TD)
    pairs = {
        "y": (got, want),
        "x": (ours_x.grad, peer_x.grad),
        "router": (ours.router.weight_ED.grad, block.gate.weight.grad),
        "w13": (ours.w13_E2FD.grad, block.experts.gate_up_proj.grad),
        "w2": (ours.w2_EDF.grad, block.experts.down_proj.grad),
    }
    for what, (a, b) in pairs.items():
        assert relative(a, b) < 2e-6, what


@pytest.mark.parametrize("K", [1, 2, 5])
def test_balance_loss_is_transformers_for_one_layer_over_k(peers, K):
    """`load_balancing_loss_func` does not divide by K (an even load gives K, ours 1.0) and pools
    all layers before the product, which hides layers that collapsed in opposite ways: so one layer
    at a time, and divided by K."""
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


def test_z_loss_is_transformers(peers):
    from transformers.models.switch_transformers import modeling_switch_transformers as switch

    logits_TE = 3 * normal(21, 5)
    assert relative(z_loss(logits_TE), switch.router_z_loss_func(logits_TE[None])) < 1e-6


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


def test_an_even_load_costs_one_for_every_k():
    for K in (1, 2, 4):
        # Token t prefers experts t, t+1, ... around the circle: perfectly even.
        logits_TE = torch.stack([torch.arange(4.0).roll(t) for t in range(4)])
        load_E = topk(logits_TE, K).flatten().bincount(minlength=4)
        assert load_balancing_loss(logits_TE.softmax(-1), load_E).item() == pytest.approx(1.0)


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

sizes = st.tuples(st.integers(1, 11), st.integers(1, 8), st.integers(0, 10**6)).flatmap(
    lambda s: st.tuples(st.just(s[0]), st.just(s[1]), st.integers(1, s[1]), st.just(s[2]))
)


@settings(max_examples=50, deadline=None)
@given(sizes, st.sampled_from(WEIGHTINGS), st.floats(0.01, 2000.0))
def test_every_token_keeps_k_experts_and_weights_that_add_up(size, weighting, scale):
    T, E, K, seed = size
    made = router(6, E, K, weighting, seed)
    out = made(scale * normal(T, 6, seed=seed + 1), CONTEXT)
    weight_TE = out.plan.dense_weights()
    chosen_TE = torch.zeros(T, E, dtype=torch.bool)
    chosen_TE[out.plan.token.long(), out.plan.expert.long()] = True
    assert chosen_TE.sum(1).tolist() == [K] * T  # K distinct experts
    assert torch.isfinite(weight_TE).all() and (weight_TE >= 0).all()
    if weighting == "renormalise":
        assert torch.allclose(weight_TE.sum(1), torch.ones(T), atol=1e-6)
    else:
        assert (weight_TE.sum(1) <= 1 + 1e-6).all()
        assert torch.allclose(weight_TE, out.scores * chosen_TE)
    # No expert left out scores above one that was chosen.
    assert (
        out.logits.masked_fill(~chosen_TE, torch.inf).amin(1)
        >= (out.logits.masked_fill(chosen_TE, -torch.inf).amax(1))
    ).all()
    assert out.stats.load.tolist() == out.stats.demand.tolist() == chosen_TE.sum(0).tolist()
    assert torch.allclose(out.stats.importance, out.scores.sum(0))
    assert out.logits.dtype == out.scores.dtype == torch.float32
    assert set(out.losses) == {"balance", "z"}


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from(WEIGHTINGS))
def test_tokens_and_experts_have_no_order(size, weighting):
    T, E, K, seed = size
    made = router(6, E, K, weighting, seed)
    x_TD = normal(T, 6, seed=seed + 1)
    want = made(x_TD, CONTEXT)
    top = want.logits.sort(dim=1).values.diff(dim=1)
    assume(E == 1 or top.min() > 1e-4)  # rounding may swap near ties
    token_T, expert_E = torch.randperm(T), torch.randperm(E)
    moved = made(x_TD[token_T], CONTEXT)
    assert relative(moved.plan.dense_weights(), want.plan.dense_weights()[token_T]) < 1e-5
    with torch.no_grad():
        made.weight_ED.copy_(made.weight_ED[expert_E])
    moved = made(x_TD, CONTEXT)
    assert relative(moved.plan.dense_weights(), want.plan.dense_weights()[:, expert_E]) < 1e-5
    assert moved.stats.load.tolist() == want.stats.load[expert_E].tolist()
    for name, loss in want.losses.items():
        assert relative(moved.losses[name], loss) < 1e-5, name


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_constant_added_to_a_row_of_logits_changes_the_z_loss_alone(weighting):
    """With a last input that is 1 everywhere and a column of equal router weights, every logit of
    a row moves by the same amount."""
    made = router(6, 5, 2, weighting)
    x_TD = normal(17, 6)
    x_TD[:, -1] = 1.0
    before = made(x_TD, CONTEXT)
    with torch.no_grad():
        made.weight_ED[:, -1] += 3.0
    after = made(x_TD, CONTEXT)
    assert relative(after.logits, before.logits + 3.0) < 1e-6
    assert torch.equal(after.plan.expert, before.plan.expert)
    assert torch.equal(after.plan.token, before.plan.token)
    assert relative(after.plan.weight, before.plan.weight) < 1e-5
    assert relative(after.losses["balance"], before.losses["balance"]) < 1e-5
    assert after.losses["z"] > before.losses["z"] + 5.0


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("backend", ["reference", "grouped"])
def test_all_experts_are_the_dense_mixture(weighting, backend):
    D, E, F = 8, 5, 12
    made = layer(D, E, E, F, weighting, backend)
    x_TD = normal(13, D)
    y_TD, route = made(x_TD, CONTEXT)
    hidden_TE2F = torch.einsum("td,ehd->teh", x_TD.double(), made.w13_E2FD.double())
    gate_TEF, up_TEF = hidden_TE2F.chunk(2, dim=-1)
    every_TED = torch.einsum(
        "tef,edf->ted", torch.nn.functional.silu(gate_TEF) * up_TEF, made.w2_EDF.double()
    )
    want_TD = torch.einsum("te,ted->td", route.scores.double(), every_TED)
    assert relative(y_TD, want_TD) < 1e-6


def test_identical_experts_with_weights_that_add_to_one_are_one_ffn():
    made = layer(8, 4, 2, 12, "renormalise")
    with torch.no_grad():
        made.w13_E2FD.copy_(made.w13_E2FD[:1].expand_as(made.w13_E2FD))
        made.w2_EDF.copy_(made.w2_EDF[:1].expand_as(made.w2_EDF))
    x_TD = normal(9, 8)
    gate_TF, up_TF = (x_TD @ made.w13_E2FD[0].T).chunk(2, dim=-1)
    want_TD = (torch.nn.functional.silu(gate_TF) * up_TF) @ made.w2_EDF[0].T
    assert relative(made(x_TD, CONTEXT)[0], want_TD) < 1e-6


def test_one_renormalised_choice_gives_the_router_no_task_gradient():
    norms = {}
    for weighting in WEIGHTINGS:
        made = layer(8, 5, 1, 12, weighting)
        made(normal(29, 8), CONTEXT)[0].square().sum().backward()
        norms[weighting] = made.router.weight_ED.grad.norm().item()
    assert norms["renormalise"] < 1e-6 * norms["raw"]
    assert norms["raw"] > 1.0


def test_experts_that_no_token_chose_get_exactly_no_gradient():
    for backend in ("reference", "grouped"):
        made = layer(8, 6, 2, 12, backend=backend)
        x_TD = normal(2, 8)
        y_TD, route = made(x_TD, CONTEXT)
        y_TD.square().sum().backward()
        idle_E = route.stats.load == 0
        assert idle_E.any() and not idle_E.all()
        for gradient in (made.w13_E2FD.grad, made.w2_EDF.grad):
            norm_E = gradient.flatten(1).norm(dim=1)
            assert (norm_E[idle_E] == 0).all() and (norm_E[~idle_E] > 0).all()


def test_the_balance_loss_reaches_the_router_through_the_scores_alone():
    made = router(8, 5, 2)
    out = made(normal(29, 8), CONTEXT)
    out.losses["balance"].backward()
    got = made.weight_ED.grad.clone()
    made.weight_ED.grad = None
    share_E = out.stats.load / out.stats.load.sum()
    scores_TE = (normal(29, 8) @ made.weight_ED.T).softmax(-1)
    (5 * (share_E.detach() * scores_TE.mean(0)).sum()).backward()
    assert got.norm() > 1e-4
    assert relative(got, made.weight_ED.grad) < 1e-5


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_later_tokens_do_not_change_earlier_decisions(weighting):
    made = router(8, 6, 2, weighting)
    assert made.causal
    x_TD, cut = normal(20, 8), 11
    changed_TD = torch.cat((x_TD[:cut], 5 * normal(9, 8, seed=3)))
    before = made(x_TD, CONTEXT).plan.dense_weights()
    after = made(changed_TD, CONTEXT).plan.dense_weights()
    assert torch.equal(before[:cut], after[:cut])
    assert not torch.equal(before[cut:], after[cut:])


def test_logits_stay_float32_under_autocast():
    """Rounding logits to bf16 moves a probability by as much as half a per cent."""
    made, x_TD = router(16, 6, 2), normal(9, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = made(x_TD.bfloat16(), CONTEXT)
    assert out.logits.dtype == out.plan.weight.dtype == torch.float32
    want = torch.nn.functional.linear(x_TD.bfloat16().double(), made.weight_ED.double())
    assert relative(out.logits, want) < 1e-6


@pytest.mark.parametrize(
    "options,sentence",
    [
        (dict(top_k=5), r"top_k must lie in 1\.\.4, the number of experts, got 5"),
        (dict(top_k=0), r"top_k must lie in 1\.\.4.*got 0"),
        (dict(num_experts=0), "num_experts must be at least 1, got 0"),
        (dict(weighting="renormalize"), "weighting must be one of renormalise, raw, got 'renorm"),
        (dict(name="token_choise"), "no router 'token_choise'; there is base, "),
        (dict(heat=2.0), "no option heat; its options are score, weighting"),
    ],
)
def test_what_cannot_be_routed_is_refused_in_one_sentence(options, sentence):
    case = dict(name="token_choice", d_model=8, num_experts=4, top_k=2) | options
    with pytest.raises(ValueError, match=sentence) as refusal:
        build_router(case.pop("name"), **case)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "options,sentence",
    [
        (dict(num_experts=2, top_k=3), r"top_k must lie in 1\.\.2"),
        (dict(num_experts=0), "num_experts must be at least 1"),
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
