"""What a run of one's own takes: joules and grams of CO2, an estimate from its seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moeviz.checks import check_number
from moeviz.costs.known.devices import DEVICES, Device
from moeviz.costs.shape.terms import Term

LAPTOP = DEVICES["Laptop CPU, DDR5-5600 x2"]


@dataclass(frozen=True)
class Footprint:
    """The energy of a run and its carbon, and how each figure came about."""

    joules: float
    kwh: float
    co2_grams: float
    terms: tuple[Term, ...]


def footprint(seconds: float, watts: float, kg_per_kwh: float) -> Footprint:
    """What a run of so many seconds takes at a constant power: joules = seconds × watts, and
    grams = kWh × intensity, where a kWh is 3.6 million joules.

    An estimate unless the watts were measured during the run. It leaves out what cools and feeds
    the machine, and what making it took. ValueError on negative numbers.
    """
    joules = check_number("seconds", seconds) * check_number("watts", watts)
    kwh = joules / 3.6e6
    grams = 1000 * kwh * check_number("kg_per_kwh", kg_per_kwh)
    terms = (
        Term("joules", joules, f"{seconds:,.1f} s × {watts:g} W"),
        Term("kWh", kwh, f"{joules:,.0f} J / 3,600,000"),
        Term("g CO2", grams, f"{kwh:.3g} kWh × {kg_per_kwh:g} kg × 1000"),
    )
    return Footprint(joules, kwh, grams, terms)


def assumed_device(name: str) -> Device:
    """The one of DEVICES whose TDP stands for a device of which only the name is known, as
    `host.device_name` has it; a laptop's processor where none of them is it."""
    for device in DEVICES.values():
        words = [word for word in re.split("[ -]", device.name) if word != "SXM"]
        if device.watts and all(re.search(rf"\b{re.escape(word)}B?\b", name) for word in words):
            return device
    return LAPTOP
