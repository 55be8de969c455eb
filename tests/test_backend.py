"""Who runs the experts: the choice, the refusals and the fallbacks, and the Triton path end to end.

On a CPU the kernels run in Triton's interpreter (tests/conftest.py asks for it).
"""

import subprocess
import sys
import warnings

import pytest
import torch

from helpers.numerics import relative
from moeviz import backend
from moeviz.model.experts import apply_experts
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.routing import Plan, RouteContext, SoftPlan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensors(T=12, D=16, F=8, E=4, dtype=torch.float32, device=DEVICE):
    g = torch.Generator().manual_seed(0)
    shapes = ((T, D), (E, 2 * F, D), (E, D, F))
    return [torch.randn(shape, generator=g).to(device, dtype) for shape in shapes]


@pytest.fixture
def said(monkeypatch):
    """Every sentence may be said once more."""
    backend.say_once.cache_clear()
    yield
    backend.say_once.cache_clear()


class OnGpu:
    """A tensor as a GPU would show it, for the choices that no kernel is launched for."""

    def __init__(self, dtype=torch.float16, shape=(4, 16)):
        self.dtype, self.shape, self.is_cuda = dtype, shape, True
        self.device = torch.device("cuda")

    def element_size(self):
        return torch.empty(0, dtype=self.dtype).element_size()

    def is_contiguous(self):
        return True

    def numel(self):
        return 128

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, _):
        return self


def on_gpu(monkeypatch, capability, dtype=torch.float16):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(backend.kernels().support, "interpreted", lambda: False)
    return OnGpu(dtype), OnGpu(dtype, (4, 16, 16)), OnGpu(dtype, (4, 16, 8))


# The choice.


def test_a_cpu_runs_grouped_and_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.resolve_backend("auto", *tensors(device="cpu")) == "grouped"
        odd = tensors(D=7, F=5, device="cpu")
        assert backend.resolve_backend("auto", *odd) == "reference"


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gpu_from_8_0_on_runs_triton(monkeypatch, capability, dtype):
    assert backend.resolve_backend("auto", *on_gpu(monkeypatch, capability, dtype)) == "triton"


