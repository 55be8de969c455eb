"""Evaluation on held-out text: which windows meet, whose load is whose, and what it cost."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.training import DENSE, MODELS, MOE, check_same, make, run, state_of, tiny_corpus
from moeviz.routing import ROUTERS
from moeviz.routing.capacity import Capacity
from moeviz.training.evaluation import FINAL_WINDOWS, batches

WINDOWS = 6
POOLS = ("mixed", "domain", "sequence")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("text"))


def with_experts(**changes):
    return dataclasses.replace(MOE, moe=dataclasses.replace(MOE.moe, **changes))


def loud(trainer):
    """With gates at unit scale, for a router that is undecided shows no pool."""
    with torch.no_grad():
        for router in trainer.model.routers().values():
            for parameter in router.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return trainer


@torch.no_grad()
def one_pass(trainer, rows):
    """Nats of each window when these meet in one batch, and the load [L, E], by definition."""
    windows = windows_of(trainer)
    tokens = torch.from_numpy(windows.tokens[rows])
    out = trainer.model.eval()(tokens[:, :-1])
    loss_WS = -out.logits.double().log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    loads = [route.stats.load.numpy() for route in out.routes if route is not None]
    return loss_WS.mean(1).numpy(), np.array(loads)


def windows_of(trainer, part="validation"):
    return trainer.corpus.windows(part, seq_len=16, windows_per_domain=WINDOWS)


# --- which windows meet ---


@given(st.integers(1, 7), st.integers(1, 40), st.integers(1, 70))
def test_every_window_is_met_once_in_batches_of_nearly_one_size(domains, each, batch_size):
    domain_W = np.repeat(np.arange(domains), each)
    for pool in POOLS:
        made = batches(domain_W, pool, batch_size)
        assert sorted(np.concatenate(made).tolist()) == list(range(domains * each))
        sizes = [len(rows) for rows in made]
        assert max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size
        kinds = {len(set(domain_W[rows])) for rows in made}
        if pool == "mixed":  # the turn goes on from batch to batch
            turns = np.arange(domains * each) % domains
            assert domain_W[np.concatenate(made)].tolist() == turns.tolist()
        else:
            assert kinds == {1}
            assert pool == "domain" or set(sizes) == {1}


def test_a_final_figure_fills_whole_batches_of_training_and_512_windows():
    made = batches(np.repeat(np.arange(6), FINAL_WINDOWS), "mixed", 16)
    assert {len(rows) for rows in made} == {16} and 16 * len(made) >= 512


def test_neighbours_in_the_text_meet_no_more_often_than_by_chance():
    """The distance of two places drawn from 0..87 is a third of 88 on average."""
    domain_W = np.repeat(np.arange(6), FINAL_WINDOWS)
    made = batches(domain_W, "mixed", 16)
    gaps = [abs(np.diff(rows[domain_W[rows] == 0])).mean() for rows in made]
    assert np.mean(gaps) == pytest.approx(88 / 3, rel=0.2)
    again = batches(domain_W, "mixed", 16)
    assert all((a == b).all() for a, b in zip(made, again, strict=True))


def test_what_is_no_pool_or_no_part_is_refused(corpus):
    with pytest.raises(ValueError, match="pool must be"):
        make(corpus).evaluate(pool="all")
    with pytest.raises(ValueError, match="holdout"):
        make(corpus).evaluate(part="holdout")


# --- what is measured ---


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", MODELS)
def test_a_causal_router_without_limits_does_not_care_who_meets(corpus, name, pool):
    """Each domain in a pass of its own is what any pool gives."""
    trainer = make(corpus, MODELS[name])
    run(trainer, 3)
    before = state_of(trainer)
    result = trainer.evaluate(WINDOWS, pool=pool)
    passes = [one_pass(trainer, windows_of(trainer).domain == domain) for domain in (0, 1)]
    assert result.domain_loss == pytest.approx([loss.mean() for loss, _ in passes], rel=1e-5)
    assert result.loss == result.domain_loss.mean()
    assert result.tokens == 2 * WINDOWS * 16
    if name == "moe":
        assert result.load.swapaxes(0, 1).tolist() == [load.tolist() for _, load in passes]
        assert result.active_experts.tolist() == [2, 2]
    else:
        assert result.load.shape == (0, 2, 0) and result.active_experts.shape == (0,)
    check_same(before, state_of(trainer))


def test_expert_choice_is_measured_in_the_pool_that_is_asked_for(corpus):
    """Mixed: all twelve windows in one pass. By domain and by sequence: those alone."""
    trainer = loud(make(corpus, with_experts(router="expert_choice"), batch_size=2 * WINDOWS))
    domain_W = windows_of(trainer).domain
    losses = {}
    for pool, passes in (("mixed", 1), ("domain", 2), ("sequence", 12)):
        loss_W = np.empty(len(domain_W))
        made = batches(domain_W, pool, 2 * WINDOWS)  # their order decides between equal scores
        assert len(made) == passes
        for rows in made:
            loss_W[rows] = one_pass(trainer, rows)[0]
        by_domain = [loss_W[domain_W == domain].mean() for domain in (0, 1)]
        losses[pool] = trainer.evaluate(WINDOWS, pool=pool).domain_loss
        assert losses[pool] == pytest.approx(by_domain, rel=1e-5)
    assert abs(losses["mixed"] - losses["domain"]).max() > 1e-3
    assert abs(losses["mixed"] - losses["sequence"]).max() > 1e-3


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", ROUTERS)
def test_the_loads_of_the_domains_sum_to_what_the_router_counted(corpus, name, pool):
    options = {"vocab_size": 300} if name == "hash" else {}
    trainer = loud(make(corpus, with_experts(router=name, options=options)))
    counted = {layer: [] for layer in trainer.moe_layers}
    for layer, router in trainer.model.routers().items():
        router.register_forward_hook(
            lambda _, __, out, of=counted[layer]: of.append(out.stats.load.numpy())
        )
    result = trainer.evaluate(WINDOWS, pool=pool)
    wanted = np.array([np.sum(loads, axis=0) for loads in counted.values()])
    assert result.load.sum(1) == pytest.approx(wanted, rel=1e-5)
    if not ROUTERS[name].soft:
        assert (result.load.sum(1) == wanted).all()
    assert (result.load >= 0).all()


def test_a_limit_is_counted_as_it_dropped(corpus):
    """Room for half of the choices, in pools of one domain and in mixed ones."""
    limit = Capacity(0.5, eval_factor=0.5)
    trainer = loud(make(corpus, with_experts(capacity=limit)))
    for pool in POOLS:
        active = trainer.evaluate(WINDOWS, pool=pool).active_experts
        assert (active <= 1.0).all() and (active > 0.3).all()


def test_the_slots_of_a_sequence_are_of_its_domain(corpus):
    """Soft MoE: three slots of four experts for each of six windows, whoever meets."""
    trainer = make(corpus, with_experts(router="soft_moe", options={"slots": 3}))
    for pool in POOLS:
        result = trainer.evaluate(WINDOWS, pool=pool)
        assert result.load == pytest.approx(np.full((2, 2, 4), 3.0 * WINDOWS), rel=1e-5)
        assert result.active_experts == pytest.approx([4 * 3 / 16] * 2)


def test_a_mixture_of_two_domains_counts_by_what_each_gives(corpus):
    """Mixture of Tokens: a group is one position of two sequences, here of two domains; the weight
    of a token in the mixture, summed over the tokens of a domain."""
    experts = with_experts(router="mixture_of_tokens", options={"group_size": 2})
    trainer = loud(make(corpus, experts, batch_size=2))
    seen = []
    router = trainer.model.routers()[0]
    router.register_forward_hook(lambda module, args, _: seen.append(args[0] @ module.weight_ED.T))
    load_DE = trainer.evaluate(WINDOWS).load[0]
    wanted = sum(logits_TE.view(2, 16, 4).softmax(0).sum(1) for logits_TE in seen)
    assert len(seen) == WINDOWS
    assert load_DE == pytest.approx(wanted.detach().numpy(), rel=1e-4)
    assert abs(load_DE[0] - load_DE[1]).max() > 1


# --- what it cost ---


def hand_count(experts_L, num_experts, router):
    """Of DENSE's attention and head, and two MoE layers whose experts have width 8."""
    attention = 2 * 16 * 3 * 16 + 2 * 16 * 16 + 2 * (2 * 16 * (1 + 16) / 2)
    experts = sum(3 * 2 * 16 * 8 * active for active in experts_L)
    return 2 * (attention + router) + experts + 2 * 16 * 300


