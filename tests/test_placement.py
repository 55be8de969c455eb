"""Placement of experts on devices: EPLB's published case, and what holds for every load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.experiments import placement
from moeviz.experiments.recorded import recorded_figures
from moeviz.pictures.costs.placement import told
from moeviz.records.placement import Placement, balanced, contiguous

# The example of EPLB's README: two layers of 12 experts in 4 groups, 16 replicas on 2 nodes of 4.
LOADS = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
PUBLISHED = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


@pytest.mark.parametrize("layer,hierarchical,anywhere", [(0, 1.208, 1.073), (1, 1.242, 1.190)])
def test_the_published_case(layer, hierarchical, anywhere):
    load_E = LOADS[layer]
    placed = balanced(load_E, devices=8, replicas=16, nodes=2, groups=4)
    assert placed.expert_DR.ravel().tolist() == PUBLISHED[layer]
    assert placed.imbalance(load_E) == pytest.approx(hierarchical, abs=5e-4)
    free = balanced(load_E, devices=8, replicas=16)
    assert free.imbalance(load_E) == pytest.approx(anywhere, abs=5e-4)
    # Three nodes do not divide four groups: experts go anywhere.
    three = [balanced(load_E, devices=6, replicas=18, nodes=n, groups=4) for n in (1, 3)]
    assert np.array_equal(*(each.expert_DR for each in three))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3),
    st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_what_every_plan_keeps(nodes, per_node, per_device, extra, seed):
    devices = nodes * per_node
    num_experts = devices * per_device
    groups = 2 * nodes if num_experts % (2 * nodes) == 0 else nodes
    load_E = np.random.default_rng(seed).exponential(size=num_experts) ** 2
    options = dict(devices=devices, replicas=num_experts + extra * devices, nodes=nodes)
    placed = balanced(load_E, groups=groups, **options)
    # Equal counts, every expert somewhere, no load lost.
    assert placed.expert_DR.shape == (devices, per_device + extra)
    assert placed.replicas.min() >= 1
    assert placed.load(load_E).sum() == pytest.approx(load_E.sum())
    assert placed.imbalance(load_E) >= 1 - 1e-12
    # The replicas of a group stay on one node.
    group_E = np.arange(num_experts) // (num_experts // groups)
    node_D = np.arange(devices) // per_node
    held = {(g, n) for n, row in zip(node_D, placed.expert_DR, strict=True) for g in group_E[row]}
    assert len(held) == groups
    # The busiest replica has at most what it has without the plan, and a plan knows no order.
    each_E = load_E / placed.replicas
    assert each_E.max() <= load_E.max()
    turned = balanced(load_E[::-1], devices=devices)
    free = balanced(load_E, devices=devices)
    assert turned.imbalance(load_E[::-1]) == pytest.approx(free.imbalance(load_E))
    # List scheduling ends within one item of the mean.
    if extra == 0:
        gap = free.load(load_E).max() - load_E.sum() / devices
        assert gap <= load_E.max() + 1e-9


def test_a_replica_beside_its_twin_is_wasted():
    placed = Placement(np.array([[0, 0, 1], [2, 0, 3]]), 4)
    assert placed.wasted == 1
    assert placed.load([3, 1, 1, 1]).tolist() == [3, 3]
    assert np.isnan(placed.imbalance(np.zeros(4)))


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: contiguous(10, 4), "devices must divide num_experts = 10, got 4"),
        (lambda: balanced([1, 2, 3], devices=2), "devices must divide replicas = 3, got 2"),
        (lambda: balanced([1, 2], devices=2, nodes=4), "nodes must divide devices = 2, got 4"),
        (lambda: balanced([1, 2], devices=1, replicas=1), "replicas must be a whole number of at"),
        (lambda: contiguous(4, 2).imbalance([1, 2]), "a load for each of 4 experts, got 2"),
        (lambda: balanced([1, -2], devices=2), "load_E must hold finite numbers"),
    ],
)
def test_what_cannot_be_placed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_recorded_plans_are_those_of_the_recorded_loads():
    """All but the halves, from the counts that ship: the trace is not needed."""
    recorded = recorded_figures("placement")
    counts = recorded_figures("real_traces")["deepseek_v2_lite"]
    load = {t: np.array([of["load"][t] for of in counts["layers"]]) for t in counts["tasks"]}
    naive = [contiguous(64, recorded["devices"])] * len(counts["layers"])
    for task, figures in recorded["tasks"].items():
        assert figures["contiguous"] == approx(placement.judged_on(load[task], naive))
        for replicas, own in zip(recorded["replicas"], figures["own"], strict=True):
            made = placement.plans(load[task], replicas)
            assert own == approx(placement.judged_on(load[task], made))
        for maker in load.keys() - {task}:
            stale = placement.judged_on(load[task], placement.plans(load[maker]))
            assert recorded["stale"][maker][task] == approx(stale)
        # What the notebook says: a plan does nearly everything, and another task's nothing.
        others = [recorded["stale"][maker][task]["mean"] for maker in load.keys() - {task}]
        assert figures["own"][0]["mean"] < 1.05 < 1.25 < min(others)


def test_what_is_told_of_other_plans_is_their_mean():
    recorded = recorded_figures("placement")
    assert "1.29 to 1.73, on average no better than no plan" in told(recorded)
    own = {task: {"mean": 1.1, "worst": 1.1} for task in recorded["tasks"]}
    stale = dict.fromkeys(recorded["stale"], own)
    assert "1.10 to 1.10, on average still better than none" in told(recorded | {"stale": stale})


def approx(values):
    return pytest.approx(values, abs=1e-6)
