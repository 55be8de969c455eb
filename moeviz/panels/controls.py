"""The controls that panels share. Only what ipywidgets 7.7 and 8.1 share is used here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets

from moeviz.experiments.larger import LARGE, SMALL, offer
from moeviz.glossary import meaning
from moeviz.host import has_gpu

# ipywidgets 8 puts the buttons of ToggleButtons under their label; this class of its style sheet,
# which 7 gives them itself, puts them beside it.
BESIDE_LABEL = "widget-inline-hbox"
LAST_SEED = 9999
FEW_LAYERS = 6
EIGHT = int(widgets.__version__.partition(".")[0]) >= 8


def choice(label: str, options: Any, value: Any, width: str) -> widgets.ToggleButtons:
    """Buttons, because JupyterLab takes the arrow keys from a focused drop-down list."""
    toggle = widgets.ToggleButtons(options=options, value=value, description=label)
    toggle.style.button_width = width
    return toggle.add_class(BESIDE_LABEL)


def switch(label: str) -> widgets.Checkbox:
    """On or off."""
    return widgets.Checkbox(False, description=label, indent=False)


def explain(control: widgets.Widget) -> None:
    """Give a control whose label is a word of the glossary the meaning as hover text."""
    if words := meaning(getattr(control, "description", "")):
        # ipywidgets 7 has a tooltip for the label; in 8 it is the widget's.
        setattr(control, "tooltip" if EIGHT else "description_tooltip", words)


def button(label: str, name: str, tip: str, action: Callable[[], None]) -> widgets.Button:
    """A button that says what it does."""
    made = widgets.Button(description=label, tooltip=tip).add_class(name)
    made.layout.width = "auto"
    made.on_click(lambda _: action())
    return made


def behind_more(bars: list[widgets.Widget]) -> tuple[widgets.ToggleButton, widgets.VBox]:
    """A button "More", and the bars that it shows: a first look needs few controls."""
    rest = widgets.VBox(bars).add_class("moeviz-rest")
    return behind("More", "Show the other controls", rest).add_class("moeviz-more"), rest


def behind(label: str, tip: str, rest: widgets.Widget) -> widgets.ToggleButton:
    """A button that shows a widget, and hides it again."""
    press = widgets.ToggleButton(description=label, tooltip=tip).add_class("moeviz-behind")
    press.layout.width, press.layout.align_self = "auto", "flex-start"

    def show(_: object = None) -> None:
        rest.layout.display = "" if press.value else "none"

    press.observe(show, "value")
    show()
    return press


def try_row(presets: Iterable[str], press: Callable[[str], None]) -> widgets.HBox:
    """A button for each preset, which is called with its name."""
    buttons = [
        button(name, "moeviz-preset", f"Set the controls: {name}", partial(press, name))
        for name in presets
    ]
    row = widgets.Layout(flex_flow="row wrap", align_items="center")
    return widgets.HBox([widgets.Label("Try:"), *buttons], layout=row).add_class("moeviz-try")


def seed_box(value: int = 0) -> widgets.BoundedIntText:
    return whole_box("Seed", LAST_SEED, value)


def whole_box(label: str, last: int, value: int = 0) -> widgets.BoundedIntText:
    """A whole number from 0 to `last`, typed."""
    return widgets.BoundedIntText(
        value, min=0, max=last, description=label, layout=widgets.Layout(width="150px")
    )


def size_choice(num_experts: int, active_width: int) -> dict[str, widgets.Widget]:
    """The small size or the large one, and what that takes; nothing where there is no GPU."""
    large = offer(num_experts, active_width)
    sizes = ((SMALL, SMALL), (large, LARGE))
    return {"size": choice("Size", sizes, SMALL, "230px")} if has_gpu() else {}


def skew_slider(value: float = 0.0) -> widgets.FloatSlider:
    """From even tokens to a few experts that all of them want."""
    return widgets.FloatSlider(
        value, min=0, max=2, step=0.1, description="Skew", readout_format=".1f"
    )


def slider(label: str, options: Any, value: Any, width: str = "") -> widgets.SelectionSlider:
    """One of some values in their order."""
    layout = widgets.Layout(width=width or None, max_width="100%")
    return widgets.SelectionSlider(options=options, value=value, description=label, layout=layout)


def layer_choice(layers: Sequence[int], value: int) -> widgets.Widget:
    """One of a model's layers: few are buttons."""
    options = [(f"{layer}", layer) for layer in layers]
    if len(layers) > FEW_LAYERS:
        return slider("Layer", options, value)
    return choice("Layer", options, value, "50px")


def steps(label: str, options: tuple[int, ...], value: int) -> widgets.SelectionSlider:
    """A slider over powers of two: what is counted spans decades."""
    return slider(label, tuple((f"{option:,}", option) for option in options), value)


def whole_slider(
    label: str, low: int, high: int, value: int, step: int = 1, width: str = ""
) -> widgets.IntSlider:
    """Whole numbers from `low` to `high`."""
    layout = widgets.Layout(width=width or None, max_width="100%")
    return widgets.IntSlider(value, low, high, step, description=label, layout=layout)


def text_box(text: str, width: str, height: str = "", label: str = "Your text") -> widgets.Widget:
    """A text of the learner's own: of one line, or of several where there is a height."""
    kind = widgets.Textarea if height else widgets.Text
    layout = widgets.Layout(width=width, max_width="100%", height=height or None)
    return kind(text, description=label, layout=layout)


def is_text(control: widgets.Widget) -> bool:
    return isinstance(control, (widgets.Text, widgets.Textarea))
