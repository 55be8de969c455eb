"""What is particular to the panels of 08_hardware, 08b_many_devices and 09_frontier_models."""

import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from helpers.live import wait
from helpers.panels import LOUD, content, everything, press, said, values_of
from helpers.pictures import presses, texts, tips
from moeviz import panels
from moeviz.costs import CLAIMS, DEVICES, MODELS, VERDICTS, model, parameters
from moeviz.panels import hardware_choice as offered
from moeviz.panels import player
from moeviz.panels.costs.model_anatomy import CONFIG, read_config
from moeviz.panels.costs.model_map import LAST_YEAR
from moeviz.pictures.costs.claims import SLIDERS
from moeviz.pictures.costs.model_anatomy import PICKED, YOURS
from moeviz.pictures.costs.training_cost import COMPARED, bill_of, published_setting
from moeviz.predictions import PREDICTIONS

pytestmark = LOUD
ROOT = Path(__file__).parents[1]
# The panel of each question, and the values that would show the answer.
ASKED = {
    "08.fit": ("MemoryFit", {"model_name": "gpt-oss-120b"}),
    "08.batch": ("DecodeBatch", {"model_name": "DeepSeek-V3 / R1"}),
    "08.exchange": ("Exchange", {"copies": "node", "fp8": True}),
    "08.limit": ("MeasuredExchange", {"processes": 4, "limit": 1}),
    "08.offload": ("Offloading", {"model_name": "Mixtral 8x7B"}),
    "09.years": ("ModelMap", {"until": 2026}),
    "09.cache": ("CacheLadder", {"other": "V3's own heads"}),
    "09.tokens": ("TrainingCost", {"model": "gpt-oss-120b"}),
}
GIVEN = {"09.years": {"18.7"}, "09.cache": {"56.9"}}  # figures that the question itself goes by


@pytest.mark.parametrize(("key", "case"), ASKED.items())
def test_no_panel_opens_on_what_a_prediction_asks(key, case):
    name, values = case
    asked, panel = PREDICTIONS[key], getattr(panels, name)()
    opening = panel.values
    words = " ".join([said(panel), *filter(None, texts(panel.drawn) + tips(panel.drawn))])
    for control, value in values.items():
        panel.controls[control].value = value
        assert panel.values[control] == value != opening[control]
    # Of three digits and more: shorter ones are there by chance.
    figures = re.findall(r"\d{2,}\.\d+|\d\.\d{2,}", asked.measured().figure)
    shown = [f for f in figures if re.search(rf"(?<![\d.]){f}(?!\d)", words)]
    assert set(shown) <= GIVEN.get(key, set())


def test_a_panel_of_costs_stands_after_the_question_that_it_answers():
    source = "".join(
        (ROOT / "notebooks" / "src" / f"{name}.md").read_text("utf-8")
        for name in ("08_hardware", "08b_many_devices", "09_frontier_models")
    )
    cells = re.findall(r"^panels\.(\w+)\(\"?([\w.]*)\"?\)$", source, re.M)
    for key, (name, _) in ASKED.items():
        at = cells.index(("Predict", key))
        assert cells[at : at + 3] == [("Predict", key), (name, ""), ("Outcome", key)]
    at = cells.index(("Predict", "09.mixtral"))  # which a sum answers, and no panel
    assert cells[at + 1] == ("Outcome", "09.mixtral")


def test_every_model_and_device_on_offer_is_one_of_the_calculators():
    assert {*offered.DENSE, *offered.SPARSE} <= set(MODELS)
    assert set(offered.DEVICES.values()) <= set(DEVICES)
    panel = panels.ModelAnatomy()
    for name in PICKED:
        panel.controls["model"].value = panel.controls["beside"].value = name
        assert panel.picture.value.count("all parameters: ") == 1, "beside itself it is one"
        assert "unexpected" not in panel.status.value


def test_the_experts_on_offer_divide_over_all_devices_on_offer():
    panel = panels.Exchange()
    for name in values_of(panel.controls["model_name"]):
        for nodes, each, limit in ((1, 4, 0), (2, 8, 2), (8, 8, 2), (8, 4, 4)):
            panel.state = (
                f"exchange?model_name={name}&nodes={nodes}&devices_per_node={each}"
                f"&node_limit={limit}"
            )
            assert said(panel).startswith(name), said(panel)


def test_without_skew_the_exchange_is_what_it_was():
    panel = panels.Exchange()
    panel.state = "exchange?skew=0.0&node_limit=4"
    limited = content(panel)
    panel.controls["skew"].value = 0.5
    assert "any node" in panel.picture.value
    panel.controls["skew"].value = 0.0
    assert content(panel) == limited


def test_a_sentence_keeps_the_room_of_the_longest():
    panel, rooms = panels.DecodeBatch(), []
    for batch in (1, 16384, 64, 256):
        panel.controls["batch"].value = batch
        rooms.append(len(re.search('data-room="([^"]*)"', panel.status.value)[1]))
        assert rooms[-1] > len(said(panel))
    assert rooms == sorted(rooms) and rooms[-1] < 400


def test_the_years_are_played_to_the_last(monkeypatch):
    monkeypatch.setattr(player, "STEP_SECONDS", 0.02)
    panel = panels.ModelMap()
    press(panel, "play")
    wait(lambda: not panel.busy, "the last year")
    assert panel.values["until"] == LAST_YEAR and f"sparse one of {LAST_YEAR}" in said(panel)


# Anatomy.


