"""Each scaling law gives what its own paper works out with it."""

import math
from dataclasses import replace

import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.costs.laws.answers import Answer, answers, disagreement
from moeviz.costs.laws.law import LossLaw, Model, size
from moeviz.costs.laws.published import (
    ABNAR,
    CLARK,
    JOINT,
    KRAJEWSKI,
    LAWS,
    joint_terms,
    ling_best_granularity,
    ling_leverage,
)


def share_of(experts, routed=1.0):
    """The share of parameters that a token meets in blocks of 4 d^2 and E experts of 8 d^2."""
    return 12 / (4 + 8 * (routed * experts + 1 - routed))


def of_active(active, share, tokens, granularity=1.0):
    """The model of which a token meets so many parameters."""
    return Model(active / share, share, tokens, granularity)


def krajewskis_flops(model):
    """6 an active parameter and 14 a router's, where the width is 64 times the layers (equation 10,
    appendix E)."""
    layers = (model.active / (12 * 64**2)) ** (1 / 3)
    return 6 * model.active + 14 * 64 * layers**2 * model.experts() * model.granularity


def compute_optimal(law, flops, share, granularity=1.0, each=lambda model: 6 * model.active):
    """The model of a share with the lowest loss that these FLOPs can train; each: of a token."""

    def trained(log_active):
        model = of_active(math.exp(log_active), share, 1.0, granularity)
        return replace(model, tokens=flops / each(model))

    found = scipy.optimize.minimize_scalar(
        lambda x: law.loss(trained(x)), bounds=(0, 37), method="bounded", options={"xatol": 1e-9}
    )
    return trained(found.x)


def test_a_share_is_that_of_so_many_experts():
    for routed in (0.5, 1.0):
        model = Model(1e9, share_of(64, routed), 1e9)
        assert model.experts(routed) == pytest.approx(64)
    assert Model(1e9, 1, 1e9).experts() == 1


@pytest.mark.parametrize(("experts", "loss"), [(1, 3.06), (8, 2.88), (32, 2.73), (128, 2.61)])
def test_clark_at_25_million(experts, loss):
    assert CLARK.loss(of_active(25e6, share_of(experts, 0.5), 130e9)) == pytest.approx(
        loss, abs=0.006
    )


def test_clark_counts_effective_parameters():
    # 5M with 128 experts are a dense 55M; nothing is gained from 937B on (rounded constants).
    small = of_active(5e6, share_of(128, 0.5), 130e9)
    assert CLARK.dense_of_equal_loss(small) == pytest.approx(55e6, rel=0.1)
    large = of_active(937e9, share_of(128, 0.5), 130e9)
    assert CLARK.dense_of_equal_loss(large) / large.active == pytest.approx(1, abs=0.03)


@settings(max_examples=50, deadline=None)
@given(share=st.floats(0.005, 0.5), total=st.floats(129e6, 3.7e9), tokens=st.floats(16e9, 130e9),
       granularity=st.floats(1, 16))  # fmt: skip
def test_the_parameters_of_another_paper_make_an_moe_useless_or_a_wonder(
    share, total, tokens, granularity
):
    # What is met put into Krajewski's N, and all parameters into Clark's, as 10 says.
    model = Model(total, share, tokens, granularity)
    met = replace(model, total=model.active)
    assert KRAJEWSKI.loss(met) > KRAJEWSKI.loss(model.dense(model.active))
    everything = Model(total / share, share, tokens)  # of which a law of active ones sees `total`
    assert CLARK.loss(everything) < CLARK.loss(model.dense(total))


# Table 2: active parameters of 64 experts, tokens, granularity, FLOPs, loss.
KRAJEWSKI_TABLE = [
    (100e6, 4.37e9, 8, 2.95e18, 3.133), (1e9, 28.94e9, 16, 1.93e20, 2.491),
    (3e9, 72.90e9, 16, 1.41e21, 2.245), (7e9, 137.6e9, 32, 6.46e21, 2.076),
    (70e9, 941.07e9, 32, 4.16e23, 1.694), (300e9, 2.96e12, 64, 5.69e24, 1.503),
    (1e12, 7.94e12, 64, 4.97e25, 1.367),
]  # fmt: skip


