"""How every exhibit is set up and taken away: presets, states, the opening, files."""

import base64
import inspect
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest

from helpers.panels import (
    LOUD,
    MOVES,
    NASTY,
    at_ease,
    content,
    drawn,
    everything,
    exhibit,
    family,
    move,
    moved,
    press,
    value_for,
)
from helpers.sight import run_together
from moeviz import panels
from moeviz.panels.controls import is_text
from moeviz.panels.state import ODD_TEXT, read, written

pytestmark = [
    *LOUD,
    pytest.mark.usefixtures("a_reader", "fresh_kernel", "dispatches_once"),
]
every = pytest.mark.parametrize("name", MOVES)
PRESETS = [(name, words) for name in MOVES for words in getattr(panels, name).presets]


def test_what_notebooks_tell_to_try_is_a_button():
    assert {len(exhibit(name)().presets) for name in MOVES} <= {2, 3, 4}


@pytest.mark.parametrize(("name", "words"), PRESETS)
def test_a_preset_sets_its_controls_and_shows_in_the_picture(name, words):
    panel = exhibit(name)()
    buttons = {w.description: w for w in family(panel) if "moeviz-preset" in w._dom_classes}
    assert [*buttons] == [*panel.presets]
    wanted, opening = panel.presets[words], panel.values
    for other in buttons.values():  # where it opens like this
        if wanted.items() <= panel.values.items():
            other.click()
            at_ease(panel)
    before = content(panel)
    buttons[words].click()
    assert wanted.items() <= at_ease(panel).values.items()
    assert content(panel) != before and drawn(panel).get("data-state").startswith(panel.state)
    assert [words for part in drawn(panel) for words in run_together(part)] == []
    marks = [e.get("data-press", "") for e in drawn(panel).iter()]
    elsewhere = {*wanted} - {press.partition("=")[0] for press in marks}
    for rest in (w for w in family(panel) if "moeviz-rest" in getattr(w, "_dom_classes", ())):
        inside = family(rest)
        moved = [n for n in elsewhere if wanted[n] != opening[n]]
        moved_there = any(panel.controls[n] in inside for n in moved)
        assert rest.layout.display == "" or not moved_there, "what it sets is out of sight"


def test_a_preset_leaves_more_shut_where_the_picture_shows_what_it_sets():
    for name, words in (("ModelAnatomy", "Dense and sparse"), ("Claims", "Both at $2 an hour")):
        panel = exhibit(name)()
        panel._try(words)
        assert not panel._more.value and panel.values != panel._opened_with


OPENS_ON_ITS_FIRST = (
    "Adapting", "CacheLadder", "Claims", "Contenders", "Frontier", "MeasuredExchange",
    "ModelAnatomy", "ModelMap", "Roofline", "ScalingLaws", "SplitExperts", "TrainingCost",
)  # fmt: skip


@pytest.mark.parametrize("name", OPENS_ON_ITS_FIRST)
def test_the_first_preset_is_the_opening(name):
    panel = exhibit(name)()
    first, *others = panel.presets.values()
    assert first.items() <= panel.values.items()
    assert not any(other.items() <= panel.values.items() for other in others)


@pytest.mark.parametrize("name", sorted({name for name, _ in PRESETS}))
def test_a_preset_begins_at_the_opening_and_leaves_a_learners_text(name):
    panel = exhibit(name)()
    opening, texts = panel.values, [n for n, c in panel.controls.items() if is_text(c)]
    first, last = [*panel.presets][0], [*panel.presets][-1]
    buttons = {w.description: w for w in family(panel) if "moeviz-preset" in w._dom_classes}
    for words in (first, last):
        buttons[words].click()
        at_ease(panel)
    rest = {*opening} - {*panel.presets[last], *texts, "step"}
    assert {n: panel.values[n] for n in rest} == {n: opening[n] for n in rest}


@every
def test_a_state_reproduces_a_panel_and_opens_it(name):
    first = moved(name)
    check_pasted(name, first)
    check_opened_on(name, first)


def check_pasted(name, first):
    """A state gives another panel the same picture, and a part of it that part alone."""
    second, part = exhibit(name)(), exhibit(name)()
    second.state_box.value = f"  {first.state_box.value}\n"  # as it is copied by hand
    assert everything(at_ease(second)) == everything(first)
    second.state = part.state
    assert at_ease(second).picture.value == part.picture.value
    control = next(c for c in MOVES[name] if c not in ("config", "machine"))
    if "machine" in part.controls:  # what else there is to choose hangs on it
        move(part, "machine", first.values["machine"])
    before = part.values
    part.state = f"{first.kind}?{control}={first.values[control]}"
    changed = {n for n, v in at_ease(part).values.items() if v != before[n]}
    # At the end of another batch its step is another number.
    assert control in changed and (len(changed - {"step"}) <= 1 or name == "Claims")


def check_opened_on(name, first):
    """A panel opens on a state, and is reset to it."""
    panel = at_ease(exhibit(name)(state=first.state))
    assert everything(panel) == everything(first)
    plain = {n: c.value for n, c in exhibit(name)().controls.items() if not hasattr(c, "options")}
    for control, value in plain.items():  # as it opens without a state
        move(panel, control, value)
    press(panel, "opening")
    assert everything(at_ease(panel)) == everything(first)
    with pytest.raises(ValueError, match=r"^A \w+ state has no depth; it has .*\.$"):
        exhibit(name)(state=f"{panel.kind}?depth=3")
    assert "state" in inspect.signature(exhibit(name)).parameters


@every
def test_the_picture_can_be_taken_away_while_that_row_is_open(name):
    panel = exhibit(name)()
    row, files = panel.take_away, panel.take_away.files
    assert row.layout.display == "none" and files.value == ""
    row.press.value = True
    link = ElementTree.fromstring(files.value).find("a")
    assert link.get("download") == f"{panel.kind}.svg"
    kind, _, data = link.get("href").partition(",")
    alone = base64.b64decode(data).decode()
    # No style sheet of a page reaches a file.
    assert kind == "data:image/svg+xml;base64" and "var(" not in alone
    assert ElementTree.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg"
    before = files.value
    control = next(c for c in MOVES[name] if c not in ("config", "machine"))
    move(panel, control, value_for(panel, name, control))
    assert files.value != before or name == "Contenders"
    row.press.value = False
    assert row.layout.display == "none" and files.value == ""


@pytest.mark.parametrize("value", [NASTY, " a  b ", "é × 7/2, 'a'", "\ud83d\x00\u200b", "", "5"])
def test_a_state_is_readable_and_loses_nothing_and_old_ones_are_read(value):
    values = {"text": value, "seed": "7"}
    state = written("race", values)
    for shown in (state, f"  {state}\n", f"race?{urlencode(values, errors=ODD_TEXT)}"):
        assert read("race", shown) == values
    assert state.isprintable() and not {*'<>"\\\n'} & {*state}
    assert written("a", {"b": "DeepSeek-V3 / R1, 2 × 3"}) == "a?b=DeepSeek-V3 / R1, 2 × 3"
