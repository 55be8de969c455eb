"""Experts that lie behind a link: what bounds decoding, and what a cache of them is worth."""

from __future__ import annotations

from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, whole_slider
from moeviz.panels.hardware_choice import SPARSE, device_choice, model_choice, plan_choice
from moeviz.pictures.costs.offloading import LINKS, offloading

T4 = {"model_name": "Mixtral 8x7B", "device_name": "T4", "plan": "int4", "link": "pcie3"}


class Offloading(Panel):
    """The most tokens a second of one sequence, by hit rate, for each link."""

    draws = offloading
    presets = {
        "Mixtral on a T4": T4,
        "Half of its experts cached": T4 | {"hit": 50},
        "Experts on a disk": {"link": "nvme"},
        "Kimi K2 on one B200": {"model_name": "Kimi K2", "device_name": "B200 SXM", "plan": "int4"},
    }

    def __init__(self) -> None:
        links = tuple((link.label, name) for name, link in LINKS.items())
        # What holds all of its memory in one piece has no link to bring experts over.
        device = device_choice("RTX 4090", without=("M3 Ultra", "Laptop"))
        super().__init__(
            {"model_name": model_choice(SPARSE, "gpt-oss-120b")},
            {"device_name": device},
            {
                "link": choice("Link", links, "pcie4", "auto"),
                "hit": whole_slider("Hits, %", 0, 100, 0),
            },
            more=[{"plan": plan_choice("mxfp4_experts")}],
        )
