"""What the tests of routers against oracles share: routers and layers in float64, so that an error
of 1e-12 shows, definitions in plain Python, and comparisons of values and of gradients."""

import functools

import torch
import torch.nn.functional as F

from helpers import routers
from helpers.numerics import relative
from helpers.routers import visited
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.routing import build_router

T, D, E, K, FF = 37, 11, 7, 3, 10  # FF: width of an expert; F is torch's
DOUBLE = 1e-12  # relative error of the same formula in float64, in another order of addition
STATE = 1e-6  # of what a router keeps between steps, which stays in float32

normal = functools.partial(routers.normal, dtype=torch.float64)


def unit(module, seed=1):
    """Weights that make logits and outputs of unit scale: what routers start with is too small to
    be a hard case."""
    with torch.no_grad():
        for i, weight in enumerate(module.parameters()):
            fan_in = weight.shape[-1] if weight.ndim else 1
            weight.copy_(normal(*weight.shape, seed=seed + 97 * i) / fan_in**0.5)
    return module


def router(name, *, num_experts=E, top_k=K, **options):
    made = build_router(name, d_model=D, num_experts=num_experts, top_k=top_k, **options)
    return unit(made.double())


def layer(name, *, num_experts=E, top_k=K, dtype=torch.float64, **config):
    config = MoEConfig(num_experts, top_k, FF, router=name, backend="reference", **config)
    return unit(MoEFFN(D, config).to(dtype))


def inputs(tokens=T, seed=9, dtype=torch.float64):
    return normal(tokens, D, seed=seed, dtype=dtype).requires_grad_()


def expert_ffn(made, e, x_nD):
    """Expert e of a layer, alone."""
    gate_nF, up_nF = (x_nD @ made.w13_E2FD[e].T).chunk(2, dim=-1)
    return (F.silu(gate_nF) * up_nF) @ made.w2_EDF[e].T


# --- definitions ---


def best(values, k):
    """Indices of the k largest, best first; sorted() is stable: the lower index wins."""
    values = values.tolist() if torch.is_tensor(values) else values
    return sorted(range(len(values)), key=lambda i: -values[i])[:k]


def kept(values, k):
    """bool, where a row's k best are."""
    rows = [[i in best(row, k) for i in range(len(row))] for row in values.flatten(0, -2).tolist()]
    return torch.tensor(rows).view(values.shape)


def share(values, kept=1):
    """What is kept of each row, over its sum."""
    return values * kept / (values * kept).sum(-1, keepdim=True)


def sigmoid(values):
    return 1 / (1 + (-values).exp())


def z(logits_TE):
    return logits_TE.exp().sum(1).log().square().mean()


def cv_squared(values_E):
    return values_E.var() / values_E.mean() ** 2


def share_times_score(scores_TE, count_E):
    """E sum_e (share of the count) (mean score), added up one by one."""
    count_E, num_experts = [float(c) for c in count_E], scores_TE.shape[1]
    parts = [count_E[e] / sum(count_E) * scores_TE[:, e].mean() for e in range(num_experts)]
    return num_experts * sum(parts)


# --- comparisons ---


def check_plan(plan, want_TE, limit=DOUBLE):
    """The same decisions, and the same weights."""
    assert torch.equal(visited(plan), want_TE != 0)
    assert 0 < plan.token.numel() and relative(plan.dense_weights(), want_TE) < limit


def check_gradients(got, want, leaves, limit=DOUBLE):
    """Under the same random weights; leaves: what both were computed from, or pairs (ours, the
    oracle's)."""
    probe = normal(*got.shape, seed=77, dtype=got.dtype)
    pairs = [leaf if isinstance(leaf, tuple) else (leaf, leaf) for leaf in leaves]
    grads = [
        torch.autograd.grad(
            (value * probe).sum(),
            side,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for value, side in zip((got, want), zip(*pairs, strict=True), strict=True)
    ]
    for i, (ours, theirs) in enumerate(zip(*grads, strict=True)):
        assert (ours - theirs).norm() < limit * max(theirs.norm(), 1e-2), f"leaf {i}"


def check_weights(plan, want_TE, leaves, limit=DOUBLE):
    check_plan(plan, want_TE, limit)
    check_gradients(plan.dense_weights(), want_TE, leaves, limit)


def check_value(got, want, leaves, limit=DOUBLE):
    assert relative(got, want) < limit
    check_gradients(got, want, leaves, limit)
