"""Every option of every router does something, or is refused in one sentence."""

import random
import warnings

import pytest
import torch

from helpers.mutants import searches
from helpers.routers import GATED, VOCAB, context, decision, every, normal
from moeviz.routing import ROUTERS, Capacity, Gate, build_router, own_options

D, E, K, T = 12, 8, 2, 24
SIZES = dict(d_model=D, num_experts=E, top_k=K)

# A value for each option that no router has by default.
OTHER = {
    "temperature": 0.3,
    "noise": 0.7,
    "jitter": 0.4,
    "init_scale": 3.0,
    "score": "sigmoid",
    "weighting": "raw",
    "scale": 1.7,
    "bias": "quantile",
    "bias_rate": 0.05,
    "num_groups": 2,
    "top_groups": 1,
    "group_score": "top2",
    "scope": "sequence",
    "capacity_factor": 0.4,
    "eval_capacity_factor": 0.4,
    "priority": "probability",
    "chunk": 4,
    "shuffle": True,
    "max_experts": 2,
    "memory": 0.2,
    "slots": 3,
    "group_size": 2,
    "variant": "bigram",
    "vocab_size": VOCAB + 7,
    "start": 0.1,
    "rate": 1.7,
    "zero": 2,
    "copy": 2,
    "constant": 2,
    "information_weight": 0.3,
    "prompt": 2,
    "capacity": Capacity(0.4),
}
# What some options do nothing without; each is refused alone and acts with it.
NEEDED = {
    "bias_rate": dict(bias="sign"),
    "num_groups": dict(top_groups=1),
    "group_score": dict(num_groups=4, top_groups=2),
    "shuffle": dict(chunk=6),
}


def options_of(name):
    gate = (
        ("temperature", "noise", "jitter", "init_scale")
        if ROUTERS[name].default_gate is not None
        else ()
    )
    return [*own_options(name), *gate, "capacity"]


def all_that_it_does(name, **options):
    """Decisions, losses, gradients and state of three steps and of an evaluation after them."""
    torch.manual_seed(0)
    if name == "hash":
        options = {"vocab_size": VOCAB} | options
    made = build_router(name, **SIZES, **options)
    seen = [made.active_experts(8), *(values.clone() for values in made.state_dict().values())]
    with torch.no_grad():  # what starts at zero has something to show
        for number, values in enumerate(made.parameters()):
            values += 0.1 * normal(*values.shape, seed=number)
    for step in range(3):
        x_TD = normal(T, D, seed=step).requires_grad_()
        out = made(x_TD, context(T, True, seed=1, length=8))
        total = sum(out.losses.values()) + (decision(out) * normal(*decision(out).shape)).sum()
        if total.requires_grad:
            total.backward()
        seen += [decision(out), x_TD.grad, *out.losses.values(), out.stats.load]
        made.post_step(out.stats)
    seen += [
        *made.state_dict().values(),
        decision(made(normal(T, D), context(T, seed=1, length=8))),
    ]
    return [None if v is None else torch.as_tensor(v).detach().clone() for v in seen]


CASES = [(name, option) for name in ROUTERS for option in options_of(name)]


def acts(name, option, **needed):
    """Whether it changes anything; a refusal counts, if it is one sentence."""
    value = OTHER[option]
    if option == "num_groups" and name == "hierarchical":
        value = 4  # two are its default here
    if option == "top_groups":  # of one group there is one to choose
        needed["num_groups"] = 4
        needed.setdefault("top_groups", 2)
    plain = all_that_it_does(name, **needed)
    try:
        changed = all_that_it_does(name, **needed | {option: value})
    except ValueError as refusal:
        assert "\n" not in str(refusal) and str(refusal).endswith(".")
        return "refused"
    same = (
        a is b or None not in (a, b) and torch.equal(a, b)
        for a, b in zip(plain, changed, strict=False)
    )
    return len(plain) != len(changed) or not all(same)


@pytest.mark.parametrize(("name", "option"), CASES)
def test_an_option_acts_or_is_refused(name, option):
    assert acts(name, option)


