"""What holds for every exhibit, whatever it shows; only what is particular has tests elsewhere."""

import base64
import io
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from helpers.live import wait
from helpers.panels import (
    BEFORE,
    LIVE,
    LOUD,
    MOVES,
    NASTY,
    READING,
    at_ease,
    check_at_rest,
    check_no_markup,
    check_refused,
    content,
    drawn,
    everything,
    exhibit,
    family,
    figures,
    move,
    opened,
    said,
    sent_by,
    twin,
    value_for,
    values_of,
)
from helpers.pictures import text_length
from moeviz import panels
from moeviz.panels.bundle import view_bundle
from moeviz.pictures.static import standalone
from moeviz.pictures.table import cell_words

pytestmark = [
    *LOUD,
    pytest.mark.usefixtures("a_reader", "fresh_kernel", "dispatches_once"),
]
ROOT = Path(__file__).resolve().parent.parent
VIEW = "application/vnd.jupyter.widget-view+json"
every = pytest.mark.parametrize("name", MOVES)
reading = pytest.mark.parametrize("name", READING)


def reader(name):
    """The exhibit, opened on a text."""
    return exhibit(name)(**READING[name])


def test_every_exhibit_and_every_control_is_tried_here():
    assert set(MOVES) | {"Outcome", "Predict"} == set(panels.__all__)
    for name, moves in MOVES.items():
        kind = exhibit(name)
        assert kind.kind == kind.__module__.rpartition(".")[2]
        controls = kind().controls
        assert moves.keys() == controls.keys()
        # JupyterLab takes the arrow keys from a drop-down list.
        assert not [c for c in controls.values() if isinstance(c, ipywidgets.Dropdown)]


def test_names_are_completed_and_a_wrong_one_is_told_and_torch_is_not_needed():
    code = "import sys; from moeviz import panels; print(*dir(panels)); assert not {'torch', "
    code += "'ipywidgets'} & set(sys.modules)"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == sorted(panels.__all__), found.stderr
    with pytest.raises(
        AttributeError, match=rf"^There is no panel 'Raec'; there is {panels.__all__[0]}, "
    ):
        _ = panels.Raec


FOR_TEACHERS = (ROOT / "notebooks" / "for_teachers.md").read_text("utf-8")
STATES = re.findall(r"`((\w+)\?[^`]+)`", FOR_TEACHERS)


@pytest.mark.parametrize(("state", "kind"), STATES)
def test_a_state_string_of_the_class_page_is_taken_as_it_stands(state, kind):
    panel = next(exhibit(name) for name in MOVES if exhibit(name).kind == kind)()
    panel.state = state
    assert {*parse_qsl(state.partition("?")[2])} <= {*parse_qsl(panel.state.partition("?")[2])}


def test_all_open_and_move_at_first_without_torch_and_well_within_3_seconds():
    names = [f"panels.{name}()" for name in MOVES]
    names += ['panels.Slots("text")', 'panels.Dispatch("synthetic")', "panels.CompareRouters()"]
    routers = 'for name in [*panel.names][4:]: panel.choice.value = f"token_choice,{name}"'
    slots = names.index("panels.Slots()")
    routers += f"\nfor name in ('factor', 'top_k', 'skew'): shown[{slots}].controls[name].value = 2"
    took, has_torch, pictures, statuses = opened(*names, then=routers)
    assert max(took) < 2 and not has_torch
    assert pictures == ["<div"] * len(names)
    assert all('role="status"' in s and "unexpected" not in s for s in statuses)


@pytest.mark.parametrize("name", [n for n in MOVES if exhibit(n).told_in_picture])
def test_a_sentence_that_the_picture_tells_is_for_ears_alone_and_no_other_is(name):
    panel, number = exhibit(name)(), re.compile(r"\d[\d.,]*\d|\d")
    for words in panel.presets:
        panel._try(words)
        assert " data-unseen " in panel.status.value
        first = re.split(r"(?<=[.!?]) ", panel.drawn.summary)[0]
        shown = number.findall(" ".join(drawn(panel).itertext()))
        assert {*number.findall(first)} <= {*shown}, words
    panel.say("There is no such model.")
    assert "data-unseen" not in panel.status.value


