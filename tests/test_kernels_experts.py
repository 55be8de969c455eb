"""The experts on Triton kernels against a float64 loop over rows that knows nothing of plans, with
every gradient; and what the kernels promise about memory, repeatability and compilation."""

import dataclasses
import importlib
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.kernels import DEVICE, DTYPES, every_dtype, with_dtypes
from helpers.numerics import relative
from moeviz.backend import resolve_backend
from moeviz.routing import Plan
from moeviz_kernels import LaunchError, configs, experts, refusal, softmax_topk, sort_topk

# `moeviz_kernels.experts` is the function.
module = importlib.import_module("moeviz_kernels.experts")

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*deterministic"),
]

on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
ROUTINGS = ("uniform", "zipf", "all to one", "empty experts", "drops", "any number", "none")
LEAVES = ("x", "weight", "w13", "w2")


@dataclass(frozen=True)
class Case:
    """What goes in, in float64 but already rounded; token, expert and weight in no order."""

    x: Tensor  # [T, D]
    token: Tensor  # [N]
    expert: Tensor  # [N]
    weight: Tensor  # [N]
    w13: Tensor  # [E, 2F, D]
    w2: Tensor  # [E, D, F]
    grad: Tensor  # [T, D]

    def plan(self, weight, **more) -> Plan:
        sizes = dict(num_tokens=len(self.x), num_experts=len(self.w2))
        return Plan.from_rows(
            self.token.to(DEVICE), self.expert.to(DEVICE), weight, **sizes, **more
        )

    def leaves(self, dtype, wanted=LEAVES) -> list[Tensor]:
        """x, weight, w13, w2 where the kernels run; the weight in float32."""
        return [
            getattr(self, name)
            .to(DEVICE, torch.float32 if name == "weight" else dtype)
            .requires_grad_(name in wanted)
            for name in LEAVES
        ]


def by_kernels(x, plan, w13, w2):
    return experts(
        x, w13, w2, token=plan.token, weight=plan.weight, offsets=plan.offsets,
        inverse=plan.inverse, token_offsets=plan.token_offsets,
    )  # fmt: skip


def by_rows(x, token, expert, weight, w13, w2):
    """Row by row: the definition. The weights are unbound once, for w13[e] fills a gradient of all
    experts."""
    y, w13, w2 = [0 * x_D for x_D in x], w13.unbind(0), w2.unbind(0)
    x = x.unbind(0)
    for t, e, weight_1 in zip(token.tolist(), expert.tolist(), weight.unbind(0), strict=True):
        gate, up = (w13[e] @ x[t]).chunk(2)
        y[t] = y[t] + weight_1 * (w2[e] @ (F.silu(gate) * up))
    return torch.stack(y)


def assignments(routing, T, E, K, draw):
    """token [N], expert [N]."""
    if routing == "any number":  # 0..E of them and more: one expert twice
        token, expert = (torch.rand(T, E, generator=draw) < K / E).nonzero(as_tuple=True)
        twice = torch.arange(0, len(token), 5)
        order = torch.randperm(len(token) + len(twice), generator=draw)
        return torch.cat((token, token[twice]))[order], torch.cat((expert, expert[twice]))[order]
    logits = torch.randn(T, E, generator=draw)
    if routing == "zipf":
        logits -= 1.5 * torch.arange(1, E + 1).log()
    elif routing == "all to one":
        logits = 100.0 * torch.arange(E).expand(T, E)
    elif routing == "empty experts":
        logits[:, 1::2] -= 100
    token = torch.arange(T)[:, None].expand(T, K).reshape(-1)
    expert = logits.topk(K).indices.reshape(-1)
    if routing in ("drops", "none"):
        stays = torch.rand(len(token), generator=draw) < (0.6 if routing == "drops" else 0)
        return token[stays], expert[stays]
    return token, expert


