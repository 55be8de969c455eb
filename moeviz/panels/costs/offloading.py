"""Experts that lie behind a link: what bounds decoding, and what a cache of them is worth."""

from __future__ import annotations

from moeviz.costs import device
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, whole_slider
from moeviz.panels.hardware_choice import SPARSE, device_choice, model_choice, plan_choice
from moeviz.pictures.costs.model_parts import sparse_sizes_of
from moeviz.pictures.costs.offloading import LINKS, Setup, offloading

OPENING = "gpt-oss-120b", "RTX 4090", "mxfp4_experts"
T4 = {
    "model_name": "Mixtral 8x7B", "device_name": "T4", "plan": "int4", "link": "pcie3", "hit": 0,
}  # fmt: skip


def even_hits(model_name: str, device_name: str, plan: str) -> int:
    """The hit rate under even routing, in per cent."""
    setup = Setup(sparse_sizes_of(model_name), device(device_name), plan)
    return round(100 * setup.even_hit_rate)


class Offloading(Panel):
    """The most tokens a second of one sequence, by hit rate, for each link."""

    draws = offloading
    presets = {
        "Mixtral on a T4": T4,
        "Half of its experts cached": T4 | {"hit": 50},
        "Experts on a disk": {"link": "nvme"},
        "Kimi K2 on one B200": {
            "model_name": "Kimi K2", "device_name": "B200 SXM", "plan": "int4",
            "hit": even_hits("Kimi K2", "B200 SXM", "int4"),
        },
    }  # fmt: skip

    def __init__(self) -> None:
        links = tuple((link.label, name) for name, link in LINKS.items())
        # What holds all of its memory in one piece has no link to bring experts over.
        model_name, device_name, plan = OPENING
        devices = device_choice(device_name, without=("M3 Ultra", "Laptop"))
        super().__init__(
            {"model_name": model_choice(SPARSE, model_name)},
            {
                "link": choice("Link", links, "pcie4", "auto"),
                "hit": whole_slider("Hits, %", 0, 100, even_hits(*OPENING)),
            },
            more=[{"device_name": devices}, {"plan": plan_choice(plan)}],
        )
