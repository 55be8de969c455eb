"""What is particular to the collapse panel: cures that exclude each other, experts killed."""

import json
import re
import time
from dataclasses import asdict
from urllib.parse import urlencode

import pytest

from helpers.live import (
    interrupt,
    learners,
    note,
    obey,
    play,
    step,
    steps,
    texts,
    trained,
    until,
    wait,
)
from helpers.panels import LOUD, check_refused, drawn, press, said
from moeviz import panels
from moeviz.experiments import collapse
from moeviz.experiments.cures import ARMS, DENSE, Cures, cures_of, name_of
from moeviz.experiments.recorded import recorded_runs
from moeviz.panels import Collapse
from moeviz.pictures.training.balance import standing
from moeviz.records.metrics import collapsed
from moeviz.training.live import LiveRun

pytestmark = [*LOUD, pytest.mark.usefixtures("fresh_kernel")]
NONE_CAN_DIE = {
    "hash": "no gate to take", "expert_choice": "none can be", "sinkhorn": "none can be",
}  # fmt: skip
OTHERS = [arm for arm in ARMS if arm != "nothing"]


def choose(panel, cures, seed=1):
    """Set the switches, as a state does."""
    values = {name: value for name, value in asdict(cures).items() if name in panel.controls}
    panel.state = f"collapse?{urlencode(values | {'z': bool(cures.z), 'seed': seed})}"


def called(arm):
    """An arm's name in the panel."""
    return "no balancing" if arm == "nothing" else arm


def runs_shown(panel):
    return [row[0] for row in panel.drawn.rows]


# Cures.


def test_the_switches_of_every_recorded_arm_show_its_recordings():
    panel = panels.Collapse()
    runs, _ = recorded_runs("collapse")
    ends = {(run.label, run.meta["train"]["seed"]): run.curve.validation[-1] for run in runs}
    for arm, cures in ARMS.items():
        for seed in range(5):
            choose(panel, cures, seed)
            assert note(panel).startswith("recorded, not live")
            assert said(panel) == "A recorded run of this setting. Press Play to train it here."
            label, beside = f"{called(arm)}, seed {seed}", f"dashed: no balancing, seed {seed}"
            assert set(runs_shown(panel)) == ({label, beside} if arm in OTHERS else {label})
            assert panel.drawn.summary.startswith(label) and "nan" not in panel.drawn.svg
            gap = ends[arm, seed] - ends[DENSE, seed]
            apart = f"{abs(gap):.3f} nats per token {'above' if gap > 0 else 'below'} that of"
            assert f"At step 300 its validation loss lies {apart} the" in panel.drawn.summary
            assert panel.drawn.rows[11][-1] == f"{ends[DENSE, seed]:.3f}"


def test_the_presets_show_a_recorded_collapse_and_recorded_cures():
    panel = panels.Collapse()
    for words, fell in zip(panel.presets, (True, False, False), strict=True):
        panel._try(words)
        assert note(panel).startswith("recorded, not live")
        assert collapsed(panel._learners()[0][0].curve) == fell


def test_what_is_not_recorded_says_so_and_keeps_the_comparison():
    panel = panels.Collapse()
    choose(panel, Cures(z=1e-3, bias="sign"))
    assert note(panel) == "not recorded: Play trains it here"
    assert said(panel) == "This setting is not recorded. Press Play to train it here."
    assert panel.drawn.summary.startswith("z-loss 0.001 + sign bias, seed 1: no step has been")
    assert set(runs_shown(panel)) == {"dashed: no balancing, seed 1"}
    assert "dense twin, recorded" in texts(panel)
    panel.controls["seed"].value = 9999
    assert panel.drawn.rows == () and "dense twin" not in panel.drawn.svg