def test_an_older_gpu_runs_matmul_and_says_why_once(monkeypatch, said):
    case = on_gpu(monkeypatch, (7, 5))
    with pytest.warns(UserWarning, match="tensor cores from compute capability 8.0") as caught:
        assert backend.resolve_backend("auto", *case) == "matmul"
    (warning,) = caught
    assert str(warning.message).endswith("has 7.5. Expert FFNs run on the matmul backend.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.resolve_backend("auto", *case) == "matmul"
    with pytest.raises(ValueError, match="this GPU has 7.5. Use backend='auto'"):
        backend.resolve_backend("triton", *case)


def test_more_experts_than_a_program_holds_are_sorted_by_pytorch(monkeypatch):
    x_TD, *_ = on_gpu(monkeypatch, (9, 0))
    most = backend.kernels().MAX_EXPERTS
    assert backend.kernels_for(x_TD, num_experts=most) is backend.kernels()
    assert backend.kernels_for(x_TD, num_experts=most + 1) is None


def test_without_triton_a_gpu_runs_grouped_and_says_why(monkeypatch, said):
    case = on_gpu(monkeypatch, (9, 0))
    monkeypatch.setattr(backend, "_loaded", "The Triton kernels do not import (gone).")
    with pytest.warns(UserWarning, match="do not import .gone.. Expert FFNs run on the grouped"):
        assert backend.resolve_backend("auto", *case) == "grouped"
    assert backend.kernels_for(case[0]) is None
    with pytest.raises(ValueError, match="do not import"):
        backend.resolve_backend("triton", *case)
    with pytest.raises(ValueError, match="do not import"):
        backend.kernels()


def test_a_missing_triton_is_one_sentence():
    code = """
import sys
sys.modules["triton"] = None
import torch
from moeviz import backend
try:
    backend.kernels()
except ValueError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.stdout.startswith("The Triton kernels do not import (")
    assert "pip install triton" in run.stdout and run.stderr == ""


def test_training_a_model_on_a_cpu_never_imports_triton():
    code = """
import sys
import torch
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.routing import RouteContext
y, route = MoEFFN(16, MoEConfig(4, 2, 8))(torch.randn(6, 16), RouteContext())
y.sum().backward()
assert "triton" not in sys.modules and "moeviz_kernels" not in sys.modules
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_the_interpreter_asked_for_too_late_is_one_sentence(monkeypatch):
    code = """
import os
os.environ.pop("TRITON_INTERPRET", None)
import triton.language
import torch
torch.cuda.is_available = lambda: False
from moeviz import backend
try:
    backend.kernels_anywhere()
except ValueError as error:
    print(error)
x = torch.randn(4, 16)
from moeviz.model.experts import apply_experts
from moeviz.routing import Plan
plan = Plan.from_topk(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1), num_experts=2)
try:
    apply_experts(x, plan, torch.randn(2, 16, 16), torch.randn(2, 16, 8), backend="triton")
except ValueError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    late, refused = run.stdout.splitlines()
    assert late.startswith("Triton was imported before its interpreter was asked for: restart")
    assert refused.startswith("Triton kernels run on an NVIDIA GPU; on a CPU they need")


# Refusals, each in one sentence.


@pytest.mark.parametrize(
    "change,sentence",
    [
        (dict(dtype=torch.float64), "take float32, float16 and bfloat16, not torch.float64"),
        (dict(w13=lambda w: w.transpose(1, 2)), "w13_E2FD must be contiguous"),
        (dict(w2=lambda w: w[:, :, ::2]), "w2_EDF must be contiguous"),
    ],
)
def test_what_the_kernels_cannot_take_is_refused(change, sentence):
    x, w13, w2 = tensors(dtype=change.get("dtype", torch.float32), D=16, F=8)
    if "w13" in change:
        w13 = change["w13"](torch.randn(4, 16, 16, device=DEVICE))
    if "w2" in change:
        w2 = change["w2"](torch.randn(4, 16, 16, device=DEVICE))
    plan = Plan.from_topk(torch.zeros(12, 1, dtype=torch.int64), torch.ones(12, 1), num_experts=4)
    plan = to(plan, DEVICE)
    with pytest.raises(ValueError, match=sentence):
        apply_experts(x, plan, w13, w2, backend="triton")


def to(plan, device):
    return type(plan)(*(getattr(plan, name).to(device) for name in plan.__dataclass_fields__))


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU computes bfloat16")
def test_the_interpreter_refuses_bfloat16():
    x, w13, w2 = tensors(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="interpreter computes bfloat16 wrongly"):
        backend.resolve_backend("triton", x, w13, w2)


def test_a_kernel_that_does_not_fit_the_gpu_falls_back_and_says_so(monkeypatch, said):
    x, w13, w2 = tensors()
    plan = to(
        Plan.from_topk(torch.arange(24).view(12, 2) % 4, torch.rand(12, 2), num_experts=4), DEVICE
    )
    want = apply_experts(x, plan, w13, w2, backend="reference")
    kernels = backend.kernels()

    def too_large(*_, **__):
        raise kernels.LaunchError[0](300_000, 101_376, "shared memory")

    monkeypatch.setattr(kernels, "experts", too_large)
    with pytest.raises(ValueError, match="does not fit this GPU .*shared memory"):
        apply_experts(x, plan, w13, w2, backend="triton")
    monkeypatch.setattr("moeviz.model.experts.resolve_backend", lambda *_: "triton")
    with pytest.warns(UserWarning, match="run on the matmul backend"):
        got = apply_experts(x, plan, w13, w2)
    assert relative(got, want) < 1e-5


@pytest.mark.parametrize("name", ["triton", "grouped"])
def test_a_full_gpu_is_one_sentence_with_the_sizes(monkeypatch, name):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(f"moeviz.model.experts.{name}_experts", full)
    x, w13, w2 = tensors()
    plan = to(Plan.from_topk(torch.zeros(12, 1).long(), torch.ones(12, 1), num_experts=4), DEVICE)
    with pytest.raises(torch.OutOfMemoryError, match="12 rows .12 tokens, d_model 16, d_expert 8"):
        apply_experts(x, plan, w13, w2, backend=name)


def test_a_soft_plan_needs_no_kernels():
    x, w13, w2 = tensors(T=6, E=3)
    logits = torch.randn(6, 3, 2, device=DEVICE)
    plan = SoftPlan(logits.softmax(0)[None], logits.flatten(1).softmax(1).view(1, 6, 3, 2))
    same = apply_experts(x, plan, w13, w2)
    assert torch.equal(apply_experts(x, plan, w13, w2, backend="triton"), same)


# The Triton path (every router on it: test_kernels_routers.py).


@pytest.mark.parametrize("name", ["matmul", "grouped"])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.float16, 5e-3)])
def test_other_matrix_products_between_the_kernels_of_gather_and_combine(
    name, dtype, tolerance, triton_everywhere
):
    """The path of GPUs that are too old for the kernels, and of sizes that do not suit them."""
    g = torch.Generator().manual_seed(4)
    expert_TK = torch.rand(20, 4, generator=g).topk(2).indices.to(DEVICE)
    leaves = [
        torch.randn(size, generator=g).mul(size[-1] ** -0.5).to(DEVICE, dtype).requires_grad_()
        for size in ((20, 16), (20, 2), (4, 16, 16), (4, 16, 8))
    ]
    results = {}
    for chosen in ("reference", name):
        plan = Plan.from_topk(expert_TK, leaves[1].float(), num_experts=4)
        y_TD = apply_experts(leaves[0], plan, *leaves[2:], backend=chosen)
        results[chosen] = y_TD.detach(), *torch.autograd.grad(y_TD.float().square().sum(), leaves)
    assert torch.Size([40, 16]) in triton_everywhere  # the rows that are added up
    for got, want in zip(results[name], results["reference"], strict=True):
        assert relative(got, want) < tolerance


def test_the_plan_by_counting_sort_is_the_plan_by_argsort(triton_everywhere, monkeypatch):
    g = torch.Generator().manual_seed(2)
    expert_TK = torch.rand(50, 6, generator=g).topk(3).indices.to(DEVICE)
    weight_TK = torch.rand(50, 3, generator=g).to(DEVICE)
    by_kernel = Plan.from_topk(expert_TK, weight_TK, num_experts=6)
    assert triton_everywhere
    monkeypatch.setattr("moeviz.ops.kernels_for", lambda *args, **sizes: None)
    plain = Plan.from_topk(expert_TK, weight_TK, num_experts=6)
    for name in Plan.__dataclass_fields__:
        ours, theirs = getattr(by_kernel, name), getattr(plain, name)
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name


def test_a_layer_on_the_kernels_is_one_graph_of_torch_compile(triton_everywhere):
    x_TD = torch.randn(24, 16, device=DEVICE)
    torch.manual_seed(0)
    layer = MoEFFN(16, MoEConfig(4, 2, 8, backend="triton")).to(DEVICE)

    def step(x_TD):
        y_TD, route = layer(x_TD, RouteContext(training=True))
        return y_TD, route.losses["balance"]

    y_TD, balance = step(x_TD)
    (y_TD.square().sum() + balance).backward()
    want = {name: value.grad.clone() for name, value in layer.named_parameters()}
    layer.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    y_compiled, balance = compiled(x_TD)
    (y_compiled.square().sum() + balance).backward()
    assert relative(y_compiled.detach(), y_TD.detach()) < 1e-6
    for name, value in layer.named_parameters():
        assert relative(value.grad, want[name]) < 1e-5, name
