"""What the tests of experts and kernels share: where they run and in which dtypes, plans of every
kind of routing, a float64 definition of what experts compute, and a backend held against it."""

from dataclasses import dataclass
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.numerics import relative
from moeviz.model.experts import apply_experts
from moeviz.routing import Plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# How far a result may be from float64, relative to its norm.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
# Those of the kernels: Triton's interpreter computes bfloat16 wrongly.
DTYPES = tuple(dtype for dtype in TOLERANCES if DEVICE == "cuda" or dtype != torch.bfloat16)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])

BACKENDS = ("reference", "grouped", "matmul", *["triton"] * (find_spec("triton") is not None))
every_backend = pytest.mark.parametrize("backend", BACKENDS)

ROUTINGS = ("uniform", "zipf", "all to one", "empty experts", "drops", "any number", "none")
LEAVES = ("x", "weight", "w13", "w2")


def with_dtypes(names, cases, quick):
    """Each case in each dtype; slow where `quick` says no to it."""
    return pytest.mark.parametrize(
        (*names, "dtype"),
        [
            pytest.param(
                *case,
                dtype,
                id="-".join([*map(str, case), str(dtype)[6:]]),
                marks=() if quick(*case, dtype=dtype) else pytest.mark.slow,
            )
            for case in cases
            for dtype in DTYPES
        ],
    )


def normal(*shape, seed=0, dtype=torch.float32):
    """The same values on every device, rounded to the dtype."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).to(DEVICE, dtype)


def device_of(backend):
    """The kernels run on a GPU where there is one; the other backends are tested on the CPU."""
    return DEVICE if backend == "triton" else "cpu"


def by_rows(x, weight, w13, w2, *, token, expert):
    """Row by row: the definition. It knows nothing of plans."""
    gate, up = torch.einsum("nfd,nd->nf", w13[expert], x[token]).chunk(2, dim=1)
    y_ND = torch.einsum("ndf,nf->nd", w2[expert], F.silu(gate) * up)
    return torch.zeros_like(x).index_add(0, token, weight[:, None] * y_ND)


@dataclass(frozen=True)
class Case:
    """What goes in, in float64 but already rounded; token, expert and weight in no order."""

    x: Tensor  # [T, D]
    weight: Tensor  # [N]
    w13: Tensor  # [E, 2F, D]
    w2: Tensor  # [E, D, F]
    token: Tensor  # [N]
    expert: Tensor  # [N]
    grad: Tensor  # [T, D]

    def leaves(self, dtype, wanted=LEAVES, device=DEVICE) -> list[Tensor]:
        """x, weight, w13, w2; the weight in float32."""
        return [
            getattr(self, name)
            .to(device, torch.float32 if name == "weight" else dtype)
            .requires_grad_(name in wanted)
            for name in LEAVES
        ]

    def plan(self, weight) -> Plan:
        token, expert = (v.to(weight.device) for v in (self.token, self.expert))
        sizes = dict(num_tokens=len(self.x), num_experts=len(self.w2))
        return Plan.from_rows(token, expert, weight, **sizes)

    def run(self, leaves, backend="triton") -> Tensor:
        x, weight, w13, w2 = leaves
        return apply_experts(x, self.plan(weight), w13, w2, backend=backend)

    def outcome(self, leaves, backend="triton") -> list[Tensor]:
        """The output, and the gradient of each leaf that wants one."""
        y = self.run(leaves, backend)
        wanting = [leaf for leaf in leaves if leaf.requires_grad]
        return [y, *torch.autograd.grad(y, wanting, self.grad.to(y))]

    def exact(self, wanted=LEAVES) -> list[Tensor]:
        """The same by definition, in float64."""
        leaves = {name: getattr(self, name).clone().requires_grad_() for name in LEAVES}
        y = by_rows(**leaves, token=self.token, expert=self.expert)
        return [y, *torch.autograd.grad(y, [leaves[name] for name in wanted], self.grad)]

    def check(self, dtype, backend="triton", wanted=LEAVES, device=None, tolerance=None) -> None:
        """The backend's outcome is that of the definition."""
        leaves = self.leaves(dtype, wanted, device or device_of(backend))
        got = self.outcome(leaves, backend)
        assert got[0].dtype == dtype
        for name, ours, theirs in zip(("y", *wanted), got, self.exact(wanted), strict=True):
            assert relative(ours, theirs) < (tolerance or TOLERANCES[dtype]), name


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


def make(routing, T, E, K, D, F_, dtype=torch.float32, seed=0) -> Case:
    """Values of unit size, so that no error hides behind a small one, and no sum that cancels to
    nothing: the weights are positive, for two rows may be alike; the gradient leans towards y, for
    <dO, Y> of one row is one number."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape, fan_in=1, dtype=dtype):
        values = torch.randn(*shape, generator=draw, dtype=torch.float64) / fan_in**0.5
        return values.to(dtype).double()

    token, expert = assignments(routing, T, E, K, draw)
    weight = normal(len(token), dtype=torch.float32).abs()
    x, w13, w2 = normal(T, D), normal(E, 2 * F_, D, fan_in=D), normal(E, D, F_, fan_in=F_)
    y = by_rows(x, weight, w13, w2, token=token, expert=expert)
    y = y / y.square().mean().sqrt().clamp(min=1e-30)
    grad = (y + 0.5 * normal(T, D)).to(dtype).double()
    return Case(x, weight, w13, w2, token, expert, grad)