@pytest.mark.parametrize(
    ("first", "then", "sentence"),
    [
        (("bias", "sign"), ("router", "hash"), "The hash router balances in its own way: it takes"),
        (("aux", 0.01), ("router", "expert_choice"), "The expert choice router balances in its"),
        (("router", "hash"), ("noise", 1.0), "A hash has no scores"),
        (("router", "hash"), ("z", True), "A hash has no scores"),
        (("router", "hash"), ("learning", "frozen"), "A hash has no scores"),
        (("router", "sinkhorn"), ("bias", "quantile"), "The sinkhorn router balances in its own"),
    ],
)
def test_what_excludes_each_other_is_refused_and_nothing_is_lost(first, then, sentence, track):
    panel = panels.Collapse()
    check_refused(panel, f"collapse?seed=3&{urlencode([first, then])}", sentence)
    panel.controls[first[0]].value = first[1]
    play(panel, 3)
    panel = panels.Collapse()  # made anew it has the switches of the run that goes on
    run, old = trained(panel), panel.state
    panel.controls[then[0]].value = then[1]
    assert sentence in said(panel) and "unexpected" not in panel.status.value
    assert panel.state == panel.state_box.value == old
    play(panel, steps(Collapse)[0] + 5)
    assert sentence in said(panel), "the next frame wipes the refusal away"
    assert trained(panel) == run


def test_the_scope_without_a_balancing_loss_restarts_nothing(track):
    panel = panels.Collapse()
    step(panel)
    panel.controls["scope"].value = "sequence"
    assert "which is off: it changes nothing now" in said(panel)
    assert step(panel) == [2] and trained(panel) == "no balancing, seed 1"
    panel.controls["aux"].value = 0.1
    until(panel, "Ready.")
    assert step(panel) == [1] and trained(panel) == "balancing loss 0.1 per sequence, seed 1"
    assert "dense twin, recorded" in texts(panel), "beside a live run too"


def test_each_switch_trains_that_cure_beside_the_run_before(track):
    panel = panels.Collapse()
    step(panel)
    for before, arm in zip(ARMS, OTHERS, strict=False):
        choose(panel, ARMS[arm])
        until(panel, "Ready.")
        step(panel)
        # Of the live run before, not of the recorded one: one step.
        assert runs_shown(panel) == [f"{arm}, seed 1", f"dashed: {called(before)}, seed 1"]
        assert [row[1] for row in panel.drawn.rows] == [1, 1]


def test_a_press_on_a_band_or_a_layer_chooses_it():
    panel = panels.Collapse()
    pressed = {m.get("data-press") for m in drawn(panel).iter() if m.get("data-press")}
    assert {"layer=0", "layer=1", "victim=12"} <= pressed
    panel.state_box.value = "collapse?victim=12"
    assert panel.values["victim"] == 12 and "victim=12" in panel.state
    assert said(panel).startswith("Expert 12 is selected: ✕ Kill the selected takes it away")
    panel.state_box.value = "collapse?layer=0"
    assert panel.values["victim"] == 12 and ", layer 0, " in panel.drawn.summary


def test_a_switch_that_ends_a_run_says_so_and_that_it_stays(track, monkeypatch):
    """However fast the thread answers."""
    reset = LiveRun.reset
    monkeypatch.setattr(LiveRun, "reset", lambda run, build: (reset(run, build), time.sleep(0.1)))
    panel = panels.Collapse()
    panel.controls["z"].value = True
    assert "ended" not in said(panel), "nothing has begun"
    step(panel, 2)
    panel.controls["bias"].value = "sign"
    ended = f"the run before ended at step 2 of {track.steps:,} and stays in the picture, dashed."
    assert ended in said(panel)
    until(panel, "Ready.")
    assert ended in said(panel), "the frame wipes it away"


def test_cures_have_the_names_of_their_arms_and_are_read_off_a_run():
    for arm, cures in ARMS.items():
        made = (
            collapse.collapse_model(cures).to_dict(),
            asdict(collapse.collapse_training(cures, 0)),
        )
        assert name_of(cures) == arm and cures_of(*json.loads(json.dumps(made))) == cures
    both = Cures(aux=0.1, scope="sequence", z=1e-3, shared=True, learning="frozen")
    wanted = "balancing loss 0.1 per sequence + z-loss 0.001 + shared expert + frozen router"
    assert name_of(both) == wanted


# Killing.


def load_of(layer, expert):
    return learners(Collapse)[-1].curve.load[:, layer, expert]