def make(routing, T, E, K, D, F_, dtype, seed=0) -> Case:
    """Values of unit size, so that no error hides behind a small one. The gradient leans towards y:
    where there is one row, <dO, Y> is one number that must not cancel to nothing."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape, fan_in=1, dtype=dtype):
        values = torch.randn(*shape, generator=draw, dtype=torch.float64) / fan_in**0.5
        return values.to(dtype).double()

    token, expert = assignments(routing, T, E, K, draw)
    weight = normal(len(token), dtype=torch.float32)
    x, w13, w2 = normal(T, D), normal(E, 2 * F_, D, fan_in=D), normal(E, D, F_, fan_in=F_)
    y = by_rows(x, token, expert, weight, w13, w2)
    y = y / y.square().mean().sqrt().clamp(min=1e-30)
    grad = (y + 0.5 * normal(T, D)).to(dtype).double()
    return Case(x, token, expert, weight, w13, w2, grad)


def assert_equal_to_the_loop(case, dtype, wanted=LEAVES):
    leaves = case.leaves(dtype, wanted)
    y = by_kernels(leaves[0], case.plan(leaves[1]), *leaves[2:])
    y.backward(case.grad.to(DEVICE, dtype))
    x, weight, w13, w2 = (getattr(case, name).clone().requires_grad_() for name in LEAVES)
    want = by_rows(x, case.token, case.expert, weight, w13, w2)
    want.backward(case.grad)
    assert y.dtype == dtype and relative(y, want) < DTYPES[dtype]
    for name, got, want in zip(LEAVES, leaves, (x, weight, w13, w2), strict=True):
        if name in wanted:
            want_grad = torch.zeros_like(want) if want.grad is None else want.grad
            assert relative(got.grad, want_grad) < DTYPES[dtype], name
        else:
            assert got.grad is None, name


# Right results.


@every_dtype
@pytest.mark.parametrize("routing", ROUTINGS)
def test_output_and_every_gradient_are_those_of_the_loop(routing, dtype):
    assert_equal_to_the_loop(make(routing, 33, 8, 2, 65, 20, dtype), dtype)


# T, E, K that lead to each height of a tile, and widths that blocks divide and do not.
HEIGHTS = {16: (7, 3, 2), 32: (21, 3, 3), 64: (60, 2, 2), 128: (194, 2, 1)}
SIZES = [(height, *width) for height in HEIGHTS for width in ((64, 128), (130, 33), (1, 1))]


@with_dtypes(("height", "D", "F_"), SIZES, quick=[size for size in SIZES if size[0] < 64])
def test_every_height_of_a_tile_with_even_and_odd_widths(height, D, F_, dtype):
    T, E, K = HEIGHTS[height]
    assert configs.tile_height(T * K / E) == height
    assert_equal_to_the_loop(make("zipf", T, E, K, D, F_, dtype), dtype)


# The interpreter takes up to 15 seconds for what a GPU does at once.
TOKENS = (1, 2, 7, 33, 100, 501) if DEVICE == "cuda" else (1, 2, 7, 20)
EXPERTS = (1, 3, 8, 60, 64, 256) if DEVICE == "cuda" else (1, 3, 8, 40)


@with_dtypes((), [()], quick=[])
@settings(max_examples=25 if DEVICE == "cuda" else 4, deadline=None, derandomize=True)
@given(
    routing=st.sampled_from(ROUTINGS),
    T=st.sampled_from(TOKENS),
    E=st.sampled_from(EXPERTS),
    K=st.integers(1, 8 if DEVICE == "cuda" else 4),
    width=st.sampled_from(((7, 5), (20, 33), (65, 17), (64, 32))),
    seed=st.integers(0, 99),
)
@example("uniform", 1, 1, 1, (20, 33), 0)
@example("uniform", 7, 8, 8, (20, 33), 0)  # every expert, by every token
@example("zipf", 7, 64, 2, (7, 5), 0)
def test_any_routing_of_any_size(dtype, routing, T, E, K, width, seed):
    assert_equal_to_the_loop(make(routing, T, E, min(K, E), *width, dtype, seed), dtype)


@pytest.mark.slow
@every_dtype
@pytest.mark.parametrize(
    "case",
    [
        ("all to one", 7, 256, 1, 20, 33),
        ("uniform", 20, 60, 4, 20, 33),
        ("zipf", 200, 60, 2, 3, 2),
        ("zipf", 150, 3, 2, 130, 33),  # several of the highest tiles for one expert
    ],
    ids=str,
)
def test_many_experts_and_many_tokens(case, dtype):
    assert_equal_to_the_loop(make(*case, dtype), dtype)


OLD, NEW = "torch.set_float32_matmul_precision", "cuda.matmul.fp32_precision"
TF32_SWITCHES = {
    "": "ieee",
    f"{OLD}('high')": "tf32",
    "cuda.matmul.allow_tf32 = True": "tf32",
    f"{NEW} = 'tf32'": "tf32",
    "torch.backends.fp32_precision = 'tf32'": "tf32",
    f"{NEW} = 'ieee'": "ieee",
    f"{OLD}('high'); {NEW} = 'ieee'": "ieee",
    f"{NEW} = 'tf32'; {OLD}('highest')": "ieee",
}
LAUNCH_PRECISIONS = """
import sys, torch
from torch.backends import cuda
from moeviz_kernels import configs

