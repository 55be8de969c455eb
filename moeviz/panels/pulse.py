"""What a thread says reaches the page, on hosts too that withhold it.

Google Colab shows nothing that a thread sets until another cell runs (googlecolab/colabtools#3373):
its page hears the kernel only while the kernel answers it. No host is asked for its name; it is
tried whenever a thread is given work:

    a press ──► begin(): the page is told to beat and, by a thread at once, to rest
       it hears both        JupyterLab, Notebook, VS Code: no beat ever comes
       it hears the first   it beats four times a second; each beat is a message, and while the
                            kernel answers it, it sends what threads have left behind
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import ipywidgets as widgets

OURS = "moeviz-"  # so the names begin of the threads that speak through panels
# A page that hears threads may have sent two beats before it heard that it may rest, not three.
PROOF = 3
# Core widgets alone, for Colab has no others by default. A Play would need no script, but the one
# of ipywidgets 7 begins at a click alone. A text box sends no second value before the first is
# answered, so that beats do not pile up while a cell runs; a box that is disabled takes no focus.
BEAT = """\
<img src="data:," alt="" onerror="
    const beat = setInterval(() => {
        if (!this.parentNode) return clearInterval(beat);
        const box = this.closest('.moeviz-pulse')?.querySelector('input');
        if (!box) return;
        box.value = Date.now();
        box.dispatchEvent(new Event('change', {bubbles: true}));
    }, 250)">"""
REST = ""


class Pulse(widgets.HBox):
    """The hidden part of a panel that brings on its page what threads say.

    panel: what threads speak through. busy: whether one has work. whole: held while a thread
    changes what belongs together, a picture and its sentence.
    """

    # Whether threads are withheld here: then they no longer send what a beat would send again.
    withholds: ClassVar[bool] = False

    def __init__(
        self, panel: widgets.Widget, busy: Callable[[], bool], whole: threading.RLock
    ) -> None:
        self._panel, self._busy, self._whole = panel, busy, whole
        self._left: dict[widgets.Widget, set[str]] = {}  # in the order in which it is to be sent
        self._lock = threading.Lock()
        self._beats = 0
        self.script = widgets.HTML()
        self.box = widgets.Text(disabled=True)
        super().__init__([self.script, self.box], layout=widgets.Layout(display="none"))
        self.add_class("moeviz-pulse")
        self.box.observe(lambda _: self._answer(), "value")

    def begin(self) -> None:
        """A thread is about to be given work. One that gives itself more has a pulse."""
        if _is_ours():
            return
        for widget in family(self._panel):
            self._overhear(widget)
        self._beats = 0
        self.script.value = BEAT
        if not Pulse.withholds:
            self._try()

    def _overhear(self, widget: widgets.Widget) -> None:
        """Note what threads send of a widget."""
        if "send_state" in vars(widget):
            return

        def send_state(key: Any = None) -> None:
            if _is_ours():
                names = {key} if isinstance(key, str) else set(widget.keys if key is None else key)
                with self._lock:
                    self._left[widget] = self._left.pop(widget, set()) | names
                if Pulse.withholds:
                    return
            type(widget).send_state(widget, key)

        widget.send_state = send_state

    def _answer(self) -> None:
        """To a beat: what threads have left, and rest where none has work."""
        self._beats += 1
        busy = self._busy()
        if not Pulse.withholds:
            if self._beats < PROOF:
                self._try()
            else:
                Pulse.withholds = True
                self.script.value = BEAT  # for the views that are yet to come
        with self._whole:
            with self._lock:
                left, self._left = self._left, {}
            for widget, names in left.items():
                type(widget).send_state(widget, names)
        if not busy:
            self._rest()

    def _try(self) -> None:
        """Tell the page by a thread to rest: does it hear that?"""
        thread = threading.Thread(target=self._rest, name="trial of the page", daemon=True)
        thread.start()
        thread.join()

    def _rest(self) -> None:
        """Sent again where it was sent before: the page may not have heard it."""
        if self.script.value == REST:
            self.script.send_state("value")
        self.script.value = REST


def family(widget: widgets.Widget) -> list[widgets.Widget]:
    """A widget and all that it holds."""
    return [widget, *(w for child in getattr(widget, "children", ()) for w in family(child))]


def _is_ours() -> bool:
    return threading.current_thread().name.startswith(OURS)
