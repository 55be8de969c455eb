"""What the experts on Triton kernels promise beyond the results that test_experts.py asks of every
backend: each height of a tile, views, precision, memory, repeatability, compilation."""

import dataclasses
import importlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

from helpers.kernels import (
    DEVICE,
    LEAVES,
    TOLERANCES,
    Case,
    by_rows,
    every_dtype,
    make,
    normal,
    with_dtypes,
)
from helpers.numerics import relative
from moeviz.model.experts import apply_experts
from moeviz.routing import Plan
from moeviz.routing.token_choice import TokenChoice
from moeviz_kernels import LaunchError, configs, experts, softmax_topk, sort_topk
from moeviz_kernels.tiles import room_for_tiles

# `moeviz_kernels.experts` is the function.
module = importlib.import_module("moeviz_kernels.experts")

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*deterministic"),
]

on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")

# T, E, K that lead to each height of a tile, and widths that blocks divide and do not.
HEIGHTS = {16: (7, 3, 2), 32: (21, 3, 3), 64: (60, 2, 2), 128: (194, 2, 1)}
EVEN, ODD, LEAST = (64, 128), (130, 33), (1, 1)


@with_dtypes(
    ("height", "widths"),
    [(height, widths) for height in HEIGHTS for widths in (EVEN, ODD, LEAST)],
    quick=lambda height, widths, dtype: (
        widths == (ODD if dtype == torch.float32 else EVEN) or (height, widths) == (16, LEAST)
    ),
)
def test_every_height_of_a_tile_with_even_and_odd_widths(height, widths, dtype):
    T, E, K = HEIGHTS[height]
    assert configs.tile_height(T * K / E) == height
    make("zipf", T, E, K, *widths, dtype).check(dtype)