start = torch.backends.fp32_precision, cuda.matmul.fp32_precision
for switch in sys.argv[1:]:
    exec(switch)
    print(configs.launch_options(configs.Gemm(16, 32, 16, 4, 2), torch.float32)["PRECISION"])
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision, cuda.matmul.fp32_precision = start
"""


def test_every_switch_of_torch_for_tf32_is_followed():
    """In a process of its own: no switch can be set back to what it was before any was used."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", LAUNCH_PRECISIONS, *TF32_SWITCHES],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert dict(zip(TF32_SWITCHES, done.stdout.split(), strict=True)) == TF32_SWITCHES


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_float32_rounds_to_tf32_where_torch_may(precision):
    """The interpreter knows one float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        options = configs.launch_options(configs.Gemm(16, 32, 16, 4, 2), torch.float32)
        case = make("zipf", 21, 3, 2, 130, 33, torch.float32)
        x, weight, w13, w2 = case.leaves(torch.float32)
        y = by_kernels(x, case.plan(weight), w13, w2)
    finally:
        torch.set_float32_matmul_precision(before)
    assert options["PRECISION"] == {"highest": "ieee", "high": "tf32"}[precision]
    want = by_rows(case.x, case.token, case.expert, case.weight, case.w13, case.w2)
    error = relative(y, want)
    # Triton leaves the rounding to the tensor cores, which cut the 13 low bits off.
    assert error < {"highest": 2e-6, "high": 1e-2}[precision]
    if DEVICE == "cuda":
        assert (error > 1e-5) == (precision == "high")


@pytest.mark.parametrize("T", [0, 5])
def test_no_rows_at_all_give_zeros_and_zero_gradients(T):
    none = torch.zeros(0, dtype=torch.int64)
    full = make("uniform", 5, 3, 1, 8, 4, torch.float32)
    parts = dict(token=none, expert=none, weight=none.double(), x=full.x[:T], grad=full.grad[:T])
    case = dataclasses.replace(full, **parts)
    leaves = case.leaves(torch.float32)
    y = by_kernels(leaves[0], case.plan(leaves[1]), *leaves[2:])
    y.backward(torch.ones_like(y))
    assert torch.equal(y, torch.zeros_like(leaves[0]))
    for leaf in leaves:
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@every_dtype
def test_tokens_and_experts_without_rows_get_exact_zeros_and_keep_their_nan(dtype):
    """Padding rows and columns read what is there, and throw it away."""
    case = make("empty experts", 21, 8, 2, 20, 33, dtype)
    case = dataclasses.replace(case, token=case.token - case.token % 3 + 1)
    lonely = torch.arange(21) % 3 != 1
    case.x[lonely] = case.grad[lonely] = case.w13[1::2] = case.w2[1::2] = torch.nan
    leaves = case.leaves(dtype)
    y = by_kernels(leaves[0], case.plan(leaves[1]), *leaves[2:])
    y.backward(case.grad.to(DEVICE, dtype))
    assert all(v.isfinite().all() for v in (y, *(leaf.grad for leaf in leaves)))
    for of_tokens in (y, leaves[0].grad):
        assert (of_tokens[lonely] == 0).all() and (of_tokens[~lonely] != 0).any(1).all()
    for leaf in leaves[2:]:
        assert (leaf.grad[1::2] == 0).all()
        assert (leaf.grad[::2] != 0).any(dim=(1, 2)).all()


# What may come in.


@pytest.mark.parametrize("wanted", LEAVES)
def test_one_gradient_alone_may_be_wanted(wanted):
    case = make("zipf", 21, 3, 2, 20, 33, torch.float32)
    assert_equal_to_the_loop(case, torch.float32, wanted=(wanted,))


def test_frozen_experts_cost_no_gradient(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a gradient that nobody wants")

    case = make("zipf", 9, 4, 2, 16, 8, torch.float32)
    for frozen, kernel in ((("w13", "w2"), "grad_weight"), (("x",), "grouped_gemm")):
        leaves = case.leaves(torch.float32, [name for name in LEAVES if name not in frozen])
        y = by_kernels(leaves[0], case.plan(leaves[1]), *leaves[2:])
        with monkeypatch.context() as patch:
            patch.setattr(module, kernel, refuse)
            y.backward(case.grad.to(y))
        for name, leaf in zip(LEAVES, leaves, strict=True):
            assert (leaf.grad is None) == (name in frozen), name


def test_x_and_the_gradient_may_be_views():
    case = make("uniform", 21, 3, 2, 20, 33, torch.float32)
    x, weight, w13, w2 = case.leaves(torch.float32)
    grad = case.grad.to(DEVICE, torch.float32)
    plan = case.plan(weight)
    by_kernels(x, plan, w13, w2).backward(grad, retain_graph=True)
    view = x.detach().T.contiguous().T.requires_grad_()
    assert not view.is_contiguous()
    y = by_kernels(view, plan, w13, w2)
    y.backward(grad.T.contiguous().T, retain_graph=True)
    assert torch.equal(view.grad, x.grad)
    assert torch.equal(y, by_kernels(x, plan, w13, w2))
    # That of a sum has no memory of its own.
    summed, ones = (torch.autograd.grad(y, view, g, retain_graph=True)[0] for g in (
        torch.ones((), device=DEVICE).expand_as(y), torch.ones_like(y),
    ))  # fmt: skip
    assert torch.equal(summed, ones)


@pytest.mark.parametrize("how", ["strided", "expanded"])
def test_the_tensors_of_a_plan_may_be_views(how):
    """Expanded, where all values are one: a single expert, one row per token."""
    E = 1 if how == "expanded" else 3
    case = make("uniform", 21, E, E, 20, 33, torch.float32)
    case = dataclasses.replace(case, weight=case.weight[:1].expand(len(case.weight)))

    def view(v):
        if how == "expanded" and (v == v[0]).all():
            return v[:1].expand(len(v))
        return v.repeat_interleave(2)[::2]

    x, weight, w13, w2 = case.leaves(torch.float32)
    plan = case.plan(weight)
    grad = case.grad.to(DEVICE, torch.float32)
    fields = ("token", "weight", "offsets", "inverse", "token_offsets")
    want = [by_kernels(x, plan, w13, w2)]
    # The gradient of an expanded weight is a sum.
    leaves = (x, w13, w2) if how == "expanded" else (x, w13, w2, weight)
    want += torch.autograd.grad(want[0], leaves, grad, retain_graph=True)
    viewed = SimpleNamespace(**{name: view(getattr(plan, name)) for name in fields})
    assert not viewed.weight.is_contiguous()
    got = [by_kernels(x, viewed, w13, w2)]
    got += torch.autograd.grad(got[0], leaves, grad)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_weight_may_have_any_dtype_and_gets_its_gradient_in_it(dtype):
    case = make("uniform", 21, 3, 2, 20, 33, torch.float32)
    rounded = case.weight.to(dtype)
    case = dataclasses.replace(case, weight=rounded.double())
    x, want, w13, w2 = case.leaves(torch.float32)
    grad = case.grad.to(DEVICE, torch.float32)
    by_kernels(x, case.plan(want), w13, w2).backward(grad)
    leaf = rounded.to(DEVICE).requires_grad_()
    by_kernels(x, case.plan(leaf), w13, w2).backward(grad)
    assert leaf.grad.dtype == dtype
    assert torch.equal(leaf.grad, want.grad.to(dtype))


@pytest.mark.parametrize(("E", "D", "F_"), [(0, 8, 4), (3, 0, 4), (3, 8, 0)])
def test_empty_weights_are_refused_in_a_sentence(E, D, F_):
    x, w13, w2 = (torch.empty(v, device=DEVICE) for v in ((5, D), (E, 2 * F_, D), (E, D, F_)))
    said = f"at least one unit, got {E} experts, d_model {D}, d_expert {F_}."
    assert refusal(x, w13, w2).endswith(said)
    with pytest.raises(ValueError, match=said):
        resolve_backend("triton", x, w13, w2)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            LaunchError[0](300_000, 101_376, "shared memory"),
            "backward pass does not fit this GPU .*101376.*: train with another backend",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
            r"backward pass of 10 rows \(5 tokens, d_model 8, d_expert 4, torch.float32\)",
        ),
    ],
    ids=["too large a kernel", "full memory"],
)
def test_a_backward_pass_that_cannot_run_is_one_sentence(error, sentence, monkeypatch):
    case = make("uniform", T=5, E=3, K=2, D=8, F_=4, dtype=torch.float32)
    x, weight, w13, w2 = case.leaves(torch.float32)
    y = by_kernels(x, case.plan(weight), w13, w2)

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(module, "grad_hidden", refuse)
    with pytest.raises(RuntimeError, match=sentence):
        y.sum().backward()


# What is kept, and how often the same comes out.


def saved_by(call):
    """What autograd keeps for the backward pass of a call."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        call()
    return kept