BESIDE_WORDS = 20  # pixels: JupyterLab's padding of a button, on both sides


@every
def test_thecell_words_on_buttons_of_a_fixed_width_have_room(name):
    for choice in family(exhibit(name)()):
        width = isinstance(choice, ipywidgets.ToggleButtons) and choice.style.button_width
        if width and width != "auto":
            room = float(width.removesuffix("px")) - BESIDE_WORDS
            cut = [words for words in choice._options_labels if text_length(words, 13) > room]
            assert cut == [], f"{choice.description}: {width}"


@every
def test_nothing_moves_by_itself_on_opening(name):
    panel = exhibit(name)()
    check_at_rest(panel)
    assert panel.table.value == "" and panel.state_box.value == panel.state


@pytest.mark.parametrize(("name", "control"), [(n, c) for n, moves in MOVES.items() for c in moves])
def test_every_control_changes_the_picture_and_the_state(name, control, monkeypatch):
    panel = exhibit(name)()
    for other, value in BEFORE.get((name, control), {}).items():
        move(panel, other, value)
    if name == "Contenders" and control == "case" and len(values_of(panel.controls["case"])) < 2:
        move(panel, "machine", "this machine")
    picture, old, state = panel.picture.value, content(panel), panel.state
    order = sent_by(monkeypatch, panel)
    assert not getattr(panel.controls[control], "disabled", False)
    move(panel, control, value_for(panel, name, control))
    assert panel.picture.value != picture and panel.state != state
    unmeasured = (name, control) == ("Contenders", "case")
    assert content(panel) != old or unmeasured
    assert panel.state_box.value == panel.state
    assert drawn(panel).get("data-state").startswith(panel.state)
    assert "unexpected" not in panel.status.value
    # Who reads the sentence, a screen reader too, must find the picture that it speaks of.
    assert "sentence" not in order[:-1] or order[-1] == "sentence" or name in LIVE


# What another value switches off, at first and then.
OFF = {
    "CompareRouters": (("source", "synthetic"), {"skew", "tokens"}, {"text", "layer"}),
    "Compression": (("kept", 4), {"who", "part"}, {"part"}),
    "Dispatch": (("source", "synthetic"), {"skew", "seed"}, {"text", "layer"}),
    "Exchange": (("skew", 0.0), {"node_limit"}, set()),
    "OwnExpert": (("text", "yours"), {"own"}, set()),
    "Slots": (("source", "text"), {"text", "layer"}, {"skew", "tokens", "seed"}),
    "TileWalk": (("view", "programs"), {"walk"}, set()),
}


@every
def test_only_controls_that_matter_can_be_moved(name):
    change, *wanted = OFF.get(name, (None, set()))
    panel = exhibit(name)()
    for off in wanted:
        disabled = {n for n, c in panel.controls.items() if getattr(c, "disabled", False)}
        assert disabled == off
        if change:
            move(panel, *change)


@every
def test_the_table_twin_comes_and_goes_and_follows_the_picture_and_a_move_is_quick(name):
    """A generous bound, for test machines are shared; the target is 100 ms."""
    panel, took = exhibit(name)(), []
    panel.show_table.value = True
    assert twin(panel)[1] == panel.drawn.summary
    for control in MOVES[name]:
        if not (name == "Collapse" and control == "router"):
            begun = time.thread_time()  # of this thread
            panel.controls[control].value = value_for(panel, name, control)
            took.append(time.thread_time() - begun)
            at_ease(panel)
        rows, caption = twin(panel)
        assert rows[0] == [str(c) for c in panel.drawn.columns]
        assert rows[1:] == [[cell_words(v) for v in row] for row in panel.drawn.rows]
        _, _, named = drawn(panel).get("aria-label").partition(". ")
        assert caption == panel.drawn.summary == named
        assert all(len(numbers) <= 3 for numbers in figures(caption)), caption
        assert panel.drawn.svg == panel.picture.value
        assert name in LIVE or panel.drawn.summary in said(panel)
    panel.show_table.value = False
    assert panel.table.value == "" and np.median(took) < 0.3


