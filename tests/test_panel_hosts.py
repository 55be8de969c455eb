"""Panels on hosts whose page does not hear what threads say, and on those whose page does."""

import threading

import pytest

from helpers.hosts import Page, opened_in
from helpers.panels import BEFORE, LIVE, LOUD, MOVES, exhibit, find, press, said, value_for
from helpers.patience import PATIENCE
from moeviz import panels
from moeviz.panels import player, timed_panel
from moeviz.panels.pulse import PROOF, Pulse

pytestmark = [
    *LOUD,
    pytest.mark.usefixtures("fresh_kernel", "dispatches_once"),
    pytest.mark.filterwarnings("ignore:The `ipykernel.comm.Comm` class:DeprecationWarning"),
]
EXHIBITS = [name for name in MOVES if name not in LIVE]
live = pytest.mark.parametrize("kind", [getattr(panels, name) for name in LIVE])


@pytest.fixture
def withholding(monkeypatch):
    """A page that hears what answers its own messages alone."""
    return opened_in(Page(), monkeypatch)


@pytest.fixture
def hearing(monkeypatch):
    """A page that hears everything, as JupyterLab's."""
    page = opened_in(Page(hears_threads=True), monkeypatch)
    yield page
    assert page.beats == 0 and not Pulse.withholds


@pytest.fixture
def a_measurement_of_two_turns(monkeypatch):
    """A measurement that says twice how far it is, and stops."""
    from moeviz.experiments import backends_timed

    def measured(on_turn):
        for turn in range(2):
            on_turn(turn, 2)
        raise backends_timed.Stopped

    monkeypatch.setattr(backends_timed, "contest", lambda _, *, on_turn: measured(on_turn))
    monkeypatch.setattr(backends_timed, "machine", measured)


def step_shown(page, panel):
    """The step in the picture that the page shows."""
    return int(page.of(panel.picture)["value"].partition("step=")[2].partition('"')[0])


def said_on(page, panel):
    return page.of(panel.status)["value"]


def shows_live(page, panel):
    """Whether the page shows the run that trains; before its first step that is a recorded one."""
    return ">live" in page.of(panel.picture)["value"]


def check_trains(page, kind):
    """Its buttons do on the page what they do in the kernel, and a panel made anew goes on."""
    panel = kind()
    press(panel, "play")
    page.until(lambda: shows_live(page, panel), "the live run")
    assert "Training." in said_on(page, panel)
    went = step_shown(page, panel)
    page.until(lambda: step_shown(page, panel) > went, "a later picture")
    again = kind()
    page.until(lambda: shows_live(page, again), "the live run, in the new one")
    went = step_shown(page, again)
    page.until(lambda: step_shown(page, again) > went, "a later picture in the new one")
    press(again, "pause")
    page.until(lambda: "Paused." in said_on(page, again), "Paused.")
    page.settled(again)
    press(again, "step")
    page.until(lambda: "One step done." in said_on(page, again), "One step done.")
    page.settled(again)


@live
def test_a_live_run_moves_where_threads_are_withheld(kind, track, withholding):
    check_trains(withholding, kind)
    assert Pulse.withholds and withholding.withheld > 0
    in_vain = withholding.withheld
    panel = kind()
    press(panel, "play")
    withholding.until(lambda: "Training." in said_on(withholding, panel), "Training.")
    press(panel, "pause")
    withholding.settled(panel)
    assert withholding.withheld == in_vain, "once it is known, threads send nothing"


@live
def test_a_live_run_beats_nowhere_else(kind, track, hearing):
    check_trains(hearing, kind)


@live
def test_a_series_ends_with_its_score_on_the_page(kind, track, withholding):
    track.steps = 3
    panel = kind()
    panel.series.value = True
    panel.controls["seed"].value = panel.controls["seed"].max - 1
    press(panel, "play")
    withholding.until(lambda: "Finished." in said(panel) and not panel.busy, "the last seed")
    withholding.settled(panel)
    assert withholding.of(panel.score)["value"]


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_move_of_every_exhibit_is_seen(name, withholding, unloaded, a_reader, monkeypatch):
    """The model that reads is not loaded yet: it comes on a thread."""
    check_moves(withholding, name)


@pytest.mark.parametrize("name", ["RouteText", "Dispatch", "Slots"])
def test_a_move_beats_nowhere_else(name, hearing, unloaded, a_reader):
    check_moves(hearing, name)


def check_moves(page, name):
    panel = exhibit(name)()
    page.settled(panel)
    for control in MOVES[name]:
        for first, value in BEFORE.get((name, control), {}).items():
            panel.controls[first].value = value
            page.settled(panel)
        panel.controls[control].value = value_for(panel, name, control)
        page.settled(panel)
        assert not said(panel).endswith("…")


@pytest.mark.parametrize("kind", ["Contenders", "Roofline"])
def test_a_measurement_says_on_the_page_how_it_ends(kind, withholding, a_measurement_of_two_turns):
    panel = exhibit(kind)()
    press(panel, "run")
    withholding.settled(panel)
    assert "Stopped: nothing was changed." in said_on(withholding, panel)
    assert panel.controls["machine"].value == timed_panel.HERE


def test_the_way_through_the_kernels_plays_on_the_page(withholding, monkeypatch):
    monkeypatch.setattr(player, "STEP_SECONDS", 0.03)
    panel = exhibit("Dispatch")()
    step = panel.controls["step"]
    step.value = 0
    press(panel, "play")
    withholding.until(lambda: withholding.of(step)["value"] >= 3, "step 3 on the page")
    press(panel, "play")
    withholding.settled(panel)
    step.value = step.max - 2
    press(panel, "play")
    withholding.settled(panel)
    assert withholding.of(step)["value"] == step.max
    assert not withholding.of(find(panel, "play"))["value"], "at the end it looks unpressed"


def test_a_page_that_hears_late_is_not_taken_for_one_that_does_not(monkeypatch):
    """It beats before it has heard that it may rest, and never three times in a row."""
    page = opened_in(Page(hears_threads=True, late=PROOF - 1), monkeypatch)
    panel = exhibit("RouteText")()
    for _ in range(5):
        panel.worker.ask(lambda: None)
        page.until(lambda: page.at_rest(panel) and not panel.busy, "rest")
    assert page.beats > 0 and not Pulse.withholds


def test_what_threads_said_before_the_page_had_a_view_is_sent_with_its_first_beat(withholding):
    panel = exhibit("RouteText")()
    Pulse.withholds = True
    done = threading.Event()
    panel.worker.ask(lambda: (panel.say("The end."), done.set()))
    assert done.wait(PATIENCE)
    withholding.settled(panel)
    assert "The end." in said_on(withholding, panel)