def test_a_pasted_config_is_shown_at_once():
    panel = panels.ModelAnatomy()
    panel.controls["config"].value = CONFIG.replace('layers": 48', 'layers": 24')
    assert panel.controls["beside"].value == YOURS
    assert "qwen3_moe: 15.6B parameters" in said(panel)
    assert "config=" in panel.state
    panel.controls["beside"].value = "GPT-3 175B"
    assert "config=" not in panel.state
    own = parameters(model("Qwen3-30B-A3B").architecture).total
    assert parameters(read_config(CONFIG)).total == own


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "This is no JSON, line 1: Expecting value."),
        ("{'a': 1}", "This is no JSON, line 1: Expecting property name"),
        ("[1]", "config must be a JSON object, got list."),
        ('{"model_type": "<b>gpt9</b>"}', "model_type '<b>gpt9</b>' is not known; known are"),
        ('{"model_type": "mixtral"}', "mixtral: "),
        (CONFIG.replace('experts": 128', 'experts": -1'), "experts must be a whole number"),
        (CONFIG[:-1] + ', "moe_latent_size": 64}', "moe_latent_size"),
        ("[" * 50_000, "This is no config.json: it is nested too deeply."),
        (" " * 100_001, "A config.json has at most 100,000 characters here."),
    ],
)
def test_a_config_that_cannot_be_read_becomes_a_sentence(text, sentence):
    panel = panels.ModelAnatomy(beside=YOURS)
    old = panel.picture.value
    panel.controls["config"].value = text
    assert sentence in said(panel) and "unexpected" not in panel.status.value
    assert "<b>" not in panel.status.value and panel.picture.value == old
    panel.controls["config"].value = CONFIG
    assert "qwen3_moe" in said(panel)


# Training.


def test_the_published_setting_gives_the_published_hours():
    panel, given = panels.TrainingCost(), {}
    for name in COMPARED:
        if setting := published_setting(name):
            panel.state = f"training_cost?{urlencode({'model': name, **setting})}"
            model, trillions, mfu, price, chip, _, watts, pue = panel.values.values()
            assumed = dict(usd_per_hour=price, watts=watts, pue=pue)
            own = bill_of(model, tokens=trillions * 1e12, device=chip, mfu=mfu, **assumed)
            given[name] = own.device_hours / MODELS[name].device_hours.value
    assert list(given) == ["Llama 3.1 405B", "DeepSeek-V3 / R1"]
    assert list(given.values()) == pytest.approx([1, 1], abs=0.02)
    llama = {"model": "Llama 3.1 405B", **published_setting("Llama 3.1 405B")}
    assert llama in panel.presets.values()


# The ledger.


def test_a_verdict_moves_with_what_it_assumes_and_comes_back():
    panel = panels.Claims("unselected_not_loaded")
    assert ": inaccurate; " in said(panel)
    panel.controls["first"].value = 1
    assert ": holds; " in said(panel)
    press(panel, "reset")
    assert ": inaccurate; " in said(panel) and panel.controls["first"].value == 32


def test_every_claim_offers_its_own_sliders_and_no_more():
    panel = panels.Claims()
    for name, claim in CLAIMS.items():
        panel.controls["claim"].value = name
        sliders = [panel.controls[slider] for slider in ("first", "second", "third")]
        values = [slider.value for slider in sliders if slider.layout.visibility == "visible"]
        assert values == [a.value for a in claim.assumptions]
        assert claim.text in said(panel) and "unexpected" not in panel.status.value


def pressed(panel, name):
    """What the marks of the picture set this control to."""
    return [value for _, sets in presses(panel.drawn) if (value := sets.get(name))]


def test_its_strips_have_every_value_of_its_sliders():
    panel = panels.Claims("gpt4_sizes")
    for name in SLIDERS:
        assert pressed(panel, name) == [str(value) for value in values_of(panel.controls[name])]


def test_every_claim_is_listed_under_its_verdict_in_its_own_words():
    panel, listed = panels.Claims(), []
    for first in pressed(panel, "claim")[: len(VERDICTS)]:  # of each verdict
        panel.controls["claim"].value = first
        chips, lines = pressed(panel, "claim")[:4], pressed(panel, "claim")[4:]
        assert lines[0] == first in chips
        words = " ".join(texts(panel.drawn))
        assert all(CLAIMS[name].text in words for name in lines), "whole, over lines"
        listed += lines
    assert sorted(listed) == sorted(CLAIMS)


def test_the_list_stays_under_the_pointer():
    panel, rooms = panels.Claims(), set()
    for name in CLAIMS:
        panel.controls["claim"].value = name
        rooms.add(len(re.search('data-room="([^"]*)"', panel.status.value)[1]))
    assert len(rooms) == 1
    panel.controls["claim"].value = "v3_cost"
    before = pressed(panel, "claim")
    panel.controls["first"].value = 30
    assert ": holds; " not in said(panel) and pressed(panel, "claim") == before, "of its own"


def test_a_state_of_another_claim_is_taken_over_or_refused_as_a_whole():
    panel = panels.Claims("unselected_not_loaded")
    panel.controls["first"].value = 1
    before = everything(panel)
    for state in ("claims?claim=v3_cost&first=7777", "claims?claim=never&first=3"):
        with pytest.raises(ValueError, match="must be one of"):
            panel.state = state
        assert everything(panel) == before
    panel.state = "claims?claim=v3_cost&first=3"
    assert "$8.36M" in said(panel) and panel.controls["second"].layout.visibility == "hidden"
    panel.state_box.value = before[1]
    assert everything(panel) == before
