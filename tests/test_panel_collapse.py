"""The collapse panel, driven without a browser: switches, refusals, runs, killed experts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import moeviz.experiments.collapse
import moeviz.training.live
from helpers.live import end_of_kernel, settle, wait
from helpers.panels import LOUD, check_at_rest, drawn, press, said
from moeviz import panels
from moeviz.experiments.cures import ARMS, Cures, cures_of, name_of, recorded
from moeviz.host import autosave_folder
from moeviz.model.transformer import ModelConfig
from moeviz.panels import predict
from moeviz.panels.training.collapse import Collapse
from moeviz.training.trainer import TrainConfig

pytestmark = [*LOUD, pytest.mark.usefixtures("fresh_kernel")]
EXCLUDED = "The hash router balances in its own way: it takes no balancing loss and no bias"


@pytest.fixture
def track(monkeypatch, corpus):
    """Small models under the same cures, on a text of few words."""
    track = SimpleNamespace(steps=10**6, validate_every=0)  # what a test may change
    whole = moeviz.experiments.collapse.collapse_model

    def model(cures):
        return ModelConfig(
            vocab_size=300, d_model=8, num_layers=2, num_heads=2, moe=whole(cures).moe
        )

    def training(cures, seed, steps=0):
        return TrainConfig(
            steps=track.steps, seed=seed, batch_size=4, seq_len=16, schedule="constant",
            balance_weight=cures.aux, z_weight=cures.z, validate_every=track.validate_every,
            warmup=0,
        )  # fmt: skip

    monkeypatch.setattr("moeviz.experiments.collapse.load_corpus", lambda: corpus)
    monkeypatch.setattr("moeviz.experiments.collapse.collapse_model", model)
    monkeypatch.setattr("moeviz.experiments.collapse.collapse_training", training)
    monkeypatch.setattr(moeviz.training.live, "PUBLISH_SECONDS", 0.01)
    return track


def texts(panel):
    return [t.text for t in drawn(panel).iter("{http://www.w3.org/2000/svg}text")]


def trainer():
    return (Collapse.run._learners or {}).get("MoE")


def wait_step(step):
    wait(lambda: trainer() is not None and trainer().step >= step, f"step {step}")


def pause(panel):
    press(panel, "pause")
    settle(Collapse)
    assert Collapse.run.frame.status in ("paused", "ready")


# Opening and switches.


def test_nothing_moves_by_itself_on_opening():
    panel = panels.Collapse()
    check_at_rest(panel)
    assert Collapse.run is None and said(panel).startswith("Recorded run. Press Play")
    assert "recorded, not live" in texts(panel)[0]


def set_to(panel, cures, seed=0):
    panel._set_controls_to((cures, seed))
    panel.changed()


@pytest.mark.parametrize("arm", ARMS)
def test_the_switches_of_every_recorded_arm_show_its_recording(arm):
    panel = panels.Collapse()
    set_to(panel, ARMS[arm])
    assert texts(panel)[0].startswith("recorded, not live")
    label = f"{arm}, seed 0"
    assert panel.drawn.rows[0][0] == label and panel.drawn.summary.startswith(label)
    beside = {row[0] for row in panel.drawn.rows} - {label}
    assert beside == (set() if arm == "nothing" else {"dashed: nothing, seed 0"})


def test_what_is_not_recorded_says_so_and_keeps_the_comparison():
    panel = panels.Collapse()
    panel.controls["z"].value = True
    panel.controls["bias"].value = "sign"
    assert texts(panel)[0] == "not recorded: Play trains it here"
    assert said(panel) == "This setting is not recorded. Press Play to train it here."
    assert panel.drawn.summary.startswith("z-loss 0.001 + sign bias, seed 0: no step has been")
    assert {row[0] for row in panel.drawn.rows} == {"dashed: nothing, seed 0"}
    panel.controls["seed"].value = 9999
    assert panel.drawn.rows == ()


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("collapse?router=hash&bias=sign", EXCLUDED),
        ("collapse?seed=3&router=hash&z=True", "A hash has no scores"),
        ("collapse?aux=0.1&router=sinkhorn", "The sinkhorn router balances in its own way"),
        ("collapse?aux=0.5", "aux must be one of 0.0, 0.01, 0.1, got '0.5'"),
        ("collapse?z=yes", "z must be True or False"),
        ("race?seed=1", "begin with 'collapse?'"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(state, sentence):
    panel = panels.Collapse()
    panel.controls["bias"].value = (
        "quantile" if "bias" not in state and "aux" not in state else "none"
    )  # noqa: E501
    before = (panel.picture.value, panel.state)
    if "router" in state and panel.controls["bias"].value != "none":
        sentence = EXCLUDED
    panel.state_box.value = state
    assert sentence in said(panel) and "unexpected" not in panel.status.value
    assert (
        (panel.picture.value, panel.state) == before == (panel.picture.value, panel.state_box.value)
    )  # noqa: E501
    with pytest.raises(ValueError):
        panel.state = state


@pytest.mark.parametrize(
    ("first", "then", "sentence"),
    [
        (("bias", "sign"), ("router", "hash"), EXCLUDED),
        (("aux", 0.01), ("router", "expert_choice"), "The expert choice router balances in its"),
        (("router", "hash"), ("noise", 1.0), "A hash has no scores"),
        (("router", "hash"), ("learning", "frozen"), "A hash has no scores"),
        (("router", "sinkhorn"), ("bias", "quantile"), "The sinkhorn router balances in its own"),
    ],
)
def test_what_excludes_each_other_is_refused_while_it_trains_and_nothing_is_lost(
    first, then, sentence, track
):
    panel = panels.Collapse()
    panel.controls[first[0]].value = first[1]
    press(panel, "play")
    wait_step(3)
    going, old = trainer(), panel.controls[then[0]].value
    panel.controls[then[0]].value = then[1]
    assert sentence in said(panel)
    assert panel.controls[then[0]].value == old and panel.state_box.value == panel.state
    wait_step(going.step + 20)
    assert sentence in said(panel), "the next frame wipes the refusal away"
    assert trainer() is going and "unexpected" not in panel.status.value


def test_the_scope_without_a_balancing_loss_restarts_nothing(track):
    panel = panels.Collapse()
    press(panel, "step")
    settle(Collapse)
    going = trainer()
    panel.controls["scope"].value = "sequence"
    settle(Collapse)
    assert trainer() is going and "which is off: it changes nothing now" in said(panel)
    panel.controls["aux"].value = 0.1
    settle(Collapse)
    assert trainer() is None
    press(panel, "step")
    settle(Collapse)
    assert trainer().model_config.moe.options["scope"] == "sequence"


# Training.


def test_play_pause_step_and_reset(track):
    panel = panels.Collapse()
    press(panel, "play")
    wait_step(5)
    pause(panel)
    stood = trainer().step
    assert said(panel) == "Paused." and texts(panel)[0] == "live"
    press(panel, "step")
    settle(Collapse)
    assert trainer().step == stood + 1
    assert drawn(panel).get("data-state").endswith(f"step={stood + 1}")
    press(panel, "reset")
    press(panel, "step")
    settle(Collapse)
    assert trainer().step == 1


def test_the_timeline_goes_back_while_it_trains(track):
    panel = panels.Collapse()
    press(panel, "play")
    wait_step(30)
    panel.timeline.value = 50
    shown = int(drawn(panel).get("data-state").rpartition("step=")[2])
    assert 0 < shown < trainer().step and "timeline at 50 %" in texts(panel)[0]
    pause(panel)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "nothing"])
def test_a_switch_trains_that_cure_beside_the_run_before(arm, track):
    panel = panels.Collapse()
    press(panel, "step")
    settle(Collapse)
    set_to(panel, ARMS[arm])
    settle(Collapse)
    press(panel, "step")
    settle(Collapse)
    going = trainer()
    config = {"balance_weight": going.config.balance_weight, "z_weight": going.config.z_weight}
    assert cures_of(going.model_config.to_dict(), config) == ARMS[arm]
    assert [row[0] for row in panel.drawn.rows] == [f"{arm}, seed 0", "dashed: nothing, seed 0"]
    assert [row[1] for row in panel.drawn.rows] == [1, 1], "the live run before, not the recorded"


def test_a_second_panel_takes_the_run_over(track):
    first = panels.Collapse()
    set_to(first, Cures(aux=0.1, shared=True), seed=3)
    press(first, "step")
    settle(Collapse)
    second = panels.Collapse()
    assert said(second).startswith("This run was going on already.")
    assert second._configuration() == (Cures(aux=0.1, shared=True), 3)
    press(second, "step")
    settle(Collapse)
    assert trainer().step == 2 and second.drawn.rows[0][1] == 2


# Killing.


def load_of(layer, expert):
    return trainer().history.curve().load[:, layer, expert]


@pytest.mark.parametrize("layer", [0, 1])
def test_the_busiest_expert_of_the_layer_shown_is_killed_while_it_trains(layer, track):
    panel = panels.Collapse()
    panel.controls["layer"].value = layer
    press(panel, "play")
    wait_step(10)
    press(panel, "kill-busiest")
    settle(Collapse)
    ((step, at_layer, expert),) = Collapse._killed
    wait_step(step + 5)
    pause(panel)
    assert at_layer == layer and trainer().killed == [(layer, expert)]
    load = load_of(layer, expert)
    assert (load[step:] == 0).all() and load[step - 1] > 0
    curve = trainer().history.curve().load[:step, layer]
    assert expert == curve[-30:].mean(0).argmax()
    assert said(panel) == f"Paused. Killed: expert {expert} (layer {layer}, step {step})."
    assert f"✕ expert {expert}" in texts(panel)
    panel.controls["layer"].value = 1 - layer
    assert f"✕ expert {expert}" not in texts(panel), "the mark is the killed expert's layer's"
    panel.controls["layer"].value = layer
    panel.timeline.value = 1
    assert f"✕ expert {expert}" not in texts(panel), "not dead yet"


def test_a_chosen_expert_is_killed_while_paused_and_only_once(track):
    panel = panels.Collapse()
    press(panel, "step")
    settle(Collapse)
    panel.victim.value = 7
    press(panel, "kill")
    settle(Collapse)
    assert said(panel) == "Expert 7 of layer 1 gets no token from step 2 on."
    press(panel, "kill")
    settle(Collapse)
    assert said(panel).startswith("Expert 7 of layer 1 is dead already.")
    assert Collapse._killed == [(1, 1, 7)] and Collapse.run.frame.status == "paused"
    for _ in range(3):
        press(panel, "step")
    settle(Collapse)
    assert (load_of(1, 7)[1:] == 0).all()
    press(panel, "reset")
    press(panel, "step")
    settle(Collapse)
    assert panel.drawn.rows[-1][0] == "dashed: nothing, seed 0, expert 7 killed"
    assert Collapse._killed == [] and not any(t.startswith("✕") for t in texts(panel))


@pytest.mark.parametrize(
    ("router", "sentence"),
    [("hash", "no gate to take"), ("expert_choice", "none can be"), ("sinkhorn", "none can be")],
)
def test_where_no_expert_can_die_it_is_said(router, sentence, track):
    panel = panels.Collapse()
    panel.controls["router"].value = router
    press(panel, "step")
    settle(Collapse)
    press(panel, "kill-busiest")
    settle(Collapse)
    assert sentence in said(panel) and Collapse._killed == [] == trainer().killed


@pytest.mark.parametrize(
    "arm",
    [a for a, c in ARMS.items() if c.router == "token_choice" and not c.z and not c.noise],
)
def test_under_every_other_cure_a_killed_expert_gets_nothing(arm, track):
    panel = panels.Collapse()
    set_to(panel, ARMS[arm])
    press(panel, "step")
    settle(Collapse)
    press(panel, "kill-busiest")
    for _ in range(4):
        press(panel, "step")
    settle(Collapse)
    ((step, _, expert),) = Collapse._killed
    assert step == 1 and (load_of(1, expert)[1:] == 0).all()


def test_before_anything_trains_nothing_can_be_killed():
    panel = panels.Collapse()
    press(panel, "kill-busiest")
    assert said(panel).startswith("Nothing trains yet") and Collapse.run is None


def test_a_finished_run_kills_nobody(track):
    track.steps = 3
    panel = panels.Collapse()
    press(panel, "play")
    wait(lambda: Collapse.run and Collapse.run.frame.status == "finished", "the end")
    press(panel, "kill-busiest")
    settle(Collapse)
    assert "This run is finished" in said(panel) and Collapse._killed == []


def test_an_interrupted_run_goes_on_with_its_cures_and_its_dead(track):
    panel = panels.Collapse()
    set_to(panel, Cures(bias="sign", shared=True), seed=2)
    for _ in range(4):
        press(panel, "step")
    press(panel, "kill-busiest")
    settle(Collapse)
    ((step, layer, expert),) = Collapse._killed
    press(panel, "play")
    wait_step(8)
    pause(panel)
    stood = trainer().step
    end_of_kernel(Collapse)
    Collapse._killed = []
    again = panels.Collapse()
    assert said(again).startswith(f"A run interrupted at step {stood} was kept")
    assert again._configuration() == (Cures(bias="sign", shared=True), 2)
    press(again, "step")
    settle(Collapse)
    assert trainer().step == stood + 1 and (load_of(layer, expert)[step:] == 0).all()
    assert Collapse._killed == [(step, layer, expert)]
    assert f"✕ expert {expert}" in texts(again)


@pytest.mark.parametrize("damage", ["cut", "empty", "of a race"])
def test_a_damaged_autosave_is_not_gone_on_from(damage, track):
    panel = panels.Collapse()
    press(panel, "play")
    wait_step(3)
    pause(panel)
    end_of_kernel(Collapse)
    path = autosave_folder("collapse") / "MoE.safetensors"
    data = path.read_bytes()
    path.write_bytes(
        {"cut": data[:-50], "empty": b"", "of a race": data.replace(b"num_shared", b"num_sharks")}[
            damage
        ]
    )
    again = panels.Collapse()
    assert said(again).startswith("Recorded run.") and again._configuration() == (Cures(), 0)
    press(again, "step")
    settle(Collapse)
    assert trainer().step == 1


# The score.


def test_finished_runs_are_scored_and_the_series_goes_on_with_the_next_seed(track):
    track.steps, track.validate_every = 4, 2
    predict.ANSWERS["collapse.survivors"] = "<b>16"
    panel = panels.Collapse()
    panel.series.value = True
    press(panel, "play")
    wait(lambda: len(Collapse._scores) >= 2, "two finished runs")
    panel.series.value = False
    wait(lambda: Collapse.run.frame.status == "finished", "the end of the last")
    settle(Collapse)
    runs = len(Collapse._scores)
    assert list(Collapse._scores) == [(Cures(), seed) for seed in range(runs)]
    told = recorded()["arms"]["nothing"]
    fell = sum(Collapse._scores.values())
    wanted = (
        f"nothing: collapsed in {fell} of {runs} runs here, in {told['collapsed']} of "
        f"{told['runs']} recorded ones."
    )
    assert wanted in panel.score.value
    assert "You predicted, without a cure: &lt;b&gt;16." in panel.score.value
    assert panels.Collapse().score.value == panel.score.value
    assert not list(autosave_folder("collapse").glob("*.safetensors"))


def test_a_run_with_a_killed_expert_is_not_scored(track):
    track.steps = 4
    panel = panels.Collapse()
    press(panel, "step")
    press(panel, "step")
    settle(Collapse)
    press(panel, "kill-busiest")
    press(panel, "play")
    wait(lambda: Collapse.run.frame.status == "finished", "the end")
    settle(Collapse)
    assert Collapse._scores == {}


# What the panel knows of the experiment.


def test_the_names_of_the_arms_are_made_of_their_switches():
    assert [name_of(cures) for cures in ARMS.values()] == list(ARMS)
    both = Cures(aux=0.1, scope="sequence", z=1e-3, shared=True, learning="frozen")
    wanted = "balancing loss 0.1 per sequence + z-loss 0.001 + shared expert + frozen router"
    assert name_of(both) == wanted


@pytest.mark.parametrize("arm", ARMS)
def test_the_cures_are_read_off_a_run(arm):
    from dataclasses import asdict

    made = moeviz.experiments.collapse
    model = made.collapse_model(ARMS[arm]).to_dict()
    train = asdict(made.collapse_training(ARMS[arm], 0))
    assert cures_of(*json.loads(json.dumps([model, train]))) == ARMS[arm]


def test_the_recorded_runs_are_all_there():
    panel = panels.Collapse()
    seeds = {seed for _, seed in panel._recorded}
    assert set(panel._recorded) == {(cures, seed) for cures in ARMS.values() for seed in seeds}
    assert seeds == set(range(recorded()["arms"]["nothing"]["runs"]))
    for run in panel._recorded.values():
        assert len(run.curve) <= 100 and np.isfinite(run.curve.load).all()