@pytest.mark.parametrize("name", ["remoe", "null_experts"])
def test_a_router_that_chooses_how_many_is_charged_for_those_that_worked(corpus, name):
    trainer = loud(make(corpus, with_experts(router=name), steps=4))
    rows = []
    for router in trainer.model.routers().values():
        router.register_forward_hook(lambda *args: rows.append(args[-1].plan.token.numel()))
    result = trainer.evaluate(WINDOWS)
    layers = np.reshape(rows, (-1, 2)).sum(0) / (2 * WINDOWS * 16)
    assert result.active_experts == pytest.approx(layers) and layers.max() < 4
    # Scores of 4 experts, and of 3 null ones with their two mixing scores and a vector each.
    router = 2 * 16 * (4 if name == "remoe" else 4 + 3 + 3)
    assert trainer.flops_per_token(layers) == pytest.approx(hand_count(layers, 4, router))
    declared = trainer.flops_per_step / (3 * trainer.tokens_per_step)
    assert trainer.flops_per_token(layers) != pytest.approx(declared), "it declares another number"


def test_a_remoe_router_counts_its_positive_scores(corpus):
    trainer = loud(make(corpus, with_experts(router="remoe")))
    positive = []
    trainer.model.routers()[1].register_forward_hook(
        lambda module, args, _: positive.append((args[0] @ module.weight_ED.T > 0).sum().item())
    )
    active = trainer.evaluate(WINDOWS).active_experts
    assert active[1] == pytest.approx(sum(positive) / (2 * WINDOWS * 16))


@pytest.mark.parametrize("name", ["remoe", "token_choice", "soft_moe", "dense"])
def test_a_run_is_charged_step_by_step_for_what_worked(corpus, name):
    model = DENSE if name == "dense" else with_experts(router=name)
    trainer = make(corpus, model)
    results = run(trainer, 5)
    tokens = 4 * 16
    if name == "dense":
        per_step = [3 * tokens * (hand_count([], 0, 0) + 2 * 3 * 2 * 16 * 16)] * 5
    else:
        router = 2 * 16 * 4 * (3 * 2 if name == "soft_moe" else 1)
        active = [result.load.sum(1) / tokens for result in results]
        per_step = [3 * tokens * hand_count(active_L, 4, router) for active_L in active]
    flops = trainer.history.curve().flops
    assert flops == pytest.approx(np.cumsum(per_step))
    declared = trainer.flops_per_step * np.arange(1, 6)
    assert (flops == declared).all() == (name != "remoe")


def test_merged_and_rewound_histories_keep_the_sum(corpus):
    whole, merged = (make(corpus, with_experts(router="remoe")) for _ in range(2))
    merged.history.capacity = 4
    run(whole, 11)
    run(merged, 11)
    assert merged.history.curve().flops[-1] == whole.history.curve().flops[-1]
