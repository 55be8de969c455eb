"""What every panel has: controls, a picture, one status sentence, a table twin, a state string.

Only what ipywidgets 7.7 and 8.1 share is used here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, ClassVar

import ipywidgets as widgets

from moeviz.panels import cell
from moeviz.panels.bundle import view_bundle
from moeviz.panels.controls import behind_more, explain, is_text, switch, try_row
from moeviz.panels.page import page
from moeviz.panels.player import Player
from moeviz.panels.pulse import OURS, Pulse
from moeviz.panels.state import opens_by_state, parsed, read, written
from moeviz.panels.take_away import TakeAway
from moeviz.panels.worker import Worker
from moeviz.pictures import Picture
from moeviz.pictures.static import with_still
from moeviz.pictures.svg import PAGE_INK
from moeviz.pictures.table import Table

log = logging.getLogger("moeviz")

# In letters: for a sentence the most room that is kept, and what is added to the longest one.
MOST_ROOM, AIR = 300, 12

Row = dict[str, widgets.Widget] | Sequence[dict[str, widgets.Widget] | widgets.Widget]


class Panel(widgets.VBox):
    """An exhibit. A subclass names its controls and its picture; the rest is here.

    kind: the name in state strings, which is the file's. draws: the picture of all control values,
    each by its name; a panel that draws otherwise overrides draw().
    presets: what to try, each a button: control values by the words on it.
    rows: what stands above the picture. A widget under a name is a control: the values of all
    controls make up the state, each is of the CSS class moeviz-NAME, and a change of any redraws.
    more: further rows, which a button "More" shows.
    Every panel also opens on a state: Race(state="race?experts=4").
    """

    kind: ClassVar[str]
    draws: ClassVar[Callable[..., Picture]]
    presets: dict[str, dict[str, Any]] = {}
    player: Player | None = None  # of a panel that is looked at step by step
    told_in_picture = False  # whether the sentence repeats what is to be read in the picture

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.kind = cls.__module__.rpartition(".")[2]
        if "__init__" in vars(cls):
            cls.__init__ = opens_by_state(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, *rows: Row, more: Sequence[Row] = ()) -> None:
        self.controls: dict[str, widgets.Widget] = {}
        self._lock = threading.RLock()
        self.pulse = Pulse(self, lambda: self.busy, self._lock)
        self.worker = Worker(f"{OURS}{self.kind}", self.guarded, self.pulse)
        self.drawn: Picture | None = None
        self._quiet = False
        self._hidden: set[str] = set()  # the controls behind "More"
        self._room = 0  # letters of the longest sentence
        self.picture = widgets.HTML().add_class("moeviz-picture")
        self.status = widgets.HTML().add_class("moeviz-status")
        self.table = widgets.HTML().add_class("moeviz-table")
        self.show_table = switch("Show as a table").add_class("moeviz-show-table")
        self.show_table.layout.width = "auto"
        self.take_away = TakeAway(self.kind, self._reopen)
        self.state_box = self.take_away.state_box
        bars = [try_row(self.presets, self._try)] if self.presets else []
        bars += self._bars(rows)
        if more:
            shown = {*self.controls}
            self._more, rest = behind_more(self._bars(more))
            self._hidden = {*self.controls} - shown
            bars += [self._more, rest]
        under = [self._bar([self.show_table, self.take_away.press]), self.take_away, self.table]
        super().__init__([page(), *bars, self.status, self.picture, *under, self.pulse])
        self.add_class("moeviz-panel")
        self.add_class(f"moeviz-{self.kind}")
        for name, control in self.controls.items():
            control.add_class(f"moeviz-{name.replace('_', '-')}")
            explain(control)
            control.observe(lambda _: self.changed(), "value")
        self.show_table.observe(lambda _: self._draw_table(), "value")
        self.state_box.observe(lambda change: self._paste(change["new"]), "value")
        cell.replaces(self)
        self.begin()
        self._opened_with = self.values

    def open_at(self, state: str) -> None:
        """Take over a state, and have it for the opening from now on."""
        self.state = state
        self._opened_with = self.values

    def _bars(self, rows: Sequence[Row]) -> list[widgets.Widget]:
        return [self._bar([row] if isinstance(row, dict) else row) for row in rows]

    def _bar(self, items: Sequence[dict[str, widgets.Widget] | widgets.Widget]) -> widgets.HBox:
        shown: list[widgets.Widget] = []
        for item in items:
            if isinstance(item, dict):
                self.controls |= item
                shown += item.values()
            else:
                shown.append(item)
        return widgets.HBox(shown, layout=widgets.Layout(flex_flow="row wrap"))

    # A subclass says these.

    def begin(self) -> None:
        """The controls stand: show something."""
        self.refresh()

    def draw(self) -> Picture | None:
        """The picture of the controls as they are, said in words too; None leaves the last one."""
        return self.shown(type(self).draws(**self.values))

    def changed(self) -> None:
        """A control has a new value."""
        if not self._quiet:
            self.refresh()

    def end(self) -> None:
        """It is closed: what only it would show need not go on."""

    def check_state(self, given: dict[str, str]) -> None:
        """A state is about to be read: offer what its values may be of. ValueError where they
        exclude each other; this is then called again with the values of before."""

    def state_values(self) -> dict[str, Any]:
        """What the state string holds."""
        return self.values

    @property
    def busy(self) -> bool:
        """Whether a thread has work whose outcome is to be shown here."""
        return self.worker.busy or bool(self.player and self.player.plays)

    def close(self) -> None:
        """Take it off the page, with all that it holds."""
        if self.comm is None:  # closed before, or never made
            return
        self.end()
        if self.player:
            self.player.pause()
        with self._lock:
            cell.close_parts(self)
            super().close()

    # What a subclass uses.

    def refresh(self) -> None:
        """Draw again from what is there now. Safe from any thread.

        A picture that is not of the controls, because they are refused or the new one is on its
        way, is pale."""
        with self.sentence_last():
            pale = True
            with self.guarded():
                picture = self.draw()
                if picture is not None:
                    pale = False
                    self.drawn = picture.at(self.state)
                    self.picture.value = self.drawn.svg
                    self.take_away.follow(self.drawn)
                    self._draw_table()
                self._show_state()
            mark = self.picture.add_class if pale else self.picture.remove_class
            mark("moeviz-stale")

    def shown(self, picture: Picture) -> Picture:
        """A picture, and what it says in words."""
        self.say(picture.summary, seen=not self.told_in_picture)
        return picture

    @property
    def values(self) -> dict[str, Any]:
        """The values of all controls."""
        return {name: control.value for name, control in self.controls.items()}

    def say(self, sentence: str, *, unexpected: bool = False, seen: bool = True) -> None:
        """One sentence to the learner, read out by screen readers; for them alone if not seen.

        It has the room of the longest one so far and a little more, so that the picture below
        stays in its place while a slider moves."""
        mark = ' class="moeviz-unexpected"' if unexpected else "" if seen else " data-unseen"
        with self._lock:
            self.keep_room(len(sentence))
            room = ("room for words " * self._room)[: self._room]
            self.status.value = (
                f'<div role="status" aria-live="polite"{mark} data-room="{room}" '
                f'style="line-height:1.5;color:{PAGE_INK}"><span>{escape(sentence)}</span></div>'
            )

    def keep_room(self, letters: int) -> None:
        """Room for a sentence of so many letters, from the next one that is said."""
        self._room = max(self._room, min(letters, MOST_ROOM) + AIR)

    @contextmanager
    def sentence_last(self) -> Iterator[None]:
        """What is said here reaches the page after the picture that it speaks of."""
        with self._lock, self.status.hold_sync():
            yield

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """No traceback reaches a learner: a refusal becomes its sentence, anything else is
        logged, said, and marked for the tests to find."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.say(str(error))
        except ImportError as error:
            self.say(f"This needs a package that does not import: {error}.")
        except Exception as error:
            log.exception("A panel failed")
            self.say(f"Something broke inside moeviz: {error!r}.", unexpected=True)

    @property
    def state(self) -> str:
        """A short string that reproduces this panel in another notebook."""
        return written(self.kind, self.state_values())

    @state.setter
    def state(self, text: str) -> None:
        """Take over a state; ValueError, and nothing changes, where it is of another panel or
        does not fit."""
        given, before = read(self.kind, text), self.values
        try:
            self.check_state(given)
            if unknown := set(given) - set(self.controls):
                raise ValueError(
                    f"A {self.kind} state has no {', '.join(sorted(unknown))}; it has "
                    f"{', '.join(self.controls)}."
                )
            self.set_controls({n: parsed(n, self.controls[n], v) for n, v in given.items()})
        except ValueError:
            self._restore(before)
            self.refresh()
            raise
        self.changed()

    def _restore(self, values: dict[str, Any]) -> None:
        """Values of before for all controls, and for what they may be of."""
        self.check_state({name: str(value) for name, value in values.items()})
        self.set_controls(values)

    def _reopen(self) -> None:
        with self.guarded():
            self._restore(self._opened_with)
            self.changed()

    def _try(self, preset: str) -> None:
        """From the opening: what another preset has set is no part of this one. A learner's own
        text stays. What it sets is in sight: where no mark of the picture sets it, More opens."""
        opening = {n: v for n, v in self._opened_with.items() if not is_text(self.controls[n])}
        with self.guarded():
            self.state = written(self.kind, opening | self.presets[preset])
            drawn = self.drawn.svg if self.drawn else ""
            unseen = [name for name in self._hidden if f'data-press="{name}=' not in drawn]
            if any(self.values[name] != self._opened_with[name] for name in unseen):
                self._more.value = True

    def set_controls(self, values: dict[str, Any]) -> None:
        """Give controls new values without `changed` hearing of each."""
        with self.quietly():
            for name, value in values.items():
                self.controls[name].value = value

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Controls may be moved here without `changed` hearing of it."""
        quiet, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = quiet

    def _paste(self, text: str) -> None:
        if text.strip() and text != self.state:
            with self.guarded():
                self.state = text
            self._show_state()

    def _show_state(self) -> None:
        if self.state_box.value != self.state:
            self.state_box.value = self.state

    def _draw_table(self) -> None:
        """The table twin; made only while it is shown."""
        drawn = self.drawn if self.show_table.value else None
        table = drawn and Table(drawn.summary, drawn.columns, drawn.rows)
        self.table.value = table._repr_html_() if table else ""

    # ipywidgets 7 shows a widget by _ipython_display_, 8 by _repr_mimebundle_. This bundle serves
    # both and can carry a picture for places without a kernel.
    _ipython_display_ = None

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        summary = self.drawn.summary if self.drawn else self.kind
        return with_still(
            self.drawn, view_bundle(self, f"{summary} (Run the notebook to interact.)")
        )