@every_dtype
def test_only_x_z_the_weights_and_the_plan_are_kept_for_the_backward_pass(dtype):
    case = make("zipf", 33, 8, 2, 20, 12, dtype)
    x, weight, w13, w2 = case.leaves(dtype)
    plan = case.plan(weight)
    kept = saved_by(lambda: by_kernels(x, plan, w13, w2))
    given = [x, plan.weight, w13, w2, plan.token, plan.offsets, plan.inverse, plan.token_offsets]
    new = [v for v in kept if v.data_ptr() not in {g.data_ptr() for g in given}]
    assert [(v.shape, v.dtype) for v in new] == [((len(case.token), 2 * 12), dtype)]
    size = x.element_size()
    floats = x.numel() + len(case.token) * 2 * 12 + w13.numel() + w2.numel()
    ints = 2 * len(case.token) + 9 + 34
    assert sum(v.nbytes for v in kept) == size * floats + 4 * (len(case.token) + ints)


@pytest.mark.parametrize("why", ["no_grad", "inference_mode", "no leaf wants one"])
def test_without_a_gradient_nothing_is_kept_and_z_is_never_written(why, monkeypatch):
    asked = []

    def spy(*args, save):
        h_NF, z_N2F = up_swiglu(*args, save=save)
        asked.append((save, z_N2F.numel()))
        return h_NF, z_N2F

    up_swiglu = module.up_swiglu
    monkeypatch.setattr(module, "up_swiglu", spy)
    case = make("zipf", 21, 3, 2, 20, 12, torch.float32)
    wanting = case.leaves(torch.float32)
    want = by_kernels(wanting[0], case.plan(wanting[1]), *wanting[2:])
    leaves = case.leaves(torch.float32, () if why == "no leaf wants one" else LEAVES)
    plan = case.plan(leaves[1])
    off = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
    with off.get(why, torch.enable_grad)():
        kept = saved_by(lambda: asked.append(by_kernels(leaves[0], plan, *leaves[2:])))
    got = asked.pop()
    assert kept == [] and not got.requires_grad and torch.equal(got, want)
    assert asked == [(True, len(case.token) * 24), (False, 0)]


