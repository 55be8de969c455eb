"""The row of a panel that gives away what it shows: as a state, as an SVG, as a PNG."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape

import ipywidgets as widgets

from moeviz.panels.controls import behind, button, text_box
from moeviz.pictures import Picture
from moeviz.pictures.static import standalone

LOOK = 'class="jupyter-widgets jupyter-button widget-button moeviz-button"'
# The older of two ways, for it needs neither https nor a permission; what is copied stays marked.
COPY = """
const box = this.closest('.moeviz-panel').querySelector('.moeviz-state input');
box.select();
document.execCommand('copy');
"""
# The page draws the SVG itself, at twice its size, so that no kernel needs a package for it.
TO_PNG = """
const svg = this.parentNode.querySelector('a'), image = new Image();
image.onload = () => {
    const canvas = document.createElement('canvas'), pen = canvas.getContext('2d');
    canvas.width = 2 * image.width;
    canvas.height = 2 * image.height;
    pen.fillStyle = 'white';
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    const file = Object.assign(document.createElement('a'),
        {download: svg.download.replace('.svg', '.png'), href: canvas.toDataURL()});
    file.click() };
image.src = svg.href;
"""


class TakeAway(widgets.HBox):
    """Hidden until its button `press` is pressed; only then is a file made of each picture.

    name: of the files. reset: called by "Reset to the opening".
    """

    def __init__(self, name: str, reset: Callable[[], None]) -> None:
        self._name = name
        self._picture: Picture | None = None
        copy = widgets.HTML(_press("Copy state", COPY)).add_class("moeviz-copy")
        tip = "All controls as this panel opened"
        opening = button("Reset to the opening", "moeviz-opening", tip, reset)
        self.files = widgets.HTML().add_class("moeviz-files")
        self.state_box = text_box("", "560px", label="State").add_class("moeviz-state")
        self.state_box.continuous_update = False
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        super().__init__([copy, opening, self.files, self.state_box], layout=row)
        self.add_class("moeviz-away")
        self.press = behind("Take it away", "Copy the state, or save the picture", self)
        self.press.add_class("moeviz-take-away")
        self.press.observe(lambda _: self._offer(), "value")

    def follow(self, picture: Picture) -> None:
        """This is the picture that is shown now."""
        self._picture = picture
        self._offer()

    def _offer(self) -> None:
        if self._picture is None or not self.press.value:
            self.files.value = ""
            return
        data = base64.b64encode(standalone(self._picture.svg).encode()).decode()
        self.files.value = (
            f'<div><a {LOOK} download="{self._name}.svg" href="data:image/svg+xml;base64,{data}">'
            f"Download SVG</a>{_press('Download PNG', TO_PNG)}</div>"
        )


def _press(label: str, script: str) -> str:
    return f'<button {LOOK} type="button" onclick="{escape(script)}">{label}</button>'