@pytest.mark.parametrize(("active", "tokens", "granularity", "flops", "loss"), KRAJEWSKI_TABLE)
def test_krajewskis_table(active, tokens, granularity, flops, loss):
    share = share_of(64)
    model = of_active(active, share, tokens, granularity)
    # Its constants are printed to three figures: as many as the sum can be off by.
    assert KRAJEWSKI.loss(model) == pytest.approx(loss, abs=0.025)
    assert krajewskis_flops(model) * tokens == pytest.approx(flops, rel=0.01)
    fits = [compute_optimal(KRAJEWSKI, flops, share, 2.0**i, krajewskis_flops) for i in range(9)]
    best = min(fits, key=KRAJEWSKI.loss)
    assert best.granularity == granularity
    assert best.active == pytest.approx(active, rel=0.03)
    assert best.tokens == pytest.approx(tokens, rel=0.03)
    # The trap: with the active parameters as N, every one of these would lose to a dense model.
    as_active = 0.47 + (2.1 / granularity**0.58 + 18.1) / active**0.115 + 30.8 / tokens**0.147
    assert as_active > KRAJEWSKI.loss(Model(active, 1, tokens)) > KRAJEWSKI.loss(model)


# Tables 4 and 1: (m, mu, n, nu) by experts, and (active, tokens) at 1e20, 1e21 and 1e22 FLOPs.
JOINT_TABLES = {
    1: ((30.3640, -0.1817, 53.9838, -0.1965), (1.7, 9.7, 5.7, 29.3, 18.8, 88.6)),
    2: ((27.7982, -0.1780, 66.8401, -0.2065), (1.5, 11.4, 5, 33, 17.4, 96)),
    4: ((24.8462, -0.1731, 87.7022, -0.2192), (1.2, 13.9, 4.4, 38, 15.8, 105.4)),
    8: ((21.8330, -0.1676, 119.9126, -0.2338), (0.99, 17, 3.8, 44.3, 14.4, 115.8)),
    16: ((19.0159, -0.1617, 167.5073, -0.2494), (0.81, 20.7, 3.3, 51.2, 13.2, 126.5)),
    32: ((16.5424, -0.1557, 234.6726, -0.2652), (0.669, 24.9, 2.85, 58.4, 12.2, 136.9)),
}


@pytest.mark.parametrize("experts", JOINT_TABLES)
def test_the_joint_laws_tables(experts):
    terms, best = JOINT_TABLES[experts]
    share = share_of(experts)
    found = joint_terms(Model(1e9, share, 1e9))
    assert found == pytest.approx(terms, rel=3e-3)
    for i, flops in enumerate((1e20, 1e21, 1e22)):
        model = compute_optimal(JOINT, flops, share)
        # Printed to two or three figures.
        assert model.active == pytest.approx(1e9 * best[2 * i], rel=0.035)
        assert model.tokens == pytest.approx(1e9 * best[2 * i + 1], rel=0.02)


def test_the_joint_laws_example_of_equal_memory():
    # "A compute-optimal 1.1B model trained for 8B tokens will have worse loss than" these two.
    dense = JOINT.loss(Model(1.1e9, 1, 8e9))
    for experts, active, tokens in ((2, 709e6, 16e9), (4, 426e6, 32e9)):
        assert JOINT.loss(of_active(active, share_of(experts), tokens)) < dense


def test_abnars_findings():
    # Equal FLOPs: the fewer a token meets, the more parameters in all are best, the fewer active.
    fits = [compute_optimal(ABNAR, 1e20, share) for share in (1, 0.5, 0.25, 0.1)]
    assert [fit.total for fit in fits] == sorted(fit.total for fit in fits)
    assert [fit.active for fit in fits] == sorted((fit.active for fit in fits), reverse=True)

    # Equal FLOPs and size: the larger a model, the smaller the share that is best.
    def best(total, flops):
        models = [
            Model(total, share, flops / (6 * total * share))
            for share in (1 / 1.2**i for i in range(20))
        ]
        return min(models, key=ABNAR.loss).share

    assert best(5e8, 1e20) > best(2e9, 1e20) > best(8e9, 1e20)