@every_dtype
def test_the_same_bits_in_every_run(dtype):
    case = make("any number", *((20, 5, 3, 20, 33) if DEVICE == "cuda" else (5, 3, 2, 4, 3)), dtype)
    leaves = case.leaves(dtype)
    plan, grad = case.plan(leaves[1]), case.grad.to(DEVICE, dtype)

    def run():
        y = by_kernels(leaves[0], plan, *leaves[2:])
        return [y, *torch.autograd.grad(y, leaves, grad, retain_graph=True)]

    first = run()
    for _ in range(4):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


# PyTorch's compiler.


def layer(x_TD, logits_TE, w13, w2, k=2):
    """The whole way by kernels alone: softmax and top-K, sort, experts."""
    scores_TE, weight_TK, expert_TK = softmax_topk(logits_TE, k)
    order, rank, _, _, offsets, token, _, token_offsets = sort_topk(expert_TK, len(w2))
    weight = weight_TK.reshape(-1).index_select(0, order)
    y = experts(
        x_TD, w13, w2, token=token, weight=weight, offsets=offsets, inverse=rank,
        token_offsets=token_offsets,
    )  # fmt: skip
    return y, scores_TE


def layer_leaves(T=9, E=3, D=6, F_=5, dtype=torch.float32, seed=0):
    case = make("uniform", T, E, 1, D, F_, dtype, seed)
    logits = torch.randn(T, E, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    x, _, w13, w2 = case.leaves(dtype)
    return x, logits.requires_grad_(), w13, w2


def outcomes(run, leaves):
    y, scores = run(*leaves)
    return y, scores, *torch.autograd.grad(y.float().square().sum() + scores[:, 0].sum(), leaves)


def test_the_whole_layer_of_kernels_is_that_of_torch():
    x, logits, w13, w2 = leaves = layer_leaves()
    got = outcomes(layer, leaves)

    def by_torch(x, logits, w13, w2):
        scores = logits.softmax(1)
        weight, expert = scores.topk(2)
        token = torch.arange(len(x)).repeat_interleave(2)
        return by_rows(x, token, expert.flatten(), weight.flatten(), w13, w2), scores

    want = outcomes(by_torch, [v.detach().double().cpu().requires_grad_() for v in leaves])
    for a, b in zip(got, want, strict=True):
        assert relative(a, b) < 3e-6


def test_torch_compile_takes_the_layer_as_one_graph_for_any_number_of_tokens_with_the_same_bits():
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    outcomes(compiled, layer_leaves(T=11))
    with torch.compiler.set_stance("fail_on_recompile"):
        for T in (7, 12):
            leaves = layer_leaves(T=T, seed=T)
            for got, want in zip(outcomes(compiled, leaves), outcomes(layer, leaves), strict=True):
                assert torch.equal(got, want)
    with torch.no_grad():
        assert torch.equal(compiled(*leaves)[0], layer(*leaves)[0])


OPERATORS = "experts_forward experts_backward topk softmax_topk sort_by_expert sort_topk".split()


def op_calls():
    """Arguments of each custom operator, as the functions around them pass them on."""
    case = make("zipf", 7, 3, 2, 8, 4, torch.float32)
    x, weight, w13, w2 = case.leaves(torch.float32)
    plan = case.plan(weight.detach())
    rows = (plan.token, plan.offsets, plan.inverse, plan.token_offsets)
    weight = plan.weight.clone().requires_grad_()
    forward = (x, weight, w13, w2, *rows)
    y, z = torch.ops.moeviz.experts_forward(*forward, True)
    plain = [v.detach() for v in forward]
    backward = (torch.ones_like(plain[0]), plain[0], z.detach(), *plain[1:])
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    expert = torch.tensor([2, 0, 1, 2], device=DEVICE, dtype=torch.int32)
    return {
        "experts_forward": [(*forward, True), (*plain, False), (*plain, True)],
        "experts_backward": [(*backward, *needed) for needed in ((True,) * 3, (False,) * 3)],
        "topk": [(scores, 2)],
        "softmax_topk": [(scores, 2), (scores.clone().requires_grad_(), 2)],
        "sort_by_expert": [(expert, 3), (expert[:0], 3)],
        "sort_topk": [(expert.view(2, 2), 3), (expert.view(2, 2)[:0], 3)],
    }


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_keeps_pytorchs_rules(name):
    """It changes no input, says the right shapes in advance, and compiles with its gradient."""
    calls = op_calls()
    assert {*calls} == {*OPERATORS}
    for args in calls[name]:
        torch.library.opcheck(getattr(torch.ops.moeviz, name).default, args)


# What only a GPU can show.


@pytest.fixture
def own_algorithms():
    """PyTorch's as in a training run: those that poisoned_memory asks for may wait for the GPU."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True, warn_only=True)


@on_gpu
@pytest.mark.usefixtures("own_algorithms")
def test_a_cuda_graph_replays_with_another_routing():
    leaves = layer_leaves(T=100, E=8, D=64, F_=48, dtype=torch.float16)
    outcomes(layer, leaves)  # compiles
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            outcomes(layer, leaves)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = outcomes(layer, leaves)
    for seed in (1, 2):
        with torch.no_grad():
            for leaf, other in zip(
                leaves,
                layer_leaves(T=100, E=8, D=64, F_=48, dtype=torch.float16, seed=seed),
                strict=True,
            ):
                leaf.copy_(other)
            leaves[1][:, :1] += 100.0 * (seed == 2)  # all first choices to one expert
        graph.replay()
        for got, want in zip(captured, outcomes(layer, leaves), strict=True):
            assert torch.equal(got, want)


@on_gpu
@pytest.mark.usefixtures("own_algorithms")
def test_nothing_waits_for_the_gpu():
    leaves = layer_leaves()
    outcomes(layer, leaves)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcomes(layer, leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


LARGE = {  # T = N, D, F, E
    "rows": (2**19 + 1000, 16, 2048, 4),  # N * 2F
    "tokens": (2**17 + 1000, 16400, 16, 4),  # T * D
    "weights": (64, 4096, 2048, 132),  # E * 2F * D
}


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("which", LARGE)
def test_offsets_beyond_2_to_the_31_elements(which):
    """The last tokens go to the last expert: their rows, or its weights, lie behind 2^31."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GB of free GPU memory")
    T, D, F_, E = LARGE[which]
    assert max(T * 2 * F_, T * D, (E - 1) * 2 * F_ * D) > 2**31
    draw, last = torch.Generator(DEVICE).manual_seed(0), 7

    def normal(*shape, fan_in=1):
        values = torch.empty(*shape, device=DEVICE, dtype=torch.bfloat16)
        return values.normal_(0, fan_in**-0.5, generator=draw).requires_grad_()

    x, w13, w2 = normal(T, D), normal(E, 2 * F_, D, fan_in=D), normal(E, D, F_, fan_in=F_)
    expert = torch.arange(T, device=DEVICE) % (E - 1)
    expert[-last:] = E - 1
    weight = torch.rand(T, 1, device=DEVICE, generator=draw).requires_grad_()
    y = by_kernels(x, Plan.from_topk(expert[:, None], weight, num_experts=E), w13, w2)
    grad = normal(T, D).detach()
    y.backward(grad)

    tail = [v.detach()[-last:].double().cpu() for v in (x, weight)]
    bank = [v.detach()[-1:].double().cpu() for v in (w13, w2)]
    x64, weight64, w13_64, w2_64 = leaves64 = [v.requires_grad_() for v in (*tail, *bank)]
    alone = torch.zeros(last, dtype=torch.int64)
    want = by_rows(x64, torch.arange(last), alone, weight64[:, 0], w13_64, w2_64)
    want.backward(grad[-last:].double().cpu())
    parts = (x.grad[-last:], weight.grad[-last:], w13.grad[-1:], w2.grad[-1:])
    assert relative(y[-last:], want) < DTYPES[torch.bfloat16]
    for name, got, leaf in zip(LEAVES, parts, leaves64, strict=True):
        assert relative(got, leaf.grad) < DTYPES[torch.bfloat16], name
