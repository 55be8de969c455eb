"""Back, Next and Play of the panels that are looked at step by step."""

import threading

import pytest

from helpers.live import wait
from helpers.panels import LOUD, exhibit, find, press, said
from helpers.patience import PATIENCE
from moeviz.panels import player
from moeviz.panels.controls import whole_slider

pytestmark = LOUD


class Pace:
    """So many steps fast and no more, the first when it is `open`: nothing hangs on how busy the
    machine is."""

    def __init__(self):
        self.left, self.open = 10**6, threading.Event()
        self.open.set()

    def __call__(self, step):
        assert self.open.wait(PATIENCE)
        self.left -= 1
        return 0.005 if self.left >= 0 else 60


@pytest.fixture
def pace(monkeypatch):
    made = Pace()
    monkeypatch.setattr(player, "seconds_of", made)
    return made


@pytest.fixture(params=["Dispatch", "Exchange", "InsideLayer", "RuleSteps", "Slots", "TileWalk"])
def panel(request, pace):
    panel = exhibit(request.param)()
    panel.controls["step"].value = panel.controls["step"].min
    yield panel
    panel.close()


def play(panel):
    return find(panel, "play")


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


def test_play_goes_on_by_itself_until_it_is_paused(panel, pace):
    step, first, pace.left = panel.controls["step"], panel.controls["step"].value, 2
    press(panel, "play")
    assert panel.busy and play(panel).description == player.PAUSE
    wait(lambda: step.value == first + 2, "two steps")
    press(panel, "play")
    wait(lambda: not panel.busy, "its thread's end")
    assert step.value == first + 2 < step.max
    assert play(panel).description == player.PLAY and panel.drawn.summary in said(panel)


def test_at_the_end_play_is_no_longer_pressed_and_begins_again(panel, pace):
    step = panel.controls["step"]
    step.value = step.max - 1
    press(panel, "play")
    wait(lambda: not panel.busy, "the end")
    assert step.value == step.max and not play(panel).value
    pace.left = 0
    press(panel, "play")
    assert step.value == step.min


def test_a_step_by_hand_pauses_it(panel, pace):
    pace.left = 0
    press(panel, "play")
    press(panel, "next")
    wait(lambda: not panel.busy, "its thread's end")
    assert not play(panel).value


def test_played_on_and_off_it_is_one_play(panel, pace):
    step, seen = panel.controls["step"], []
    step.value = first = max(step.min, step.max - 6)
    step.observe(lambda change: seen.append(change["new"]), "value")
    pace.open.clear()
    for _ in range(5):
        press(panel, "play")
    pace.open.set()
    wait(lambda: not panel.busy, "the end")
    assert seen == [*range(first + 1, step.max + 1)]


def test_many_steps_go_by_faster():
    few, many = (whole_slider("Step", 0, last, 0) for last in (10, 400))
    assert player.seconds_of(few) == player.STEP_SECONDS
    assert 400 * player.seconds_of(many) == pytest.approx(player.PLAY_SECONDS)