@every
def test_what_a_mark_sets_is_a_value_of_the_panels_controls(name, monkeypatch):
    panel = exhibit(name)()
    opening = panel.state
    pressed = {mark.get("data-press") for mark in drawn(panel).iter()} - {None}
    monkeypatch.setattr(panel, "changed", lambda: None)  # no picture for each
    for press in sorted(pressed):
        panel.state = f"{panel.kind}?{press}"
        assert {*parse_qsl(press)} <= {*parse_qsl(panel.state.partition("?")[2])}
        panel.state = opening


def misfits(panel):
    """Values that a control cannot take, and what is said of each."""
    yield "depth=3", f"has no depth; it has {', '.join(panel.controls)}."
    for name, control in panel.controls.items():
        if hasattr(control, "options"):
            yield f"{name}=rubbish", f"{name} must be one of "
        elif isinstance(control.value, bool):
            yield f"{name}=yes", f"{name} must be True or False, got 'yes'."
        elif isinstance(control.value, int | float):
            yield f"{name}=nan", name
            yield f"{name}=x", f"{name} must be a number, got 'x'."
            for value in (control.min - 1, 10**6):
                yield f"{name}={value}", f"{name} must lie in {control.min} to "


@every
def test_a_state_that_does_not_fit_is_refused_in_one_sentence_and_changes_nothing(name):
    panel = exhibit(name)()
    control, value = next((c, v) for c, v in MOVES[name].items() if c not in ("config", "machine"))
    for pair, sentence in misfits(panel):
        named = value is None or pair.startswith(f"{control}=")
        good = "" if named else f"{control}={value}&"
        check_refused(panel, f"{panel.kind}?{good}{pair}", sentence)
    for state in ("other?seed=1", "rubbish", "<script>alert(1)</script>"):
        check_refused(panel, state, f"states begin with '{panel.kind}?', this one with ")
    move(panel, control, value_for(panel, name, control))
    assert drawn(panel).get("data-state").startswith(panel.state), "it works as before"


FIELDS = {
    "Claims": ("claim",), "Dispatch": ("source",), "ModelAnatomy": ("model", "beside"),
    "ModelMap": ("model",), "Slots": ("source",), "TrainingCost": ("model",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "field"), [(n, f) for n, fields in FIELDS.items() for f in fields]
)
def test_an_unknown_name_is_refused(name, field):
    with pytest.raises(ValueError, match=rf"^{field} must be one of .*, got 'GPT-9'\.$"):
        exhibit(name)(**{field: "GPT-9"})


# A text of one's own.


@reading
def test_own_text_loads_the_model_in_the_background_and_the_latest_wins(name, unloaded, held_model):
    held, begun = held_model
    panel = reader(name)
    picture = panel.picture.value
    for text in ("first", "first sec", "first second"):
        panel.controls["text"].value = text
        assert said(panel).endswith("…") and panel.picture.value == picture
        assert panel.state_box.value == panel.state
    held.set()
    wait(lambda: drawn(panel).get("data-state") == panel.state, "the picture of the latest")
    assert len(begun) == 1 and "text=first second" in panel.state
    picture = panel.picture.value
    assert move(panel, "text", "and now at once").picture.value != picture


@reading
def test_a_nasty_text_is_shown_and_never_run(name):
    panel = reader(name)
    panel.show_table.value = True
    move(panel, "text", NASTY)
    assert drawn(panel).get("data-state") == panel.state
    check_no_markup(panel)
    assert "<" not in panel.state_box.value
    other = reader(name)
    other.state = panel.state
    assert everything(at_ease(other)) == everything(panel)


