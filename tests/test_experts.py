"""Expert banks against a float64 loop that knows nothing of plans, gradients included."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.numerics import relative
from moeviz.model.experts import apply_experts
from moeviz.routing import Plan, SoftPlan


def naive(x, expert_TK, weight_TK, w13, w2):
    """Token by token, choice by choice: the definition."""
    rows = []
    for t in range(x.shape[0]):
        y = torch.zeros_like(x[t])
        for k in range(expert_TK.shape[1]):
            e = int(expert_TK[t, k])
            gate, up = (w13[e] @ x[t]).chunk(2)
            y = y + weight_TK[t, k] * (w2[e] @ (F.silu(gate) * up))
        rows.append(y)
    return torch.stack(rows) if rows else x.clone()


def random_case(T, D, F_, E, K, seed, skew=0.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(T, D, generator=g, dtype=torch.float64)
    logits = torch.randn(T, E, generator=g, dtype=torch.float64)
    logits -= skew * torch.arange(E)
    weight, expert = logits.softmax(-1).topk(K)
    w13 = torch.randn(E, 2 * F_, D, generator=g, dtype=torch.float64) / D**0.5
    w2 = torch.randn(E, D, F_, generator=g, dtype=torch.float64) / F_**0.5
    return [v.to(dtype) if v.is_floating_point() else v for v in (x, expert, weight, w13, w2)]


SHAPES = [(7, 8, 4, 5, 2), (1, 4, 4, 1, 1), (33, 16, 12, 8, 3), (20, 8, 8, 60, 4), (5, 4, 8, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["reference", "grouped", "matmul"])
@pytest.mark.parametrize("skew", [0.0, 5.0])
def test_forward_and_every_gradient_match_the_loop(shape, backend, skew):
    x, expert, weight, w13, w2 = random_case(*shape, seed=1, skew=skew)
    inputs64 = [v.clone().requires_grad_() for v in (x, weight, w13, w2)]
    want = naive(inputs64[0], expert, inputs64[1], inputs64[2], inputs64[3])
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(2)).double()
    want.backward(grad)

    inputs = [v.float().requires_grad_() for v in (x, weight, w13, w2)]
    plan = Plan.from_topk(expert, inputs[1], num_experts=shape[3])
    got = apply_experts(inputs[0], plan, inputs[2], inputs[3], backend=backend)
    got.backward(grad.float())
    assert relative(got, want) < 1e-6
    for name, a, b in zip(("x", "weight", "w13", "w2"), inputs, inputs64, strict=True):
        assert relative(a.grad, b.grad) < 2e-6, name


@pytest.mark.parametrize("dtype,tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("backend", ["reference", "grouped", "matmul"])
def test_half_precision_stays_near_the_loop(backend, dtype, tolerance):
    x, expert, weight, w13, w2 = random_case(33, 16, 16, 8, 2, seed=3)
    inputs64 = [v.clone().requires_grad_() for v in (x, weight, w13, w2)]
    want = naive(inputs64[0], expert, *inputs64[1:])
    want.square().sum().backward()

    inputs = [v.to(dtype).requires_grad_() for v in (x, weight, w13, w2)]
    plan = Plan.from_topk(expert, inputs[1].float(), num_experts=8)
    got = apply_experts(inputs[0], plan, *inputs[2:], backend=backend)
    got.double().square().sum().backward()
    assert relative(got, want) < tolerance
    for name, a, b in zip(("x", "weight", "w13", "w2"), inputs, inputs64, strict=True):
        assert relative(a.grad, b.grad) < 2 * tolerance, name


@pytest.mark.parametrize("backend", ["reference", "grouped", "matmul"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_no_assignment_at_all_is_zeros_and_zero_gradients(tokens, backend):
    leaves = [torch.randn(size).requires_grad_() for size in ((tokens, 8), (4, 8, 8), (4, 8, 4))]
    nothing = torch.zeros(0, dtype=torch.int64)
    weight = torch.zeros(0, requires_grad=True)
    plan = Plan.from_rows(nothing, nothing, weight, num_tokens=tokens, num_experts=4)
    y = apply_experts(leaves[0], plan, *leaves[1:], backend=backend)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(tokens, 8))
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("backend", ["reference", "grouped", "matmul"])
def test_a_second_backward_over_the_same_graph_gives_the_same(backend):
    x, expert, weight, w13, w2 = random_case(9, 8, 8, 4, 2, seed=8, dtype=torch.float32)
    leaves = [v.requires_grad_() for v in (x, weight, w13, w2)]
    plan = Plan.from_topk(expert, weight, num_experts=4)
    y = apply_experts(x, plan, w13, w2, backend=backend).square().sum()
    first = torch.autograd.grad(y, leaves, retain_graph=True)
    second = torch.autograd.grad(y, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_default_backend_compiles_in_one_graph_for_any_load():
    def step(x, expert, weight, w13, w2):
        plan = Plan.from_topk(expert, weight, num_experts=4)
        return apply_experts(x, plan, w13, w2)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for seed, skew in ((1, 0.0), (2, 5.0), (3, 1.0)):
        case = random_case(12, 8, 8, 4, 2, seed=seed, skew=skew, dtype=torch.float32)
        leaves = [v.requires_grad_() for v in case if v.is_floating_point()]
        grads = []
        for run in (step, compiled):
            y = run(*case)
            grads.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        for ours, plain in zip(*grads, strict=True):
            assert relative(ours, plain) < 1e-6


def test_reference_passes_gradcheck():
    x, expert, weight, w13, w2 = random_case(5, 4, 3, 4, 2, seed=4)
    leaves = [v.requires_grad_() for v in (x, weight, w13, w2)]

    def run(x, weight, w13, w2):
        return apply_experts(x, Plan.from_topk(expert, weight, num_experts=4), w13, w2)

    assert torch.autograd.gradcheck(run, leaves)


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(1, 17),
    E=st.integers(1, 9),
    data=st.data(),
    seed=st.integers(0, 10**6),
)
def test_any_number_of_rows_per_token(T, E, data, seed):
    """Plans with 0..E experts a token (drops, expert choice): all backends equal the dense mix."""
    g = torch.Generator().manual_seed(seed)
    chosen_TE = torch.rand(T, E, generator=g) < data.draw(st.floats(0.0, 1.0))
    token, expert = chosen_TE.nonzero(as_tuple=True)
    weight = torch.rand(token.numel(), generator=g)
    plan = Plan.from_rows(token, expert, weight, num_tokens=T, num_experts=E)
    x = torch.randn(T, 8, generator=g)
    w13, w2 = torch.randn(E, 8, 8, generator=g), torch.randn(E, 8, 4, generator=g)
    gate_up = torch.einsum("td,efd->tef", x, w13)
    every_TED = torch.einsum("tef,edf->ted", F.silu(gate_up[..., :4]) * gate_up[..., 4:], w2)
    want = torch.einsum("te,ted->td", plan.dense_weights(), every_TED)
    for backend in ("reference", "grouped", "matmul"):
        got = apply_experts(x, plan, w13, w2, backend=backend)
        assert torch.allclose(got, want, atol=1e-4), backend
    lonely = ~chosen_TE.any(1)
    assert (got[lonely] == 0).all()


def test_backends_agree_on_gradients_where_rows_vary():
    token = torch.tensor([0, 0, 0, 2, 3, 3])
    expert = torch.tensor([0, 2, 1, 2, 0, 2])
    grads = {}
    for backend in ("reference", "grouped", "matmul"):
        g = torch.Generator().manual_seed(0)
        x, w13 = torch.randn(5, 8, generator=g), torch.randn(3, 8, 8, generator=g)
        w2, weight = torch.randn(3, 8, 4, generator=g), torch.rand(6, generator=g)
        leaves = [v.requires_grad_() for v in (x, w13, w2, weight)]
        plan = Plan.from_rows(token, expert, weight, num_tokens=5, num_experts=3)
        apply_experts(x, plan, w13, w2, backend=backend).square().sum().backward()
        grads[backend] = [v.grad for v in leaves]
    for of_each in zip(*grads.values(), strict=True):
        for other in of_each[1:]:
            assert relative(other, of_each[0]) < 1e-6
    assert (grads["grouped"][0][1] == 0).all() and (grads["grouped"][1][1] != 0).any()


def test_grouped_is_repeatable_bit_for_bit():
    x, expert, weight, w13, w2 = random_case(64, 16, 8, 8, 2, seed=5, dtype=torch.float32)
    plan = Plan.from_topk(expert, weight, num_experts=8)
    runs = [apply_experts(x, plan, w13, w2, backend="grouped") for _ in range(5)]
    assert all(torch.equal(runs[0], run) for run in runs)


def test_experts_without_tokens_get_zero_gradient():
    x, _, _, w13, w2 = random_case(6, 8, 4, 4, 1, seed=6, dtype=torch.float32)
    for backend in ("reference", "grouped", "matmul"):
        w = w13.clone().requires_grad_()
        plan = Plan.from_topk(torch.full((6, 1), 2), torch.ones(6, 1), num_experts=4)
        apply_experts(x, plan, w, w2, backend=backend).square().sum().backward()
        assert (w.grad[[0, 1, 3]] == 0).all() and (w.grad[2] != 0).any()


@pytest.mark.parametrize("frozen", ["x", "weight", "w13", "w2"])
def test_a_frozen_input_gets_no_gradient_and_the_others_keep_theirs(frozen):
    x, expert, weight, w13, w2 = random_case(9, 8, 8, 4, 2, seed=8, dtype=torch.float32)
    grads = []
    for leave_out in ("", frozen):
        leaves = dict(x=x.clone(), weight=weight.clone(), w13=w13.clone(), w2=w2.clone())
        for name, leaf in leaves.items():
            leaf.requires_grad_(name != leave_out)
        plan = Plan.from_topk(expert, leaves["weight"], num_experts=4)
        y = apply_experts(leaves["x"], plan, leaves["w13"], leaves["w2"], backend="grouped")
        y.square().sum().backward()
        grads.append({name: leaf.grad for name, leaf in leaves.items()})
    every, some = grads
    assert some.pop(frozen) is None
    assert all(torch.equal(grad, every[name]) for name, grad in some.items())


def test_soft_plan_matches_the_definition():
    g = torch.Generator().manual_seed(7)
    T, E, P, D, F_ = 6, 3, 2, 8, 4
    x = torch.randn(T, D, generator=g).double()
    logits = torch.randn(T, E, P, generator=g).double()
    dispatch, combine = logits.softmax(0), logits.flatten(1).softmax(1).view(T, E, P)
    plan = SoftPlan(dispatch[None], combine[None])
    w13 = torch.randn(E, 2 * F_, D, generator=g).double()
    w2 = torch.randn(E, D, F_, generator=g).double()
    want = torch.zeros(T, D).double()
    for e in range(E):
        for p in range(P):
            slot = (dispatch[:, e, p, None] * x).sum(0)
            gate, up = (w13[e] @ slot).chunk(2)
            want += combine[:, e, p, None] * (w2[e] @ (F.silu(gate) * up))
    assert relative(apply_experts(x, plan, w13, w2), want) < 1e-12


@pytest.mark.parametrize(
    "change,sentence",
    [
        (dict(backend="tritn"), "backend must be one of"),
        (dict(x=torch.randn(5, 8)), "x_TD must be"),
        (dict(w13=torch.randn(4, 8, 7)), "w13_E2FD must be"),
        (dict(w2=torch.randn(3, 8, 4)), "w2_EDF must be"),
        (dict(x=torch.randn(6, 8).half()), "share one dtype"),
        (dict(x=torch.randn(6, 8, device="meta")), "share one device"),
        (dict(x=torch.tensor(1.0)), "x_TD must have 2 dimensions"),
        (dict(w2=torch.randn(8, 4)), "w2_EDF must have 3 dimensions"),
        (dict(x=torch.ones(6, 8, dtype=torch.int64)), "x_TD must be of torch.float32, .*int64"),
        (dict(w13=torch.randn(4, 8, 16)[..., ::2], backend="grouped"), "w13_E2FD contiguous"),
    ],
)
def test_bad_input_is_one_clear_sentence(change, sentence):
    plan = Plan.from_topk(torch.zeros(6, 1, dtype=torch.int64), torch.ones(6, 1), num_experts=4)
    case = dict(x=torch.randn(6, 8), w13=torch.randn(4, 8, 8), w2=torch.randn(4, 8, 4))
    case.update(change)
    with pytest.raises(ValueError, match=sentence):
        apply_experts(case["x"], plan, case["w13"], case["w2"], backend=case.get("backend", "auto"))


def test_a_plan_that_lies_on_two_devices_is_refused():
    plan = Plan.from_topk(torch.zeros(6, 1, dtype=torch.int64), torch.ones(6, 1), num_experts=4)
    plan = dataclasses.replace(plan, offsets=plan.offsets.to("meta"))
    with pytest.raises(ValueError, match="plan.offsets meta"):
        apply_experts(torch.randn(6, 8), plan, torch.randn(4, 8, 8), torch.randn(4, 8, 4))


def test_weights_with_gaps_are_taken_by_the_reference():
    x, expert, weight, w13, w2 = random_case(6, 8, 8, 3, 2, seed=8, dtype=torch.float32)
    plan = Plan.from_topk(expert, weight, num_experts=3)
    gaps = torch.stack([w13, w13], -1)[..., 0]
    assert not gaps.is_contiguous()
    y = apply_experts(x, plan, gaps, w2)
    assert relative(y, apply_experts(x, plan, w13, w2, backend="reference")) < 1e-6


def test_a_full_memory_is_one_sentence_with_the_sizes():
    token = torch.zeros(1 << 22, dtype=torch.int64)
    plan = Plan.from_rows(token, token, torch.ones(1 << 22), num_tokens=1, num_experts=1)
    x, w13 = torch.randn(1, 4), torch.zeros(1, 1, 4).expand(1, 2 << 22, 4)
    with pytest.raises(torch.OutOfMemoryError, match="machine's memory does not .* 4194304 rows"):
        apply_experts(x, plan, w13, torch.zeros(1, 4, 1).expand(1, 4, 1 << 22))


def test_grouped_says_why_it_refuses_and_auto_falls_back():
    x, expert, weight, w13, w2 = random_case(6, 7, 5, 3, 2, seed=8, dtype=torch.float32)
    plan = Plan.from_topk(expert, weight, num_experts=3)
    with pytest.raises(ValueError, match="d_model to be a multiple of 4, got 7"):
        apply_experts(x, plan, w13, w2, backend="grouped")
    assert torch.equal(
        apply_experts(x, plan, w13, w2), apply_experts(x, plan, w13, w2, backend="reference")
    )


@pytest.mark.parametrize("name", ["reference", "grouped", "matmul"])
def test_rows_beyond_the_last_expert_are_refused(name):
    x, expert, weight, w13, w2 = random_case(6, 8, 8, 3, 2, seed=8, dtype=torch.float32)
    plan = Plan.from_topk(expert, weight, num_experts=3)
    cut = dataclasses.replace(plan, offsets=plan.offsets.clamp(max=10))
    with pytest.raises(ValueError, match="offsets must end at its number of rows, 12, got 10"):
        apply_experts(x, cut, w13, w2, backend=name)
