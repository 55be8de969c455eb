"""A page that hears what Colab's does: of the kernel's messages those that answer its own."""

import itertools
import threading
from types import SimpleNamespace

import comm
import ipywidgets
from ipykernel.comm import Comm

from helpers.patience import wait
from moeviz.panels import pulse
from moeviz.panels.pulse import Pulse, family


class Page:
    """What a page knows of widgets, from the messages that reach it. What other threads than the
    test's send does not, unless it `hears_threads`, and then `late` by so many beats."""

    def __init__(self, *, hears_threads=False, late=0):
        self.states, self.comms = {}, {}
        self.hears_threads, self.late = hears_threads, late
        self.beats = self.withheld = 0
        self._waiting = []  # messages that come late, each with the number of beats until then
        self._clock = itertools.count(1)

    def take(self, comm_id, kind, data):
        if kind == "comm_open":
            self.states[comm_id] = dict(data["state"])
        elif kind == "comm_close":
            self.states.pop(comm_id, None)
        elif data["method"] == "update" and comm_id in self.states:
            self.states[comm_id].update(data["state"])

    def hear(self, kernel_side, kind, data):
        self.comms[kernel_side.comm_id] = kernel_side
        message = kernel_side.comm_id, kind, data
        if threading.current_thread() is threading.main_thread():
            self.take(*message)
        elif not self.hears_threads:
            self.withheld += 1
        elif self.late:
            self._waiting.append([self.late, message])
        else:
            self.take(*message)

    def beat(self):
        """A quarter of a second has gone by."""
        for state in list(self.states.values()):
            if "moeviz-pulse" in state.get("_dom_classes", ()):
                script, box = (self.states[c.removeprefix("IPY_MODEL_")] for c in state["children"])
                if script["value"] == pulse.BEAT:
                    self.beats += 1
                    self._answer(state["children"][1].removeprefix("IPY_MODEL_"))
        self._waiting = [[left - 1, message] for left, message in self._waiting]
        for left, message in self._waiting:
            if left == 0:
                self.take(*message)
        self._waiting = [entry for entry in self._waiting if entry[0] > 0]

    def _answer(self, comm_id):
        value = str(next(self._clock))
        self.states[comm_id]["value"] = value
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        self.comms[comm_id].handle_msg({"content": {"data": data}, "metadata": {}, "buffers": []})

    def until(self, condition, what):
        """Beat until the condition holds, many times as fast as a real page."""
        wait(lambda: condition() or self.beat(), what)

    def of(self, widget):
        """What it shows of a widget."""
        return self.states[widget.comm.comm_id]

    def shows_all(self, panel):
        """Whether all that the panel is made of is shown as the kernel has it."""
        return all(self.of(w) == w.get_state() for w in family(panel) if not in_pulse(w, panel))

    def at_rest(self, panel):
        return self.of(panel.pulse.script)["value"] == pulse.REST

    def settled(self, panel):
        """Go on until no thread has work; then the page has everything and is at rest."""
        self.until(lambda: not panel.busy, "the end of the work")
        if not self.hears_threads:
            self.beat()
        for _ in range(self.late):
            self.beat()
        assert self.shows_all(panel), "something did not reach the page"
        assert self.at_rest(panel), "it beats though nothing is left to do"


class PageComm(Comm):
    """The kernel's end of the line to a page, for all versions of ipywidgets and ipykernel."""

    # What ipywidgets 7 and ipykernel 6.17 do not send or open without.
    kernel = SimpleNamespace(
        shell=None,
        comm_manager=SimpleNamespace(
            register_comm=lambda comm: None, unregister_comm=lambda comm: None
        ),
    )
    page = None

    def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
        self.page.hear(self, msg_type, data)

    _publish_msg = publish_msg


def in_pulse(widget, panel):
    return widget in family(panel.pulse)


def opened_in(page, monkeypatch):
    """From now on widgets are on this page, and nothing is known of its host."""
    kind = type("PageComm", (PageComm,), {"page": page})
    module = ipywidgets.widgets.widget  # of ipywidgets 7, which makes comms itself
    owner, name = (module, "Comm") if hasattr(module, "Comm") else (comm, "create_comm")
    monkeypatch.setattr(owner, name, kind)
    monkeypatch.setattr(Pulse, "withholds", False)
    return page
