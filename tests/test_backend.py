"""Who runs the experts: the choice, the refusals and the fallbacks, and the Triton path end to end.

On a CPU the kernels run in Triton's interpreter (tests/conftest.py asks for it).
"""

import subprocess
import sys
import warnings

import pytest
import torch

from helpers.kernels import DEVICE, make
from helpers.numerics import relative
from moeviz import backend
from moeviz.model.experts import apply_experts
from moeviz.routing import Plan


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


def run(code):
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_training_on_a_cpu_needs_no_triton_and_a_missing_one_is_one_sentence():
    code = """
import sys
import torch
from moeviz import backend
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.routing import RouteContext
y, route = MoEFFN(16, MoEConfig(4, 2, 8))(torch.randn(6, 16), RouteContext())
y.sum().backward()
assert "triton" not in sys.modules and "moeviz_kernels" not in sys.modules
sys.modules["triton"] = None
try:
    backend.kernels()
except ValueError as error:
    print(error)
"""
    (sentence,) = run(code)
    assert sentence.startswith("The Triton kernels do not import (")
    assert "pip install triton" in sentence


def test_the_interpreter_asked_for_too_late_is_one_sentence():
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
    late, refused = run(code)
    assert late.startswith("Triton was imported before its interpreter was asked for: restart")
    assert refused.startswith("Triton kernels run on an NVIDIA GPU; on a CPU they need")


# Refusals, each in one sentence, and fallbacks.


@pytest.mark.parametrize(
    ("change", "turned", "sentence"),
    [
        (dict(), 0, "w13_E2FD must be contiguous"),
        (dict(), 1, "w2_EDF must be contiguous"),
        (dict(dtype=torch.float64), None, "float32, float16 and bfloat16, not torch.float64"),
        (dict(E=0), None, "at least one unit, got 0 experts, d_model 16, d_expert 8."),
        (dict(D=0), None, "at least one unit, got 4 experts, d_model 0, d_expert 8."),
        (dict(F=0), None, "at least one unit, got 4 experts, d_model 16, d_expert 0."),
        (dict(E=4097, D=1, F=1), None, "up to 4096 experts, got 4097"),
        pytest.param(
            dict(dtype=torch.bfloat16),
            None,
            "interpreter computes bfloat16 wrongly",
            marks=pytest.mark.skipif(DEVICE == "cuda", reason="a GPU computes bfloat16"),
        ),
    ],
)
def test_what_the_kernels_cannot_take_is_refused(change, turned, sentence):
    x_TD, *weights = tensors(**change)
    if turned is not None:
        weights[turned] = weights[turned].mT.contiguous().mT
    with pytest.raises(ValueError, match=sentence):
        backend.resolve_backend("triton", x_TD, *weights)


@pytest.mark.parametrize(
    ("change", "gaps", "sentence"),
    [
        (dict(D=7), 1, "d_model to be a multiple of 4, got 7"),
        (dict(F=5), 1, "d_expert to be a multiple of 4, got 5"),
        (dict(dtype=torch.float64), 1, "float32, bfloat16 and float16, not torch.float64"),
        (dict(), 2, "w13_E2FD contiguous"),
    ],
)
def test_what_grouped_cannot_take_is_refused_and_run_by_the_reference(change, gaps, sentence):
    x_TD, w13, w2 = tensors(device="cpu", **change)
    w13 = w13.repeat_interleave(gaps, -1)[..., ::gaps]
    with pytest.raises(ValueError, match=sentence):
        backend.resolve_backend("grouped", x_TD, w13, w2)
    assert backend.resolve_backend("auto", x_TD, w13, w2) == "reference"


def test_a_kernel_that_does_not_fit_the_gpu_falls_back_and_says_so(monkeypatch, said):
    x, w13, w2 = tensors()
    expert_TK = torch.arange(24, device=DEVICE).view(12, 2) % 4
    plan = Plan.from_topk(expert_TK, torch.rand(12, 2, device=DEVICE), num_experts=4)
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
    weight_TK = torch.ones(12, 1, device=DEVICE)
    plan = Plan.from_topk(torch.zeros_like(weight_TK).long(), weight_TK, num_experts=4)
    with pytest.raises(torch.OutOfMemoryError, match="12 rows .12 tokens, d_model 16, d_expert 8"):
        apply_experts(x, plan, w13, w2, backend=name)


@pytest.mark.parametrize("name", ["matmul", "grouped"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3)])
def test_other_matrix_products_between_the_kernels_of_gather_and_combine(
    name, dtype, tolerance, triton_everywhere
):
    """The path of GPUs that are too old for the kernels, and of sizes that do not suit them."""
    case = make("any number", 9, 4, 2, 16, 8, dtype)
    case.check(dtype, name, device=DEVICE, tolerance=tolerance)
    assert torch.Size([len(case.token), 16]) in triton_everywhere  # the rows that are added up