def test_lings_own_figures():
    # "Exceeding 7x at 1e22 FLOPs with an activation ratio of 3.1 % and a granularity of 12", and
    # the optimum: 8 to 12. To base 10 it would be in the thousands.
    assert 7 < ling_leverage(0.031, 12, 1e22) < 7.5
    assert 8 < ling_best_granularity() < 12 < 1000 < ling_best_granularity(10)
    best = ling_best_granularity()
    around = [ling_leverage(0.03, factor * best, 1e21) for factor in (0.8, 1, 1.25)]
    assert max(around) == around[1]


# A model within the runs of each law.
INSIDE = {
    "Clark 2022": Model(3e9, share_of(64, 0.5), 130e9),
    "Krajewski 2024": Model(3e9, share_of(64), 60e9, 4),
    "Abnar 2025": Model(3e9, share_of(16), 60e9),
    "Ludziejewski 2025": Model(3e9, share_of(16), 60e9),
    "Ling 2025": Model(3e9, share_of(64), 60e9, 4),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_warns_where_its_runs_end(law):
    inside = INSIDE[law.short]
    assert law.beyond(inside) == ""
    far = law.beyond(Model(1.6e12, 0.01, 15e12, 8))
    assert far.startswith("Beyond its runs: ") and ", fitted on " in far
    # A sparse model is better than its active parameters, and worse than a dense model of all.
    dense = law.dense_of_equal_loss(inside)
    assert inside.active < dense < inside.total
    if isinstance(law, LossLaw):
        assert law.loss(inside.dense(dense)) == pytest.approx(law.loss(inside), rel=1e-12)


def test_a_dense_model_of_as_many_flops_is_told_so():
    model = Model(1e9, 0.5, 1e9)
    by_dense = {dense: Answer(CLARK, model, dense).saving for dense in (0.25e9, 0.5000001e9, 1e9)}
    assert by_dense == {
        0.25e9: "which takes 2 times fewer FLOPs itself",
        0.5000001e9: "at as many FLOPs",
        1e9: "at 2 times fewer FLOPs",
    }


def test_the_laws_agree_near_their_runs_and_part_far_from_them():
    def apart(model):
        dense = [answer.dense for answer in answers(model)]
        return max(dense) / min(dense)

    near, far = Model(3e9, share_of(16), 60e9, 4), Model(1.6e12, 0.01, 300e9, 8)
    assert apart(near) < 2 and apart(far) > 20
    told = answers(far)
    words = disagreement(told)
    assert words.startswith("1.6T parameters, 1.0 % of them for a token, 300B tokens. The lowest ")
    keeps = sum(answer.keeps_all for answer in told)
    assert 0 < keeps < len(told) and f"{keeps} of 5 laws say that 100 times fewer FLOPs" in words
    assert "0 of 5 were fitted" in words and "0 of 5 were fitted" not in disagreement(answers(near))
    for answer in told:
        assert f"{answer.fewer_flops:.3g} times fewer FLOPs" in answer.sentences
        assert answer.law.beyond(far) in answer.sentences
        if answer.losses is not None:
            own, dense = answer.losses
            assert (own <= dense) == answer.keeps_all == (" nats more: " in answer.sentences)


def test_what_no_law_can_be_asked():
    with pytest.raises(ValueError, match="share is 1, a dense model"):
        answers(Model(1e9, 1, 1e9))
    for wrong in (dict(share=0), dict(share=2), dict(total=-1), dict(tokens=0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Model(**dict(total=1e9, share=0.1, tokens=1e9) | wrong)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.6e12, "1.6T"), (999.7e9, "1T"), (39.2e9, "39.2B"), (15e6, "15M"), (64, "64"),
        (2.88e22, "2.9\u00a0×\u00a010²²"),
        (0.004, "4\u00a0×\u00a010⁻³"), (math.inf, "no size"), (3184, "3,184"),
    ],
)  # fmt: skip
def test_a_size_is_three_figures(value, words):
    assert size(value) == words
