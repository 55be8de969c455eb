"""A cell that runs again closes the panels that it made before, and nothing of them stays."""

import gc
import threading
from collections import Counter
from functools import partial

import ipywidgets
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from helpers.live import live_threads, obey, play, step
from helpers.panels import LOUD, exhibit, family, press, said
from helpers.patience import PATIENCE
from moeviz import panels
from moeviz.panels import cell, player
from moeviz.panels.base import Panel

pytestmark = [*LOUD, pytest.mark.usefixtures("fresh_kernel")]
JUPYTERLAB, COLAB = (lambda name: {"cellId": name}), (lambda name: {"colab": {"cell_id": name}})
RERUNS = 6
# All widgets on the page, where ipywidgets 8 and 7 keep them.
MODULE = ipywidgets.widgets.widget
INSTANCES = MODULE._instances if hasattr(MODULE, "_instances") else ipywidgets.Widget.widgets


class Shell(InteractiveShell):
    """A kernel's IPython, which knows the message that it answers."""

    def __init__(self, metadata):
        config = Config()
        config.HistoryManager.enabled = False
        super().__init__(config=config)
        self.metadata, self.answered = metadata, {}

    def get_parent(self):
        return self.answered

    def run(self, name, make):
        """Run the cell of this name, which shows what it makes."""
        number = str(self.execution_count)
        self.answered = {"header": {"msg_id": number}, "metadata": self.metadata(name)}
        self.user_ns["make"] = make
        ran = self.run_cell("make()", store_history=True)
        self.answered = {}
        ran.raise_error()
        return ran.result


@pytest.fixture(params=[JUPYTERLAB, COLAB], ids=["JupyterLab", "Colab"])
def shell(request, monkeypatch):
    made = Shell(request.param)
    monkeypatch.setattr(cell, "_shell", lambda: made)
    monkeypatch.setattr(cell, "_made", {})
    return made


def shown(panel):
    return panel.comm is not None


def test_its_own_panels_of_before_are_closed_and_no_others(shell):
    first = shell.run("a", lambda: [panels.TileWaste(), panels.TileWaste()])
    other = shell.run("b", panels.TileWaste)
    outside = panels.TileWaste()  # made by a button, say: in no cell
    assert all(map(shown, [*first, other, outside]))
    second = shell.run("a", panels.TileWaste)
    assert all(map(shown, [second, other, outside]))
    assert not any(w.comm for panel in first for w in family(panel))
    first[0].close()  # twice is once
    again = shell.run("a", panels.ModelMap)
    assert shown(again) and not shown(second)


def test_without_the_name_of_a_cell_nothing_is_closed(shell):
    shell.metadata = lambda name: {}
    both = [shell.run("a", panels.TileWaste) for _ in range(2)]
    assert all(map(shown, both))


def count():
    """What cells show, widgets on the page, threads."""
    gc.collect()
    shown = (Panel, panels.Predict, panels.Outcome)
    kinds = Counter(map(type, gc.get_objects()))
    return (
        sum(number for kind, number in kinds.items() if issubclass(kind, shown)),
        len(INSTANCES),
        threading.active_count(),
    )


EXHIBITS = ["Race", "Collapse", "CompareRouters", "Dispatch", "Contenders"]


@pytest.mark.parametrize("name", [*EXHIBITS, "Predict", "Outcome"])
def test_reruns_leave_nothing_behind(name, shell):
    kind = exhibit(name) if name in EXHIBITS else partial(getattr(panels, name), "01.step")
    for _ in range(2):
        shell.run("a", kind)
    for _ in range(3):
        shell.run("b", lambda: 1)  # _, __ and ___ are of it
    before = count()
    for _ in range(RERUNS):
        panel = shell.run("a", kind)
    for _ in range(3):
        shell.run("b", lambda: 1)
    assert count() == before and shown(panel)
    assert [v for v in shell.user_ns["_oh"].values() if v != 1] == [panel]


def test_a_run_goes_on_in_the_panel_of_the_cell_made_anew(shell, track):
    first = shell.run("a", panels.Race)
    play(first, 3)
    for _ in range(RERUNS):
        panel = shell.run("a", panels.Race)
    assert len(live_threads()) == 1
    play(panel, panel.run.frame.learners[0].step + 3)
    obey(panel, "pause", "Paused.")
    step(panel)
    assert not shown(first) and "One step done." in said(panel)


def test_a_measurement_and_a_play_end_with_their_panel(shell, monkeypatch):
    from moeviz.experiments import backends_timed

    def endless(num_experts, *, on_turn):
        while on_turn(1, 2):
            pass
        raise backends_timed.Stopped

    monkeypatch.setattr(backends_timed, "contest", endless)
    monkeypatch.setattr(player, "seconds_of", lambda step: 60)
    for name, button in (("Contenders", "run"), ("Dispatch", "play"), ("RuleSteps", "play")):
        panel = shell.run(name, exhibit(name))
        press(panel, button)
        assert panel.busy
        shell.run(name, exhibit(name))
        for thread in threading.enumerate():
            if thread.name.startswith("moeviz-"):
                thread.join(PATIENCE)
        assert not panel.busy