@pytest.mark.parametrize("option", NEEDED)
def test_what_is_refused_alone_acts_with_what_it_needs(option):
    name = "expert_choice" if option == "shuffle" else "token_choice"
    assert acts(name, option) == "refused"
    assert acts(name, option, **NEEDED[option]) is True


def test_every_option_has_a_value_to_try():
    assert {option for _, option in CASES} == OTHER.keys()


# Values that make no sense.

ODD = (
    0, 1, 3, 8, -1, 0.5, 1e-30, 1e30, 10**12, 2**63, 10**310, float("nan"), float("inf"), True,
    False, None, "raw", "sigmoid", "sign", "sequence", "random", "pad", "batch", [], {}, (1, 2),
)  # fmt: skip


def routes_twice(name, sizes, options, capacity):
    """Build it, train on some batches of a wide spread, and evaluate."""
    limit = Capacity(**capacity) if capacity else None
    made = build_router(name, **SIZES | sizes, capacity=limit, **options)
    if made.d_model != D:  # of which only a table is made
        return
    for scale, training in ((1.0, True), (1e4, True), (1e30, True), (1.0, False)):
        out = made(scale * normal(T, D), context(T, training, seed=1, length=8))
        total = sum(out.losses.values(), torch.zeros(()))
        if total.requires_grad and total.isfinite():
            total.backward()
            for values in made.parameters():
                assert values.grad is None or values.grad.isfinite().all()
                values.grad = None
        made.post_step(out.stats)


