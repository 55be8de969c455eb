"""A router's steps are methods, and one that a user replaces counts on every device: as on a GPU
(the kernels, here in Triton's interpreter) so on a CPU."""

import re
from pathlib import Path

import pytest
import torch

from helpers.numerics import relative
from helpers.routers import build, context, inner, normal
from moeviz.model import MoEFFN
from moeviz.routing import ROUTERS
from moeviz.routing.base import overridden
from moeviz.routing.token_choice import TokenChoice

README = Path(__file__).resolve().parents[1] / "README.md"
STEPS = ("score", "adjust", "select", "weight")
T, D = 11, 16


def trained(layer):
    """The route of a step, and every gradient."""
    layer.zero_grad()
    y_TD, route = layer(3 * normal(T, D), context(T, True))
    (y_TD.square().sum() + route.losses["z"]).backward()
    return route, [value.grad.clone() for value in layer.parameters()]


def test_readmes_own_router_trains_on_the_kernels_as_on_a_cpu(monkeypatch, request):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    (code,) = (block for block in blocks if "class SecondBest" in block)
    monkeypatch.setitem(ROUTERS, "second_best", None)  # as it was, after the test
    names = {}
    exec(code, names)
    layer = MoEFFN(D, names["config"])
    want, want_grads = trained(layer)
    second_T = want.logits.topk(2).indices[:, 1]
    assert torch.equal(want.plan.expert[want.plan.inverse.long()], second_T.int())
    request.getfixturevalue("triton_everywhere")
    got, got_grads = trained(layer)
    assert torch.equal(got.plan.expert, want.plan.expert)
    assert torch.equal(got.plan.token, want.plan.token)
    assert relative(got.scores, want.scores) < 1e-6
    for ours, theirs in zip(got_grads, want_grads, strict=True):
        assert theirs.norm() > 0 and relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", [n for n in ROUTERS if isinstance(inner(build(n)), TokenChoice)])
def test_a_step_replaced_on_the_object_counts_for_every_router_with_a_fast_path(
    name, step, triton_everywhere, monkeypatch
):
    made, calls = build(name, D=D, E=8), []
    original = getattr(inner(made), step)

    def counted(*given):
        calls.append(step)
        return original(*given)

    monkeypatch.setattr(inner(made), step, counted)
    made(normal(T, D), context(T, True))
    assert calls == [step]


def test_the_kernel_still_runs_where_nothing_was_replaced(triton_everywhere):
    class Renamed(TokenChoice):
        """A subclass that replaces no step."""

    router = Renamed(d_model=D, num_experts=6, top_k=2)
    assert not overridden(router, TokenChoice, *STEPS)
    router(normal(T, D), context(T))
    assert (T, 6) in [tuple(shape) for shape in triton_everywhere]
