"""Experts that lie behind a link: what bounds decoding, and what a cache of them is worth."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice
from moeviz.panels.hardware_choice import SPARSE, device_choice, model_choice, plan_choice
from moeviz.pictures import Picture
from moeviz.pictures.costs.offloading import LINKS, offloading


class Offloading(Panel):
    """The most tokens a second of one sequence, by hit rate, for each link."""

    kind = "offloading"

    def __init__(self) -> None:
        links = tuple((link.label, name) for name, link in LINKS.items())
        controls: dict[str, widgets.Widget] = {
            "model_name": model_choice(SPARSE, "Mixtral 8x7B"),
            # What holds all of its memory in one piece has no link to bring experts over.
            "device_name": device_choice("T4", without=("M3 Ultra", "Laptop")),
            "plan": plan_choice("int4"),
            "link": choice("Link", links, "pcie3", "auto"),
            "hit": widgets.IntSlider(0, min=0, max=100, description="Hits, %"),
        }
        super().__init__(controls, [["model_name"], ["device_name", "plan"], ["link", "hit"]])
        self.refresh()

    def draw(self) -> Picture | None:
        return self.drawn_by(offloading)
