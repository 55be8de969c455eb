"""An expert of one's own: trained on a text, plugged in, given away, taken out again."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.experiments.recorded import recorded_figures
from moeviz.host import data_path
from moeviz.leaving import Stopped
from moeviz.panels import shipped_model
from moeviz.panels.controls import button, choice, seed_box, text_box
from moeviz.panels.running_panel import RunningPanel
from moeviz.pictures import Picture
from moeviz.pictures.many_models.own_expert import own_expert
from moeviz.pictures.training.standings import DOMAINS
from moeviz.records.own_runs import OwnRun, unmeasured
from moeviz.records.store import load_records
from moeviz.text.own_texts import TEXTS, own_text, read_file

if TYPE_CHECKING:
    from moeviz.experiments.own_run import OwnRunning
    from moeviz.surgery.own_expert import OwnExpert as Expert

YOURS, MINE = "yours", "mine"  # the text's name in a state, and that of its expert
WHOLE, RANKS = "whole", (1, 4, 16)
STEPS, LAYERS = (60, 120, 300), (0, 1, 2)
REPLAYS, REPLAY = (0.0, 1.0, 3.0, 6.0), 3.0
NOBODY, FRIEND = "nobody", "friend"
# By form, where the experiment is not recorded, as is REPLAY.
RATES = {WHOLE: "0.003", "rank 4": "0.01"}
LOOK_EVERY = 20  # steps: a look takes as long as some of them
FILE = "my_expert.safetensors"

Key = tuple[Any, ...]


class OwnExpert(RunningPanel):
    """One more expert in each layer learns a text while all else stays: what the text gains, what
    six domains lose, and which tokens visit it. It opens on recordings; Train does it here."""

    loading = "Loading PyTorch and the small model, once: some seconds…"
    stopped = "Stopped: what the expert has learnt so far is plugged in."
    presets = {
        "Garden notes": {"text": "notes"},
        "Without replay": {"replay": 0.0},
        "A low rank": {"text": "log", "form": "rank 4"},
        "Two at once": {"beside": FRIEND},
    }

    def __init__(self) -> None:
        figures = recorded_figures("own_expert")
        replay = float(figures["replay"]["chosen"]) if figures else REPLAY
        chosen = {
            form: figures["grid"][form]["chosen"] if figures else r for form, r in RATES.items()
        }
        self._rates = {form: float(rate) for form, rate in chosen.items()}
        self._recorded, self._made = _openings()
        self._running_model: OwnRunning | None = None
        self._live: OwnRun | None = None
        self._of: Key = ()  # the setting of the live one
        forms = [WHOLE, *(f"rank {rank}" for rank in RANKS)]
        texts = [*((name, name) for name in TEXTS), ("your own", YOURS)]
        besides = (("nobody", NOBODY), ("a friend's", FRIEND))
        self.file = text_box(FILE, "320px", label="File").add_class("moeviz-file")
        own = text_box("", "560px", "76px", "Your own")
        own.placeholder = "Paste a text of 1,000 letters or more, or give the path of a .txt file."
        super().__init__(
            {"text": choice("Text", texts, "notes", "auto")},
            {"own": own},
            {
                "form": choice("Learns", forms, WHOLE, "auto"),
                "beside": choice("Beside it", besides, NOBODY, "auto"),
            },
            [
                *self.run_buttons("▶ Train", "An expert for this text, in the background"),
                button("Unplug", "moeviz-unplug", "Take the text's expert out", self._unplug),
                button("Plug in", "moeviz-plug", "Put it in again", self._plug),
            ],
            more=[
                {
                    "steps": choice("Steps", STEPS, STEPS[1], "auto"),
                    "replay": choice("Replay", [(f"{r:g}", r) for r in REPLAYS], replay, "44px"),
                    "layer": choice("Layer", LAYERS, LAYERS[1], "44px"),
                },
                {"seed": seed_box()},
                [
                    self.file,
                    button("Save", "moeviz-save", "Write the text's expert", self._save),
                    button("Load", "moeviz-load", "Plug in the expert of this file", self._load),
                ],
            ],
        )  # fmt: skip

    # What is shown.

    @property
    def _key(self) -> Key:
        """What makes it another training."""
        names = ("text", "form", "steps", "replay", "seed")
        own = self.values["own"] if self.values["text"] == YOURS else ""
        return *(self.values[name] for name in names), own

    def draw(self) -> Picture | None:
        values = self.values
        own = self.controls["own"]
        own.disabled = values["text"] != YOURS
        own.layout.display = "" if values["text"] == YOURS else "none"
        run, note = self._shown()
        if run is None:
            return None
        return self.shown(own_expert(run, values["layer"], note=note))

    def _shown(self) -> tuple[OwnRun | None, str]:
        values = self.values
        setting = f"replay {values['replay']:g}, seed {values['seed']}"
        self.note = ""
        if self._live is not None and self._of == self._key:
            if not self._running and self._friend_wanted != self._friend_plugged:
                self.say("The friend's expert goes in or out…")
                self.worker.ask(self._set_friend)
                return None, ""
            self.note = _cut(self._ready())
            return self._live, f"live: {setting}"
        if found := self._recorded.get((self._key, values["beside"])):
            return found, f"recorded, not live: {setting}{self._made}"
        text, form, steps = values["text"], values["form"], values["steps"]
        if text == YOURS:
            setting += f" · {len(values['own']):,} letters of your own"
        if values["beside"] == FRIEND:
            setting += " · beside a friend's"
        empty = unmeasured(MINE if text == YOURS else text, form, steps, DOMAINS, LAYERS)
        return empty, f"not recorded: {setting}"

    # The work.

    def measure(self) -> Callable[[], None]:
        values, key = self.values, self._key
        name, text = self._named(), self._text()
        form, steps = values["form"], values["steps"]
        rank = None if form == WHOLE else int(form.removeprefix("rank "))
        rate = self._rates[WHOLE if form == WHOLE else "rank 4"]

        def work() -> None:
            running, begun = self._ready(), time.monotonic()
            if self._friend_wanted and not self._friend_plugged:
                running.plug(_friend())
            for step in running.training(
                name, text, steps, rank, rate, values["replay"], values["seed"]
            ):
                if self._stop.is_set():
                    running.keep()
                if step % LOOK_EVERY == 0 or step == steps or self._stop.is_set():
                    self._live, self._of = running.look(), key
                    self.refresh()
                if self._stop.is_set():
                    raise Stopped
                left = (time.monotonic() - begun) / step * (steps - step)
                self.say(f"Step {step} of {steps}, about {left:.0f} s left…{_cut(running)}")

        return work

    def _ready(self) -> OwnRunning:
        """The model to work with, made at the first call: some seconds."""
        if self._running_model is None:
            from moeviz.experiments.own_run import OwnRunning
            from moeviz.text.corpus import load_corpus

            self._running_model = OwnRunning(*shipped_model.READER.get(), load_corpus())
        return self._running_model

    def _then_look(self, change: Callable[[OwnRunning], str]) -> None:
        """Change what is plugged in, on the thread, and show what that makes; change returns what
        is to be said then, if anything."""
        if self._running:
            self.say("Training goes on: wait, or press Stop first.")
            return
        key = self._key
        with self.guarded():
            name, text = self._named(), self._text()

            def work() -> None:
                running = self._ready()
                said = change(running)
                if self._of != key:
                    running.read(name, text)
                self._live, self._of = running.look(), key
                with self.sentence_last():
                    self.refresh()
                    if said:
                        self.say(said)

            self.say(self.loading if self._running_model is None else "A moment…")
            self.worker.ask(work)

    def _unplug(self) -> None:
        name = self._named()

        def change(running: OwnRunning) -> str:
            running.unplug(name)
            return ""

        self._then_look(change)

    def _plug(self) -> None:
        def change(running: OwnRunning) -> str:
            running.plug(self._trained(running))
            return ""

        self._then_look(change)

    def _save(self) -> None:
        path = self.file.value

        def change(running: OwnRunning) -> str:
            expert = self._trained(running)
            expert.save(path)
            size = Path(path).stat().st_size
            return f"Saved as {path}: {size:,} bytes. A friend plugs it into the same model."

        self._then_look(change)

    def _load(self) -> None:
        path = self.file.value

        def change(running: OwnRunning) -> str:
            from moeviz.surgery.own_expert import OwnExpert as Expert

            expert = Expert.load(path)
            running.plug(expert)
            if self._friend_plugged:
                self.set_controls({"beside": FRIEND})
            return f"The expert '{expert.name}' is plugged in."

        self._then_look(change)

    def _trained(self, running: OwnRunning) -> Expert:
        """The expert that was trained here for this text; ValueError where none was."""
        if running.trained is None or self._of != self._key:
            raise ValueError("No expert was trained here for this setting: press Train first.")
        return running.trained.expert()

    # The friend's expert, which ships.

    @property
    def _friend_wanted(self) -> bool:
        return bool(self.values["beside"] == FRIEND)

    @property
    def _friend_plugged(self) -> bool:
        running = self._running_model
        return running is not None and _friend().name in running.plugged.names

    def _set_friend(self) -> None:
        running = self._ready()
        if self._friend_wanted:
            running.plug(_friend())
        else:
            running.unplug(_friend().name)
        self._live = running.look()
        self.refresh()

    # The text.

    def _named(self) -> str:
        return MINE if self.values["text"] == YOURS else str(self.values["text"])

    def _text(self) -> str:
        """The text of the controls; ValueError (one sentence) where there is none."""
        if self.values["text"] != YOURS:
            return own_text(self.values["text"])
        given = self.values["own"].strip()
        if not given:
            raise ValueError("Paste a text into the box, or give the path of a text file.")
        if "\n" in given or " " in given or not given.endswith((".txt", ".md")):
            return str(given)
        return read_file(Path(given))


def _cut(running: OwnRunning) -> str:
    """Says so where the text is longer than what is read of it."""
    read, whole = running.tokens
    return f" Only the first {read:,} of the text's {whole:,} tokens are read." * (read < whole)


def _openings() -> tuple[dict[tuple[Key, str], OwnRun], str]:
    """Recorded runs by setting and who is beside, and where they were made."""
    try:
        path = data_path("traces", "own_expert.safetensors")
    except FileNotFoundError:  # not recorded yet
        return {}, ""
    runs, made = load_records(path, OwnRun)
    keys = {
        name: ((run.name, run.form, run.steps, run.replay, run.seed, ""),
               FRIEND if len(run.plugged) > 1 else NOBODY)
        for name, run in runs.items()
    }  # fmt: skip
    return {keys[name]: run for name, run in runs.items()}, f" · {made['device']} · {made['date']}"


@functools.cache
def _friend() -> Expert:
    """The expert that ships, as a friend's; FileNotFoundError where it is not recorded yet."""
    from moeviz.surgery.own_expert import OwnExpert as Expert

    return Expert.load(data_path("models", "own_german.safetensors"))