@pytest.mark.parametrize(
    ("width", "block_n"),
    [(96, 128), (128, 128), (192, 256), (256, 256), (384, 128), (704, 256), (2048, 256)],
)
def test_a_narrow_cut_is_taken_where_it_spares_more_padding_than_it_costs(
    width, block_n, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    like = SimpleNamespace(is_cuda=True, device="cuda", dtype=torch.bfloat16)
    monkeypatch.setattr(configs, "TUNED", configs.Tuned({}, {}))
    for role in ("down", "dx"):
        assert configs.choose(role, like, 1000, width, 64).block_n == block_n


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


@on_gpu
def test_float32_rounds_to_tf32_where_torch_may():
    """The interpreter knows one float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        case = make("zipf", 21, 3, 2, 130, 33)
        y = case.run(case.leaves(torch.float32))
    finally:
        torch.set_float32_matmul_precision(before)
    # Triton leaves the rounding to the tensor cores, which cut the 13 low bits off.
    assert 1e-5 < relative(y, case.exact()[0]) < 1e-2


def test_frozen_experts_cost_no_gradient(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a gradient that nobody wants")

    case = make("zipf", 9, 4, 2, 16, 8)
    for frozen, kernel in ((("w13", "w2"), "grad_weight"), (("x",), "grouped_gemm")):
        leaves = case.leaves(torch.float32, [name for name in LEAVES if name not in frozen])
        y = case.run(leaves)
        with monkeypatch.context() as patch:
            patch.setattr(module, kernel, refuse)
            y.backward(case.grad.to(y))
        for name, leaf in zip(LEAVES, leaves, strict=True):
            assert (leaf.grad is None) == (name in frozen), name


class NoGradient(torch.autograd.Function):
    """Hands y on, and no gradient back."""

    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_where_no_gradient_comes_back_there_is_none_of_what_went_in():
    leaves = make("uniform", 5, 2, 1, 16, 8).leaves(torch.float32)
    y = make("uniform", 5, 2, 1, 16, 8).run(leaves)
    (NoGradient.apply(y).sum() + 0 * leaves[0].sum()).backward()
    assert leaves[0].grad is not None and all(leaf.grad is None for leaf in leaves[1:])


class Fills(TorchDispatchMode):
    """The sizes of all tensors that were filled with zeros."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "zero" in func.name():
            self.sizes.append(result.numel())
        return result


def test_the_backward_pass_fills_nothing_as_large_as_z():
    case = make("uniform", 40, 4, 2, 16, 24)
    leaves = case.leaves(torch.float32)
    y, size_of_z = case.run(leaves), 40 * 2 * 2 * 24
    with Fills() as fills:
        y.backward(case.grad.to(y))
    assert max(fills.sizes, default=0) < size_of_z


@pytest.mark.parametrize("how", ["strided", "expanded"])
def test_all_that_comes_in_may_be_views(how):
    """Expanded, where all values are one: a single expert, one row per token; and the gradient of a
    sum, which has no memory of its own."""
    E = 1 if how == "expanded" else 3
    case = make("uniform", 9, E, E, 20, 33)
    case = dataclasses.replace(case, weight=case.weight[:1].expand(len(case.weight)))

    def view(v):
        if how == "expanded" and (v == v[0]).all():
            return v[:1].expand(len(v))
        return v.repeat_interleave(2)[::2]

    x, weight, w13, w2 = case.leaves(torch.float32)
    plan = case.plan(weight)
    fields = ("token", "weight", "offsets", "inverse", "token_offsets")
    viewed = dataclasses.replace(plan, **{name: view(getattr(plan, name)) for name in fields})
    turned = x.detach().T.contiguous().T.requires_grad_()
    assert not (viewed.weight.is_contiguous() or turned.is_contiguous())
    grad = case.grad.to(x)
    grad_view = grad.T.contiguous().T
    if how == "expanded":
        grad, grad_view = torch.ones_like(grad), torch.ones((), device=DEVICE).expand_as(grad)
    # The gradient of an expanded weight is a sum.
    others = (w13, w2) if how == "expanded" else (w13, w2, weight)
    want = [apply_experts(x, plan, w13, w2, backend="triton")]
    want += torch.autograd.grad(want[0], (x, *others), grad, retain_graph=True)
    got = [apply_experts(turned, viewed, w13, w2, backend="triton")]
    got += torch.autograd.grad(got[0], (turned, *others), grad_view)
    for ours, theirs in zip(got, want, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_weight_may_have_any_dtype_and_gets_its_gradient_in_it(dtype):
    case = make("uniform", 7, 3, 2, 20, 5)
    rounded = case.weight.to(dtype)
    leaves = dataclasses.replace(case, weight=rounded.double()).leaves(torch.float32)
    want = case.outcome(leaves)
    leaves[1] = rounded.to(DEVICE).requires_grad_()
    got = case.outcome(leaves)
    assert got[2].dtype == dtype
    assert torch.equal(got[2], want[2].to(dtype))


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
    case = make("uniform", T=5, E=3, K=2, D=8, F_=4)
    y = case.run(case.leaves(torch.float32))

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(module, "grad_hidden", refuse)
    with pytest.raises(RuntimeError, match=sentence):
        y.sum().backward()


# What is kept for the backward pass.


def saved_by(call):
    """What autograd keeps for the backward pass of a call."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        call()
    return kept


@every_dtype
def test_only_x_z_the_weights_the_plan_and_its_tiles_are_kept_for_the_backward_pass(dtype):
    case = make("zipf", 9, 4, 2, 20, 12, dtype)
    x, weight, w13, w2 = case.leaves(dtype)
    plan = case.plan(weight)
    kept = saved_by(lambda: apply_experts(x, plan, w13, w2, backend="triton"))
    given = [x, plan.weight, w13, w2, plan.token, plan.offsets, plan.inverse, plan.token_offsets]
    new = [v for v in kept if v.data_ptr() not in {g.data_ptr() for g in given}]
    num_rows = len(case.token)
    tiles = ((room_for_tiles(num_rows, 4),), torch.int32)
    assert [(v.shape, v.dtype) for v in new] == [((num_rows, 2 * 12), dtype), tiles, tiles]
    assert sum(v.nbytes for v in kept) == sum(v.nbytes for v in (*given, *new))


@pytest.mark.parametrize("why", ["no_grad", "inference_mode", "no leaf wants one"])
def test_without_a_gradient_nothing_is_kept_and_z_is_never_written(why, monkeypatch):
    asked = []

    def spy(*args, save):
        h_NF, z_N2F = up_swiglu(*args, save=save)
        asked.append((save, z_N2F.numel()))
        return h_NF, z_N2F

    up_swiglu = module.up_swiglu
    monkeypatch.setattr(module, "up_swiglu", spy)
    case = make("zipf", 9, 3, 2, 20, 12)
    want = case.run(case.leaves(torch.float32))
    leaves = case.leaves(torch.float32, () if why == "no leaf wants one" else LEAVES)
    got = []
    off = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
    with off.get(why, torch.enable_grad)():
        kept = saved_by(lambda: got.append(case.run(leaves)))
    assert kept == [] and not got[0].requires_grad and torch.equal(got[0], want)
    assert asked == [(True, len(case.token) * 24), (False, 0)]


# What a launch costs the host is the whole time of a small layer.


class Counting(TorchDispatchMode):
    """Names of what PyTorch itself would launch: neither views nor empty arrays."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        a_view = any(r.alias_info is not None for r in func._schema.returns)
        if func.namespace == "aten" and not a_view and "empty" not in name:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter tells the same launches")
def test_a_layer_launches_each_kernel_once_and_little_else(triton_everywhere, monkeypatch):
    launched = []
    run = GridExecutor.__call__

    def spy(grid, *args, **kwargs):
        launched.append(grid.fn.__name__.removesuffix("_kernel"))
        return run(grid, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", spy)
    x_TD, logits_TE, w13, w2 = layer_leaves()
    router = TokenChoice(d_model=6, num_experts=3, top_k=2)
    with Counting() as torch_own:
        _, weight_TK, expert_TK = router.choose(logits_TE)
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=3)
        y_TD = apply_experts(x_TD, plan, w13, w2, backend="triton")
        forward = "topk histogram scan scatter tile_map up gemm gather_sum".split()
        assert launched == forward
        torch.autograd.grad(y_TD, (x_TD, logits_TE, w13, w2), x_TD.detach())
    backward = "grad_hidden grad_weight grad_weight gemm gather_sum softmax_topk_backward".split()
    assert launched == forward + backward
    # The weights in the order of the rows, and back. (On a CPU the plan's values are looked at.)
    looking = {"aminmax", "_local_scalar_dense"}
    own = [name for name in torch_own.names if name not in looking]
    assert own == ["index_select", "new_zeros", "index_add"]


# PyTorch's compiler (a whole layer: test_experts.py).

OPERATORS = (
    "experts_forward experts_backward sort_by_expert sort_topk topk softmax_topk "
    "softmax_topk_backward"
).split()


def op_calls():
    """Arguments of each custom operator, as the functions around them pass them on."""
    case = make("zipf", 5, 3, 2, 8, 4)
    x, weight, w13, w2 = case.leaves(torch.float32)
    plan = case.plan(weight.detach())
    rows = (plan.token, plan.offsets, plan.inverse, plan.token_offsets)
    weight = plan.weight.clone().requires_grad_()
    forward = (x, weight, w13, w2, *rows)
    y, *kept = (v.detach() for v in torch.ops.moeviz.experts_forward(*forward, True))
    plain = [v.detach() for v in forward]
    backward = (torch.ones_like(y), *kept, *plain)
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    chosen = torch.ops.moeviz.softmax_topk(scores, 2, True)
    grads = chosen[:2], (None, chosen[1]), (chosen[0], None)
    expert = torch.tensor([2, 0, 1, 2], device=DEVICE, dtype=torch.int32)
    return {
        "experts_forward": [(*forward, True), (*plain, False), (*plain, True)],
        "experts_backward": [(*backward, *needed) for needed in ((True,) * 3, (False,) * 3)],
        "topk": [(scores, 2)],
        "softmax_topk": [(scores, 2, True), (scores.clone().requires_grad_(), 2, False)],
        "softmax_topk_backward": [(*chosen, *given, True) for given in grads],
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


# The whole way by kernels alone, and what only a GPU can show.


def layer(x_TD, logits_TE, w13, w2, k=2):
    """Softmax and top-K, sort, experts."""
    scores_TE, weight_TK, expert_TK = softmax_topk(logits_TE, k)
    order, rank, _, _, offsets, token, _, token_offsets = sort_topk(expert_TK, len(w2))
    weight = weight_TK.reshape(-1).index_select(0, order)
    y = experts(
        x_TD, w13, w2, token=token, weight=weight, offsets=offsets, inverse=rank,
        token_offsets=token_offsets,
    )  # fmt: skip
    return y, scores_TE


def layer_leaves(T=9, E=3, D=6, F_=5, dtype=torch.float32, seed=0):
    x, _, w13, w2 = make("uniform", T, E, 1, D, F_, dtype, seed).leaves(dtype)
    return x, normal(T, E, seed=seed).requires_grad_(), w13, w2


def outcomes(run, leaves):
    y, scores = run(*leaves)
    return y, scores, *torch.autograd.grad(y.float().square().sum() + scores[:, 0].sum(), leaves)


def test_the_whole_layer_of_kernels_is_that_of_torch():
    leaves = layer_leaves()

    def by_torch(x, logits, w13, w2):
        scores = logits.softmax(1)
        weight, expert = (v.flatten() for v in scores.topk(2))
        token = torch.arange(len(x)).repeat_interleave(2)
        return by_rows(x, weight, w13, w2, token=token, expert=expert), scores

    want = outcomes(by_torch, [v.detach().double().cpu().requires_grad_() for v in leaves])
    for ours, theirs in zip(outcomes(layer, leaves), want, strict=True):
        assert relative(ours, theirs) < 3e-6


@pytest.fixture
def own_algorithms():
    """PyTorch's as in a training run: those that poisoned_memory asks for may wait for the GPU."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True, warn_only=True)


@on_gpu
@pytest.mark.usefixtures("own_algorithms")
def test_a_cuda_graph_replays_with_another_routing():
    sizes = dict(T=100, E=8, D=64, F_=48, dtype=torch.float16)
    leaves = layer_leaves(**sizes)
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
            for leaf, other in zip(leaves, layer_leaves(**sizes, seed=seed), strict=True):
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
    plan = Plan.from_topk(expert[:, None], weight, num_experts=E)
    y = apply_experts(x, plan, w13, w2, backend="triton")
    grad = normal(T, D).detach()
    y.backward(grad)
    tail = (x[-last:], weight[-last:, 0], w13[-1:], w2[-1:], grad[-last:])
    *tail, grad_tail = (v.detach().double().cpu() for v in tail)
    alone = Case(*tail, torch.arange(last), torch.zeros(last, dtype=torch.int64), grad_tail)
    got = (y[-last:], x.grad[-last:], weight.grad[-last:, 0], w13.grad[-1:], w2.grad[-1:])
    for name, ours, theirs in zip(("y", *LEAVES), got, alone.exact(), strict=True):
        assert relative(ours, theirs) < TOLERANCES[torch.bfloat16], name
