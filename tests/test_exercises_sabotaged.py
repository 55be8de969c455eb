"""The sabotaged layers: each differs from the healthy one in the figure that names its fault, and
in that alone where nothing else follows from it."""

import pytest
import torch

from moeviz.exercises import sabotaged_layers as layers
from moeviz.exercises.diagnosis import AGAINST
from moeviz.routing import RouteContext, build_router

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def figures():
    faults = (layers.HEALTHY, *layers.SABOTAGED.values(), layers.UNSCALED)
    return {fault: layers.figures(fault) for fault in faults}


def test_every_fault_is_named_once_and_one_is_not_there():
    assert {*AGAINST} == {*layers.SABOTAGED.values(), layers.UNSCALED}
    assert len({*layers.SABOTAGED.values()}) == len(layers.SABOTAGED) == 5


# The figure by which a fault is known, and what it is there and everywhere else.
SIGNS = {
    layers.TOKENS: (layers.LATER, lambda v: v > 0.01, lambda v: v < 1e-5),
    layers.FOLDED: (layers.RAISED, lambda v: v > 0.02, lambda v: v < 1e-5),
    layers.STALE: (layers.SAME, lambda v: v == 1, lambda v: v < 0.5),
    layers.SIGN: (layers.VIOLATION, lambda v: v > 1, lambda v: v < 0.3),
    layers.UNSCALED: (layers.SIZE, lambda v: v > 2, lambda v: v < 1.6),
}


@pytest.mark.parametrize("fault", SIGNS)
def test_a_fault_has_a_figure_that_no_other_has(fault, figures):
    name, there, elsewhere = SIGNS[fault]
    for one, found in figures.items():
        assert (there if one == fault else elsewhere)(found[name]), (one, name, found[name])


def test_without_weights_or_their_gradient_the_task_does_not_reach_the_gate(figures):
    still = {fault for fault, found in figures.items() if found[layers.SLOPE] == 0}
    assert still == {layers.DETACHED, layers.UNSCALED}
    assert min(f[layers.SLOPE] for fault, f in figures.items() if fault not in still) > 0.3


def test_the_bias_in_the_weights_trains_as_well_as_the_healthy_layer(figures):
    healthy, folded = figures[layers.HEALTHY], figures[layers.FOLDED]
    assert folded[layers.LOSS] == pytest.approx(healthy[layers.LOSS], rel=0.1)
    assert figures[layers.DETACHED][layers.LOSS] > 1.5 * healthy[layers.LOSS]


def test_the_healthy_layer_chooses_and_weighs_as_the_packages_router():
    layer, task = layers.build(layers.HEALTHY)
    x_TD, _ = task.batch()
    layer.bias_E = torch.linspace(-0.1, 0.1, layers.EXPERTS)
    router = build_router(
        "token_choice", d_model=layers.D_MODEL, num_experts=layers.EXPERTS, top_k=2, bias="sign"
    )
    router.weight_ED.data = layer.gate_ED.detach()
    router.bias.bias_E.copy_(layer.bias_E)
    plan = router(x_TD, RouteContext(training=True)).plan
    rows_ND = torch.einsum("nd,nfd->nf", x_TD[plan.token.long()], layer.expert_EDD[plan.expert])
    wanted_TD = torch.zeros_like(x_TD).index_add(
        0, plan.token.long(), plan.weight[:, None] * rows_ND
    )
    torch.testing.assert_close(layer(x_TD)[0], wanted_TD)


def test_what_is_shown_is_the_same_every_time_and_names_no_fault(figures):
    table = layers.examine()
    assert table.columns == ("figure", "healthy", *"ABCDE")
    for name, *shown in table.rows:
        columns = [figures[fault][name] for fault in (layers.HEALTHY, *layers.SABOTAGED.values())]
        assert shown == [f"{value:.3f}" for value in columns]
    assert not [name for name in AGAINST if name in str(table)]