def killed(panel):
    """The one expert killed, as it is told while the run goes on: expert, layer, step."""
    told = re.compile(r"Killed: expert (\d+) \(layer (\d), step (\d+)\)\.$")
    wait(lambda: told.search(said(panel)), "who was killed")
    return [int(number) for number in told.search(said(panel)).groups()]


@pytest.mark.parametrize("layer", [0, 1])
def test_the_busiest_expert_of_the_layer_shown_is_killed_while_it_trains(layer, track):
    panel = panels.Collapse()
    panel.controls["layer"].value = layer
    play(panel, 10)
    press(panel, "kill-busiest")
    expert, at_layer, at_step = killed(panel)
    play(panel, at_step + 5)
    obey(panel, "pause", f"Paused. Killed: expert {expert} (layer {layer}, step {at_step}).")
    load_S, mark = load_of(layer, expert), f"✕ expert {expert}"
    assert at_layer == layer and load_S[at_step - 1] > 0 and not load_S[at_step:].any()
    run = learners(Collapse)[-1]
    assert expert == standing(run.at("step", at_step), layer).busiest
    wait(lambda: mark in texts(panel), "the mark")
    panel.controls["layer"].value = 1 - layer
    assert mark not in texts(panel), "it is the killed expert's layer's"
    panel.controls["layer"].value = layer
    panel.timeline.value = 1
    assert mark not in texts(panel), "not dead yet"


def test_a_chosen_expert_is_killed_while_paused_and_only_once(track):
    panel = panels.Collapse()
    step(panel)
    panel.controls["victim"].value = 7
    obey(panel, "kill", "Expert 7 of layer 1 gets no token from step 2 on.")
    obey(panel, "kill", "Expert 7 of layer 1 is dead already.")
    assert step(panel, 3) == [4] and not load_of(1, 7)[1:].any()
    obey(panel, "reset", "Ready.")
    step(panel)
    assert runs_shown(panel) == [
        "no balancing, seed 1",
        "dashed: no balancing, seed 1, expert 7 killed",
    ]
    assert "Killed" not in said(panel) and not any(t.startswith("✕") for t in texts(panel))


@pytest.mark.parametrize("arm", ARMS)
def test_under_every_cure_a_killed_expert_gets_nothing_or_it_is_said_that_none_can_be(arm, track):
    panel = panels.Collapse()
    choose(panel, ARMS[arm])
    step(panel)
    press(panel, "kill-busiest")
    if refusal := NONE_CAN_DIE.get(ARMS[arm].router):
        until(panel, refusal)
        step(panel)
        assert "Killed" not in said(panel)
    else:
        until(panel, "Expert ")
        step(panel, 3)
        expert, layer, at_step = killed(panel)
        load_S = load_of(layer, expert)
        assert (layer, at_step) == (1, 1) and load_S[0] > 0 and not load_S[1:].any()


def test_before_the_first_step_and_after_the_last_nobody_is_killed_and_the_dead_are_not_scored(
    track,
):
    track.steps = 3
    panel = panels.Collapse()
    obey(panel, "kill-busiest", "Nothing trains yet")
    assert Collapse.run is None
    step(panel, 2)
    press(panel, "kill-busiest")
    obey(panel, "play", "Finished. Killed: expert ")
    obey(panel, "kill-busiest", "This run is finished")
    assert said(panel).count("Killed: ") <= 1 and panel.score.value == ""


def test_an_interrupted_run_goes_on_with_its_cures_and_its_dead(track):
    panel = panels.Collapse()
    choose(panel, Cures(bias="sign", shared=True), seed=2)
    step(panel, 4)
    press(panel, "kill-busiest")
    until(panel, "Expert ")
    stood = interrupt(panel, 8)
    expert, layer, at_step = killed(panel)
    again = panels.Collapse()
    assert again.state == panel.state
    obey(again, "step", "One step done. Killed: ")
    # A checkpoint says whom, not when: after the last step that had load for them.
    assert killed(again)[:2] == [expert, layer] and killed(again)[2] <= at_step
    assert steps(Collapse) == [stood[0] + 1]
    assert not load_of(layer, expert)[at_step:].any()
    wait(lambda: f"✕ expert {expert}" in texts(again), "the mark")
