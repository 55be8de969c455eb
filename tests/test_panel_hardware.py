"""The panels of 08_hardware, driven as a learner would but without a browser."""

from helpers.panels import LOUD, content, said
from moeviz import panels
from moeviz.costs import DEVICES, MODELS
from moeviz.panels import hardware_choice as offered
from moeviz.panels.costs import exchange as exchange_module

pytestmark = LOUD


def test_every_model_and_device_on_offer_is_one_of_the_calculators():
    assert {*offered.DENSE, *offered.SPARSE} <= set(MODELS)
    assert set(offered.DEVICES.values()) <= set(DEVICES)


def test_under_skew_only_controls_that_matter_can_be_moved():
    panel = panels.Exchange()
    panel.controls["node_limit"].value = 4
    limited = content(panel)
    assert panel.controls["seed"].disabled and not panel.controls["node_limit"].disabled
    panel.controls["skew"].value = 0.5
    assert panel.controls["node_limit"].disabled and not panel.controls["seed"].disabled
    assert "any node" in panel.picture.value
    panel.controls["skew"].value = 0.0
    assert content(panel) == limited and not panel.controls["node_limit"].disabled


def test_the_experts_on_offer_divide_over_all_devices_on_offer():
    panel = panels.Exchange()
    for model_name in exchange_module.MODELS:
        for nodes, each, limit in ((1, 4, 0), (2, 8, 2), (8, 8, 2), (8, 4, 4)):
            panel.set_controls(dict(model_name=model_name, nodes=nodes, devices_per_node=each,
                                    node_limit=limit))  # fmt: skip
            panel.changed()
            assert said(panel).startswith(model_name), said(panel)
