"""A router's steps are methods, and one that a user replaces counts on every device: as on a GPU
(the kernels, here in Triton's interpreter) so on a CPU."""

import re
from pathlib import Path

import pytest
import torch

from helpers.numerics import relative
from moeviz.model import MoEConfig, MoEFFN
from moeviz.routing import ROUTERS, RouteContext, build_router
from moeviz.routing.base import overridden
from moeviz.routing.token_choice import TokenChoice

T, D, E, K = 11, 16, 6, 2
README = Path(__file__).resolve().parents[1] / "README.md"


def second_best():
    """README's own router, as it stands there."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    (code,) = (block for block in blocks if "class SecondBest" in block)
    names = {}
    before = dict(ROUTERS)
    try:
        exec(code, names)
    finally:
        ROUTERS.clear()
        ROUTERS.update(before)
    return names["SecondBest"]


def routed(router, x_TD):
    out = router(x_TD, RouteContext())
    total = (out.plan.dense_weights() * torch.arange(1.0, E + 1)).sum() + out.losses["z"]
    (grad_ED,) = torch.autograd.grad(total, router.weight_ED)
    return out, grad_ED


def test_a_replaced_step_counts_on_the_kernels_too(request):
    torch.manual_seed(0)
    router = second_best()(d_model=D, num_experts=E, top_k=1, weighting="raw")
    plain = TokenChoice(d_model=D, num_experts=E, top_k=1, weighting="raw")
    plain.load_state_dict(router.state_dict())
    x_TD = 3 * torch.randn(T, D)
    want, want_grad = routed(router, x_TD)
    usual, _ = routed(plain, x_TD)
    assert relative(want.plan.dense_weights(), usual.plan.dense_weights()) > 0.01
    request.getfixturevalue("triton_everywhere")
    got, got_grad = routed(router, x_TD)
    assert torch.equal(got.plan.expert, want.plan.expert)
    assert torch.equal(got.plan.token, want.plan.token)
    assert relative(got.plan.weight, want.plan.weight) < 1e-6
    assert relative(got.scores, want.scores) < 1e-6
    assert relative(got_grad, want_grad) < 1e-5


STEPS = ("score", "adjust", "select", "weight")


def with_fast_path():
    """Every router that is, or holds, a TokenChoice."""
    names = []
    for name in ROUTERS:
        router = build_router(name, d_model=D, num_experts=8, top_k=2)
        if isinstance(getattr(router, "router", router), TokenChoice):
            names.append(name)
    return names


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", with_fast_path())
def test_a_step_replaced_on_the_object_counts_for_every_router_with_a_fast_path(
    name, step, request
):
    torch.manual_seed(1)
    made = build_router(name, d_model=D, num_experts=8, top_k=2)
    router = getattr(made, "router", made)
    calls = []
    original = getattr(router, step)

    def counted(*given):
        calls.append(step)
        return original(*given)

    request.getfixturevalue("triton_everywhere")
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(router, step, counted)
    made(torch.randn(T, D), RouteContext(training=True))
    assert calls == [step]


def test_the_kernel_still_runs_where_nothing_was_replaced(triton_everywhere):
    class Renamed(TokenChoice):
        """A subclass that replaces no step."""

    router = Renamed(d_model=D, num_experts=E, top_k=K)
    assert not overridden(router, TokenChoice, *STEPS)
    router(torch.randn(T, D), RouteContext())
    assert (T, E) in [tuple(shape) for shape in triton_everywhere]


def test_a_users_router_trains_in_the_real_layer():
    kind = second_best()
    before = dict(ROUTERS)
    ROUTERS["second_best"] = kind
    try:
        layer = MoEFFN(D, MoEConfig(E, 1, 8, router="second_best"))
    finally:
        ROUTERS.clear()
        ROUTERS.update(before)
    y_TD, route = layer(torch.randn(T, D), RouteContext(training=True))
    y_TD.square().sum().backward()
    assert layer.w2_EDF.grad.norm() > 0
    best_T = route.logits.argmax(1)
    assert not (route.plan.expert[route.plan.inverse.long()] == best_T).any()
