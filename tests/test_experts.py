"""Every backend of the experts against a float64 loop that knows nothing of plans, with every
gradient; the kernels in Triton's interpreter where there is no GPU (tests/conftest.py asks for it).
What the kernels alone promise stands in test_kernels_experts.py."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.kernels import (
    BACKENDS,
    DEVICE,
    DTYPES,
    ROUTINGS,
    TOLERANCES,
    device_of,
    every_backend,
    make,
)
from helpers.numerics import relative
from moeviz.backend import kernels
from moeviz.model import MoEConfig, MoEFFN
from moeviz.model.experts import apply_experts
from moeviz.routing import Plan, RouteContext, SoftPlan

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*deterministic"),
]
INTERPRETED = DEVICE == "cpu"


def widths(backend, odd):
    """grouped_mm takes rows of whole 16 bytes alone."""
    return (24, 16) if backend == "grouped" else odd


def slow_in_the_interpreter(backend, dtype):
    """Of the kernels' float16 test_kernels.py has a small case of everything."""
    slow = INTERPRETED and backend == "triton" and dtype != torch.float32
    return pytest.mark.slow if slow else ()


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        pytest.param(backend, dtype, marks=slow_in_the_interpreter(backend, dtype))
        for backend in BACKENDS
        for dtype in (DTYPES if backend == "triton" else TOLERANCES)
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
@pytest.mark.parametrize(
    "case",
    [
        *((routing, 20, 5, 2) for routing in ROUTINGS),
        ("uniform", 1, 1, 1),
        ("uniform", 5, 4, 4),  # every expert, by every token
        ("zipf", 5, 24, 2),
    ],
    ids=str,
)
def test_output_and_every_gradient_are_those_of_the_loop(case, backend, dtype):
    make(*case, *widths(backend, (33, 20)), dtype).check(dtype, backend)


@pytest.mark.parametrize(
    "backend", [pytest.param(b, marks=pytest.mark.slow if b == "triton" else ()) for b in BACKENDS]
)
@settings(max_examples=25, derandomize=True)
@given(
    routing=st.sampled_from(ROUTINGS),
    T=st.sampled_from((1, 2, 7, 20) if INTERPRETED else (1, 2, 7, 33, 100, 501)),
    E=st.sampled_from((1, 3, 8, 40) if INTERPRETED else (1, 3, 8, 60, 64, 256)),
    K=st.integers(1, 4 if INTERPRETED else 8),
    odd=st.sampled_from(((7, 5), (20, 33), (65, 17), (64, 32))),
    seed=st.integers(0, 99),
)
def test_any_routing_of_any_size(backend, routing, T, E, K, odd, seed):
    for dtype in DTYPES:
        make(routing, T, E, min(K, E), *widths(backend, odd), dtype, seed).check(dtype, backend)


@every_backend
@pytest.mark.parametrize("wanted", ["x", "weight", "w13", "w2"])
def test_one_gradient_alone_may_be_wanted(wanted, backend):
    case = make("zipf", 9, 3, 2, *widths(backend, (20, 33)))
    case.check(torch.float32, backend, wanted=(wanted,))


@every_backend
@pytest.mark.parametrize("T", [0, 5])
def test_no_rows_at_all_give_zeros_and_zero_gradients(T, backend):
    full, none = make("none", 5, 3, 1, 8, 4), torch.zeros(0, dtype=torch.int64)
    case = dataclasses.replace(full, x=full.x[:T], grad=full.grad[:T] + 1)
    assert torch.equal(case.token, none)
    leaves = case.leaves(torch.float32, device=device_of(backend))
    y, *grads = case.outcome(leaves, backend)
    assert torch.equal(y, torch.zeros_like(leaves[0]))
    assert all(torch.equal(g, torch.zeros_like(v)) for g, v in zip(grads, leaves, strict=True))


@every_backend
def test_tokens_and_experts_without_rows_get_exact_zeros_and_keep_their_nan(backend):
    """Padding rows and columns of a kernel read what is there, and throw it away."""
    case = make("empty experts", 12, 4, 2, *widths(backend, (20, 33)))
    case = dataclasses.replace(case, token=case.token - case.token % 3 + 1)
    lonely = torch.arange(12) % 3 != 1
    case.x[lonely] = case.grad[lonely] = case.w13[1::2] = case.w2[1::2] = torch.nan
    leaves = case.leaves(torch.float32, device=device_of(backend))
    y, grad_x, _, grad_w13, grad_w2 = of_all = case.outcome(leaves, backend)
    assert all(v.isfinite().all() for v in of_all)
    for of_tokens in (y, grad_x):
        assert (of_tokens[lonely] == 0).all() and (of_tokens[~lonely] != 0).any(1).all()
    for of_experts in (grad_w13, grad_w2):
        assert (of_experts[1::2] == 0).all() and (of_experts[::2] != 0).any(dim=(1, 2)).all()


@every_backend
def test_the_same_bits_in_every_run_and_every_backward_pass(backend):
    case = make("any number", 9, 5, 3, *widths(backend, (4, 3)))
    leaves = case.leaves(torch.float32, device=device_of(backend))
    y = case.run(leaves, backend)
    runs = [case.outcome(leaves, backend) for _ in range(2)]
    runs += [
        [y, *torch.autograd.grad(y, leaves, case.grad.to(y), retain_graph=True)] for _ in range(2)
    ]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@every_backend
