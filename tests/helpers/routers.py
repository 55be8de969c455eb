"""What the tests of routers share: numbers from a seed, routers of unit scale with the logits that
a test asks for, contexts, and a decision read as a table."""

import pytest
import torch

from moeviz.routing import ROUTERS, RouteContext, build_router
from moeviz.routing.capacity import WithCapacity

SOFT = tuple(name for name in ROUTERS if ROUTERS[name].soft)
DISCRETE = tuple(name for name in ROUTERS if name not in SOFT)
GATED = tuple(name for name in ROUTERS if ROUTERS[name].default_gate is not None)
VOCAB = 40

modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def every(names):
    return pytest.mark.parametrize("name", names)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def skewed(kind, T, E, seed=0, dtype=torch.float32):
    """logits_TE of a kind: spread evenly, by Zipf's law, all to one expert, nearly all tied, or as
    large as logits may be."""
    logits_TE = normal(T, E, seed=seed, dtype=torch.float64)
    if kind == "zipf":
        logits_TE -= 2 * torch.arange(1, E + 1, dtype=torch.float64).log()
    elif kind == "one":
        logits_TE[:, seed % E] += 8
    elif kind == "tied":
        logits_TE = logits_TE.sign()
    elif kind == "huge":
        logits_TE = logits_TE.sign() * 1e4 * torch.sigmoid(logits_TE)
    return logits_TE.to(dtype)


def inner(router):
    """The router itself, without its capacity."""
    while isinstance(router, WithCapacity):
        router = router.router
    return router


def at_unit_scale(made, logits_TE=None, seed=0):
    """All that a router has at unit scale, for what it starts with is too small to be a hard case;
    and these logits for the rows of the identity, so that a test says exactly what they are."""
    gate = inner(made)
    with torch.no_grad():
        for name, values in gate.named_parameters():
            values.copy_(normal(*values.shape, seed=seed + len(name), dtype=values.dtype))
        if logits_TE is not None and hasattr(gate, "weight_ED"):
            gate.weight_ED.copy_(logits_TE.T)
        if logits_TE is not None and hasattr(gate, "phi_EPD"):
            gate.phi_EPD.copy_(logits_TE.T[:, None] + 0.1 * gate.phi_EPD)
            gate.scale.fill_(3.0)
        if hasattr(gate, "threshold_E"):
            gate.threshold_E.fill_(1 / gate.num_experts)
    return made


def build(name, logits_TE=None, K=2, *, D=6, E=4, seed=0, **options):
    """A router at unit scale; given logits_TE [T, E], one for `tokens(logits_TE)`."""
    if name == "hash":
        options.setdefault("vocab_size", VOCAB)
    if logits_TE is not None:
        D, E = logits_TE.shape
    made = build_router(name, d_model=D, num_experts=E, top_k=K, **options)
    return at_unit_scale(made if logits_TE is None else made.to(logits_TE.dtype), logits_TE, seed)


def tokens(logits_TE):
    return torch.eye(len(logits_TE), dtype=logits_TE.dtype)


def context(T, training=False, *, seed=0, length=3, **fields):
    """Sequences of `length` tokens (None: no sequences), random ids, seeded noise."""
    generator = torch.Generator().manual_seed(seed)
    every_T = torch.arange(T)
    fields = {
        "token_ids": torch.randint(VOCAB, (T,), generator=generator),
        "sequence": None if length is None else every_T // length,
        "position": every_T if length is None else every_T % length,
        "generator": generator,
    } | fields
    return RouteContext(training=training, **fields)


def decision(out):
    """What is decided for each token, [T, anything]."""
    if hasattr(out.plan, "dispatch"):
        parts = (out.plan.by_token(v).flatten(1) for v in (out.plan.dispatch, out.plan.combine))
        return torch.cat(list(parts), 1)
    return out.plan.dense_weights()


def visited(plan):
    """bool [T, E]: who visits whom, weight or none."""
    visits_TE = torch.zeros(plan.num_tokens, plan.num_experts, dtype=torch.bool)
    visits_TE[plan.token.long(), plan.expert.long()] = True
    return visits_TE


def rows_of(plan):
    """(token, expert, choice, weight) of every assignment, in the order of experts and slots."""
    columns = (plan.token, plan.expert, plan.choice, plan.weight.detach())
    return list(zip(*(column.tolist() for column in columns), strict=True))


def check_plan(plan, T, E, rows):
    """rows: (token, expert, choice, weight) of every assignment, in the order that was given."""
    N = len(rows)
    assert plan.num_tokens == T and plan.num_experts == E
    for name in ("token", "expert", "slot", "choice", "inverse", "offsets", "token_offsets"):
        assert getattr(plan, name).dtype == torch.int32, name
    got = rows_of(plan)
    # Sorted by expert; an expert's rows keep the order they were given in.
    assert got == sorted(rows, key=lambda row: row[1])
    offsets = plan.offsets.tolist()
    assert offsets[0] == 0 and offsets[-1] == N
    for e in range(E):
        here = range(offsets[e], offsets[e + 1])
        assert all(plan.expert[i] == e for i in here)
        assert plan.slot[offsets[e] : offsets[e + 1]].tolist() == list(range(len(here)))
    assert plan.load().tolist() == [sum(row[1] == e for row in rows) for e in range(E)]
    assert sorted(plan.inverse.tolist()) == list(range(N))
    bounds = plan.token_offsets.tolist()
    assert bounds[0] == 0 and bounds[-1] == N
    for t in range(T):
        mine = plan.inverse[bounds[t] : bounds[t + 1]].tolist()
        assert set(mine) == {i for i, row in enumerate(got) if row[0] == t}
    dense = torch.zeros(T, E, dtype=plan.weight.dtype)
    for token, expert, _, weight in rows:
        dense[token, expert] += weight
    assert torch.equal(plan.dense_weights(), dense)
