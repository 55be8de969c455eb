"""The panel of a measured exchange: it opens on a recording, starts processes and ends them."""

import dataclasses
import threading

import pytest

from helpers.live import wait
from helpers.panels import LOUD, at_ease, find, move, press, said
from helpers.pictures import presses, texts
from moeviz import panels
from moeviz.leaving import Stopped
from moeviz.panels.costs import measured_exchange as module
from moeviz.pictures.svg import si

pytestmark = [*LOUD]


class Still:
    """A pool without processes."""

    made = []

    def __init__(self, rank, size):
        self.size, self.ready, self.refuses = size, False, ""
        self.made.append(self)

    def start(self, on_wait):
        assert on_wait(0.0)
        if self.refuses or Still.refusal:
            raise ValueError(Still.refusal)
        if Still.held is not None:
            while not Still.held.wait(0.01):
                if not on_wait(1.0):
                    raise Stopped
        self.ready = True

    def end(self):
        self.ready = False


@pytest.fixture
def still(monkeypatch):
    """Settings that were measured, on processes that are none."""
    Still.made, Still.refusal, Still.held = [], "", None
    asked = []

    def step(pool, setting, passes, on_wait):
        if not pool.ready:
            raise ValueError("Process 1 of 2 has ended (killed by signal 9), and so on.")
        asked.append((pool.size, *setting.values()))
        exchanged, _ = RECORDED._recorded(pool.size)
        return dataclasses.replace(exchanged, travel=exchanged.travel * 0 + 1e-3)

    monkeypatch.setattr(module, "Pool", Still)
    monkeypatch.setattr(module, "fit", lambda pool, on_wait: RECORDED.lines[pool.size])
    monkeypatch.setattr(module, "step", step)
    return asked


RECORDED = panels.MeasuredExchange()


def at_rest(panel):
    wait(lambda: not panel.busy, "rest")
    return at_ease(panel)


def test_a_press_starts_processes_and_changes_are_measured_on_them_once(still):
    panel = panels.MeasuredExchange()
    run = find(panel, "run")
    assert run.description == "▶ Start 2 processes" and "recorded: " in panel.picture.value
    press(panel, "run")
    at_rest(panel)
    assert panel.values["figures"] == "this machine" and run.description == "↻ Measure again"
    assert still == [(2, 512, 0.0, 0.0, 0, "expert")]
    assert "measured here, in 2 processes" in texts(panel.drawn)
    assert "6 exchanges take 6 ms" in said(panel)
    at_rest(move(panel, "skew", 2.0))
    panel._try("One copy, one process")
    at_rest(panel)
    assert panel.values["figures"] == "this machine", "a preset stays with these processes"
    at_rest(move(panel, "whole", True))
    assert still[1:] == [(2, 512, 2.0, 0.0, 0, "expert"), (2, 512, 0.0, 0.0, 1, "device")]
    panel._try("Popular experts")
    at_rest(panel)
    assert len(still) == 3, "what was measured is not measured again"
    press(panel, "run")
    at_rest(panel)
    assert len(still) == 4 and len(Still.made) == 1, "unless it is asked for, on the same processes"
    panel.close()
    assert not Still.made[0].ready


def test_other_processes_are_started_anew_and_stop_ends_them(still):
    panel = panels.MeasuredExchange()
    press(panel, "run")
    at_rest(panel)
    at_rest(move(panel, "processes", 4))
    assert find(panel, "run").description == "▶ Start 4 processes" and Still.made[0].ready
    assert any("press ▶ Start 4 processes" in text for text in texts(panel.drawn))
    press(panel, "run")
    at_rest(panel)
    assert [pool.ready for pool in Still.made] == [False, True] and still[-1][0] == 4
    press(panel, "stop")
    assert said(panel) == "The processes have ended." and not Still.made[1].ready
    assert find(panel, "run").description == "▶ Start 4 processes"
    assert "recorded: " in panel.picture.value


def test_a_start_is_told_and_can_be_stopped_or_refused_and_tried_again(still):
    panel = panels.MeasuredExchange()
    Still.held = threading.Event()
    press(panel, "run")
    wait(lambda: "1 s so far…" in said(panel), "the seconds")
    assert said(panel).startswith("Starting 2 processes (takes ")
    at_ = panel.picture.value
    panel.controls["skew"].value = 2.0
    assert panel.picture.value != at_ and "so far…" in said(panel), "recordings can be looked at"
    press(panel, "stop")
    at_rest(panel)
    assert said(panel) == "The processes have ended." and not still
    Still.held, Still.refusal = None, "4 processes need memory."
    press(panel, "run")
    at_rest(panel)
    assert said(panel) == "4 processes need memory."
    Still.refusal = ""
    press(panel, "run")
    at_rest(panel)
    assert still == [(2, 512, 2.0, 0.0, 0, "expert")]


def chosen_by(panel):
    """What the marks of its picture set, each value once."""
    return {int(sets["exchange"]) for _, sets in presses(panel.drawn)}


def test_a_pressed_exchange_is_shown_alone_and_a_pressed_cell_shows_all(still):
    panel = panels.MeasuredExchange()
    assert chosen_by(panel) == {*range(7)}
    found, line = panel._recorded(2)
    move(panel, "exchange", 4)  # layer 1 combine
    shown = texts(panel.drawn)
    assert f"{found.sent[3, 0, 1]:,} B" in shown and f"{found.sent[3, 1, 0]:,} B" in shown
    assert "to the tokens of process" in shown
    told = f"Layer 1 combine: {si(float(found.crossed[3].sum()), 'B')} cross in "
    assert said(panel).split(". ")[-1].startswith(told) and any(told in text for text in shown)
    assert f"predicted {1e3 * found.predicted(line)[3]:.3g} ms." in said(panel)
    move(panel, "exchange", 3)
    assert "to the experts of process" in texts(panel.drawn)
    assert not still, "nothing is measured for it"


def test_an_exchange_of_the_backward_pass_goes_with_it():
    panel = panels.MeasuredExchange()
    panel.state = "measured_exchange?exchange=9&whole=True"
    assert chosen_by(panel) == {*range(13)} and "its gradient: " in said(panel)
    assert panels.MeasuredExchange(state=panel.state).state == panel.state
    move(panel, "whole", False)
    assert panel.values["exchange"] == 0 and panel.controls["exchange"].max == 6
    assert chosen_by(panel) == {*range(7)}


def test_processes_that_have_ended_are_told_and_the_recording_is_shown(still):
    panel = panels.MeasuredExchange()
    press(panel, "run")
    at_rest(panel)
    Still.made[0].end()
    at_rest(move(panel, "skew", 1.0))
    assert any("press ▶ Start 2 processes" in text for text in texts(panel.drawn))
    assert find(panel, "run").description == "▶ Start 2 processes"