@pytest.mark.filterwarnings("ignore:With top_k=1")
@searches(300, 10_000)
def test_odd_options_route_with_finite_gradients_or_are_refused_in_one_sentence(count):
    rng, routed = random.Random(count), 0
    for _ in range(count):
        name = rng.choice(sorted(ROUTERS))
        names = [option for option in options_of(name) if option != "capacity"]
        options = {
            option: rng.choice(ODD)
            for option in rng.sample(names, min(len(names), rng.randint(0, 2)))
        }
        sizes = {size: rng.choice(ODD) for size in SIZES if rng.random() < 0.05}
        fields = ("factor", "eval_factor", "priority", "overflow", "pool")
        capacity = {field: rng.choice(ODD) for field in fields if rng.random() < 0.1}
        try:
            routes_twice(name, sizes, options, capacity)
            routed += 1
        except ValueError as refusal:
            assert "\n" not in str(refusal) and str(refusal).endswith("."), refusal
            assert len(str(refusal)) < 500, refusal
    assert routed > count / 10


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("token_choice", dict(d_model=10**12), "cannot take these values: .*memory"),
        ("deepseek_v2", dict(num_experts=0), "num_experts must be a whole number of at least 1"),
        ("null_experts", dict(zero=True), "zero must be a whole number of at least 0, got True"),
        ("mixture_of_tokens", dict(group_size=10**400), "group_size must be .* at most 92233720"),
        ("token_choice", dict(capacity=1.25), "capacity must be a routing.Capacity, got 1.25"),
        ("token_choice", dict(temperature=10**400), "temperature must be a finite number"),
    ],
)
def test_a_size_that_no_tensor_has_is_refused_when_it_is_built(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_router(name, **SIZES | options)


def test_a_capacity_beyond_all_tokens_drops_none():
    out = build_router("token_choice", **SIZES, capacity=Capacity(1e30))(
        normal(T, D), context(T, True)
    )
    assert len(out.plan.token) == T * K and out.stats.capacity == 2**31 - 1


# A gate that does not learn.


@every(GATED)
@pytest.mark.parametrize("learning", ["learned", "frozen"])
def test_a_step_of_the_router_leaves_its_gate_and_a_frozen_one_has_nothing_to_train(name, learning):
    made = build_router(name, **SIZES, learning=learning)
    before = [p.clone() for p in made.parameters()]
    assert before and all(p.requires_grad == (learning == "learned") for p in made.parameters())
    made.post_step(made(normal(T, D), context(T, True)).stats)
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


@every(GATED)
def test_a_rerandomised_router_is_drawn_anew_as_it_was_drawn_at_first(name):
    made = build_router(name, d_model=64, num_experts=32, top_k=2, learning="rerandomised")
    starts = [{key: values.clone() for key, values in made.named_parameters()}]
    stats = made(normal(T, 64), context(T, True)).stats
    for step in range(2):
        torch.manual_seed(step)  # what else is drawn in this process does not matter
        made.post_step(stats)
        starts.append({key: values.clone() for key, values in made.named_parameters()})
    for key, values in made.named_parameters():
        assert not values.requires_grad
        one, two, three = (start[key].flatten() for start in starts)
        if one.any():
            assert values.norm() == pytest.approx(one.norm().item(), rel=0.35), key
            flat = torch.corrcoef(torch.stack((one, two, three))) - torch.eye(3)
            assert flat.abs().max() < (0.5 if key == "depth_D" else 0.2), key  # none are related
        else:  # what starts at zero starts at zero again
            assert not values.any()
    if name == "base":  # orthogonal, as it started
        gram_EE = made.weight_ED @ made.weight_ED.T
        assert torch.allclose(gram_EE, 0.01 * torch.eye(32), atol=1e-5)


def test_a_frozen_noisy_gate_chooses_by_random_scores():
    """Zeros, its learned start, would send every token to the first K experts."""
    made = build_router("noisy_topk", **SIZES, learning="frozen")
    assert (made(normal(200, D), context(200)).stats.load > 0).all()


# A gate beside single options.


def test_single_options_go_before_those_of_a_given_gate():
    made = build_router("token_choice", **SIZES, gate=Gate(noise=1.0, jitter=0.1), temperature=2)
    assert made.gate == Gate(noise=1.0, jitter=0.1, temperature=2)
    made = build_router("token_choice", **SIZES, gate=Gate(noise=1.0), noise=0.5)
    assert made.gate == Gate(noise=0.5)
    assert build_router("switch", **SIZES).router.gate == Gate(jitter=0.01, init_scale=0.1)
    assert build_router("switch", **SIZES, noise=0.5).router.gate == Gate(1.0, 0.5, 0.01, 0.1)


@pytest.mark.parametrize("gate", [1, "learned"])
def test_what_is_no_gate_is_refused(gate):
    with pytest.raises(ValueError, match="gate must be a routing.Gate, got"):
        build_router("token_choice", **SIZES, gate=gate)


# One choice, whose weight is always the same.


def trains(name, **options):
    """Whether the task's gradient reaches the matrix that scores the experts."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = build_router(name, d_model=D, num_experts=E, top_k=1, **options)
    out = made(normal(T, D), context(T, True, seed=1, length=8))
    gate_ED = made.gate_matrix()
    gradient = None
    if decision(out).requires_grad and gate_ED.requires_grad:
        (decision(out) * normal(*decision(out).shape)).sum().backward()
        gradient = gate_ED.grad
    reached = gradient is not None and gradient.norm().item() > 1e-6
    return reached, [str(w.message) for w in said if w.category is UserWarning]


@every(GATED)
def test_who_warns_of_one_choice_is_who_does_not_train(name):
    reached, said = trains(name)
    assert bool(said) == (not reached)
    for sentence in said:
        assert "\n" not in sentence and 'weighting="raw"' in sentence and repr(name) in sentence


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, dict(top_k=1)) for name in ROUTERS if name not in GATED]
    + [
        ("token_choice", {}),
        ("token_choice", dict(num_experts=1, top_k=1)),
        ("token_choice", dict(top_k=1, weighting="raw")),
        ("token_choice", dict(top_k=1, learning="frozen")),
    ],
)
def test_nothing_is_said_where_nothing_is_wrong(name, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_router(name, **SIZES | options)


def test_a_capacity_around_it_does_not_hide_it():
    with pytest.warns(UserWarning, match="With top_k=1, router 'token_choice' gives every"):
        build_router("token_choice", d_model=D, num_experts=E, top_k=1, capacity=Capacity(1.0))
