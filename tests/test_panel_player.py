"""Back, Next and Play of the panels that are looked at step by step."""

import time

import pytest

from helpers.live import wait
from helpers.panels import LOUD, exhibit, find, press, said
from moeviz.panels import player
from moeviz.panels.controls import whole_slider

pytestmark = LOUD


@pytest.fixture(params=["Dispatch", "Exchange", "InsideLayer", "RuleSteps", "Slots", "TileWalk"])
def panel(request, monkeypatch):
    monkeypatch.setattr(player, "STEP_SECONDS", 0.02)
    panel = exhibit(request.param)()
    panel.controls["step"].value = panel.controls["step"].min
    yield panel
    panel.close()


def play(panel):
    return find(panel, "play")


def stands_still(step):
    before = step.value
    time.sleep(0.1)
    return step.value == before


def test_back_and_next_stay_within_the_steps(panel):
    if panel.kind == "inside_layer":
        pytest.skip("Its buttons go from stage to stage.")
    step, ends = panel.controls["step"], [find(panel, name) for name in ("back", "next")]
    press(panel, "back")
    assert step.value == step.min and [end.disabled for end in ends] == [True, False]
    press(panel, "next")
    assert step.value == step.min + 1 and panel.drawn.summary in said(panel)
    assert [end.disabled for end in ends] == [False, False]
    step.value = step.max
    press(panel, "next")
    assert step.value == step.max and [end.disabled for end in ends] == [False, True]


def test_play_goes_on_by_itself_until_it_is_paused(panel, monkeypatch):
    step, first = panel.controls["step"], panel.controls["step"].value
    press(panel, "play")
    assert panel.busy and play(panel).description == player.PAUSE
    wait(lambda: step.value >= first + 2, "two steps")
    monkeypatch.setattr(player, "STEP_SECONDS", 10)  # or it might reach the end meanwhile
    press(panel, "play")
    wait(lambda: not panel.busy, "its thread's end")
    assert stands_still(step) and step.value < step.max
    assert play(panel).description == player.PLAY and panel.drawn.summary in said(panel)


def test_at_the_end_play_is_no_longer_pressed_and_begins_again(panel):
    step = panel.controls["step"]
    step.value = step.max - 1
    press(panel, "play")
    wait(lambda: not panel.busy, "the end")
    assert step.value == step.max and not play(panel).value
    press(panel, "play")
    assert step.value < step.max


def test_a_step_by_hand_pauses_it(panel):
    press(panel, "play")
    press(panel, "next")
    wait(lambda: not panel.busy, "its thread's end")
    assert not play(panel).value and stands_still(panel.controls["step"])


def test_played_on_and_off_it_is_one_play(panel):
    step, seen = panel.controls["step"], []
    step.observe(lambda change: seen.append(change["new"]), "value")
    for _ in range(5):
        press(panel, "play")
    wait(lambda: not panel.busy, "the end")
    assert seen == [*range(step.min + 1, step.max + 1)]


def test_many_steps_go_by_faster():
    few, many = (whole_slider("Step", 0, last, 0) for last in (10, 400))
    assert player.seconds_of(few) == player.STEP_SECONDS
    assert 400 * player.seconds_of(many) == pytest.approx(player.PLAY_SECONDS)