@reading
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The text is empty; type a few words."),
        ("half \ud83d", "half of a surrogate pair"),
    ],
)
def test_a_text_that_cannot_be_read_gets_one_sentence(name, text, sentence):
    panel = reader(name)
    picture = panel.picture.value
    move(panel, "text", text)
    assert sentence in said(panel) and "unexpected" not in panel.status.value
    assert panel.picture.value == picture and "moeviz-stale" in panel.picture._dom_classes
    move(panel, "text", "better")
    assert panel.picture.value != picture and sentence not in said(panel)
    assert "moeviz-stale" not in panel.picture._dom_classes


@pytest.mark.parametrize("name", ["InsideLayer", "RouteText", "Slots"])
def test_of_a_long_text_the_first_tokens_are_read_and_that_is_said(name):
    panel = reader(name)
    move(panel, "text", "a b " * 600)
    (words,) = re.findall(r"Only the first 512 of \d,\d{3} tokens are read\.$", said(panel))
    assert drawn(panel).get("data-state") == panel.state
    move(panel, "text", "short")
    assert words not in said(panel)


# Faults of our own.


@every
def test_a_fault_is_said_marked_and_logged_and_a_refusal_is_only_said(name, monkeypatch, caplog):
    kind = exhibit(name)
    panel = kind()
    picture = panel.picture.value
    for error in (
        KeyError("<b>boom</b>"),
        ValueError("E must be 2."),
        OSError("The disk is full."),
    ):

        def broken(self, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(kind, "draw", broken)
            panel.refresh()
        assert "<b>" not in panel.status.value and panel.picture.value == picture
        assert "moeviz-stale" in panel.picture._dom_classes
        if isinstance(error, KeyError):
            assert 'class="moeviz-unexpected"' in panel.status.value
            assert said(panel) == "Something broke inside moeviz: KeyError('<b>boom</b>')."
            (record,) = caplog.records
            assert record.name == "moeviz" and record.exc_info[0] is KeyError
            caplog.clear()
        else:
            assert said(panel) == str(error) and "unexpected" not in panel.status.value


# What a notebook displays.


@every
def test_the_bundle_shows_the_widget_and_hascell_words_for_places_that_cannot(name, monkeypatch):
    monkeypatch.delenv("MOEVIZ_STATIC", raising=False)
    panel = exhibit(name)()
    comms = [widget.comm for widget in family(panel)]
    for comm in comms[1:]:
        comm._reply_subshell_for = "of the cell that made it"
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    # Every widget answers on the thread that the front end chose.
    assert {comm._reply_subshell_for for comm in comms[1:]} == {None}
    assert bundle[VIEW]["model_id"] == panel.model_id
    assert bundle["text/plain"].endswith("(Run the notebook to interact.)")
    assert "image/png" not in bundle
    # ipywidgets 7 would display it a second time by this.
    assert panel._ipython_display_ is None
    panel.close()
    assert VIEW not in view_bundle(panel, "a closed widget has no view")


# Each a third of a second: the others' pictures are drawn alike.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (i % 3 > 0 and n != "RuleSteps"))
        for i, n in enumerate(MOVES)
    ],
)
def test_the_bundle_has_a_picture_while_notebooks_are_built(name, stills):
    panel = exhibit(name)()
    before = everything(panel)
    bundle = panel._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert image.format == "PNG" and everything(panel) == before
    if name == "RuleSteps":  # where no kernel runs, a later step says more than the first
        assert bundle["text/plain"].startswith("Step 7 of 7: tokens, round 3.")
    else:
        sheet = ElementTree.fromstring(standalone(panel.picture.value))
        assert image.size == tuple(round(float(sheet.get(k))) for k in ("width", "height"))
        assert bundle["text/plain"].startswith(panel.drawn.summary)