def test_a_gradient_of_a_gradient_is_refused_where_it_would_be_wrong(backend):
    case = make("zipf", 5, 3, 2, *widths(backend, (20, 33)))
    leaves = case.leaves(torch.float32, device=device_of(backend))
    loss = case.run(leaves, backend).square().sum()
    (grad_x,) = torch.autograd.grad(loss, leaves[0], create_graph=True)
    if backend in ("reference", "matmul"):  # by autograd alone
        grad_x.sum().backward()
    else:
        with pytest.raises(RuntimeError, match="once_differentiable|no autograd formula"):
            grad_x.sum().backward()


@pytest.mark.parametrize(
    "backend", ["auto", *[pytest.param("triton", marks=pytest.mark.slow)] * ("triton" in BACKENDS)]
)
def test_a_layer_is_one_graph_of_torch_compile_for_any_tokens(backend, monkeypatch):
    if backend == "triton":  # the routing too, as on a GPU
        monkeypatch.setattr("moeviz.ops.kernels_for", lambda *_, **__: kernels())
    torch.manual_seed(0)
    layer = MoEFFN(16, MoEConfig(4, 2, 8, backend=backend)).to(DEVICE)
    layer.router.weight_ED.data.normal_()

    def step(x_TD):
        y_TD, route = layer(x_TD, RouteContext(training=True))
        return y_TD, route.losses["balance"]

    def outcome(run, x_TD):
        y_TD, balance = run(x_TD)
        leaves = [x_TD, *layer.parameters()]
        return [y_TD, *torch.autograd.grad(y_TD.square().sum() + balance, leaves)]

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    for T in (11, 7, 12):
        x_TD = torch.randn(T, 16, device=DEVICE).requires_grad_()
        want = outcome(step, x_TD)  # first: what is compiled cannot import the kernels
        with torch.compiler.set_stance("default" if T == 11 else "fail_on_recompile"):
            got = outcome(compiled, x_TD)
        for ours, theirs in zip(got, want, strict=True):
            assert relative(ours, theirs) < 1e-5


def test_soft_plan_matches_the_definition():
    g = torch.Generator().manual_seed(7)
    T, E, P, D, F_ = 6, 3, 2, 8, 4
    x_TD, logits_TEP = torch.randn(T, D, generator=g), torch.randn(T, E, P, generator=g)
    w13 = torch.randn(E, 2 * F_, D, generator=g)
    w2 = torch.randn(E, D, F_, generator=g)
    dispatch, combine = logits_TEP.softmax(0), logits_TEP.flatten(1).softmax(1).view(T, E, P)
    want = torch.zeros(T, D)
    for e in range(E):
        for p in range(P):
            slot_D = (dispatch[:, e, p, None] * x_TD).sum(0)
            gate, up = (w13[e] @ slot_D).chunk(2)
            want += combine[:, e, p, None] * (w2[e] @ (F.silu(gate) * up))
    for backend in ("auto", *BACKENDS):  # no kernel is needed
        plan = SoftPlan(dispatch[None], combine[None])
        assert relative(apply_experts(x_TD, plan, w13, w2, backend=backend), want) < 1e-6


# What is refused, each in one sentence.

PLAN = Plan.from_topk(torch.zeros(6, 1, dtype=torch.int64), torch.ones(6, 1), num_experts=4)
SHORT = dataclasses.replace(PLAN, offsets=torch.tensor([0, 2, 3, 4, 5]).int())
ELSEWHERE = dataclasses.replace(PLAN, offsets=PLAN.offsets.to("meta"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(backend="tritn"), "backend must be one of"),
        (dict(x_TD=torch.randn(5, 8)), "x_TD must be"),
        (dict(w13_E2FD=torch.randn(4, 8, 7)), "w13_E2FD must be"),
        (dict(w2_EDF=torch.randn(3, 8, 4)), "w2_EDF must be"),
        (dict(x_TD=torch.randn(6, 8).half()), "share one dtype"),
        (dict(x_TD=torch.randn(6, 8, device="meta")), "share one device"),
        (dict(x_TD=torch.tensor(1.0)), "x_TD must have 2 dimensions"),
        (dict(w2_EDF=torch.randn(8, 4)), "w2_EDF must have 3 dimensions"),
        (dict(x_TD=torch.ones(6, 8).long()), "x_TD must be of torch.float32, .*int64"),
        (dict(plan=ELSEWHERE), "plan.offsets meta"),
        (dict(plan=SHORT), "offsets must end at its number of rows, 6, got 5"),
    ],
)
def test_bad_input_is_one_clear_sentence(change, sentence):
    given = dict(x_TD=torch.randn(6, 8), plan=PLAN)
    given |= dict(w13_E2FD=torch.randn(4, 8, 8), w2_EDF=torch.randn(4, 8, 4))
    with pytest.raises(ValueError, match=sentence):
        apply_experts(**given | change)


def test_a_full_memory_is_one_sentence_with_the_sizes():
    token = torch.zeros(1 << 22, dtype=torch.int64)
    plan = Plan.from_rows(token, token, torch.ones(1 << 22), num_tokens=1, num_experts=1)
    x, w13 = torch.randn(1, 4), torch.zeros(1, 1, 4).expand(1, 2 << 22, 4)
    with pytest.raises(torch.OutOfMemoryError, match="machine's memory does not .* 4194304 rows"):
        apply_experts(x, plan, w13, torch.zeros(1, 4, 1).expand(1, 4, 1 << 22))
