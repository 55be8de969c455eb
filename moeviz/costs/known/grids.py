"""How much carbon dioxide a kilowatt hour stands for, by the grid that it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.costs.known.devices import Confidence


@dataclass(frozen=True)
class Grid:
    """A grid's mean over a year. kg_per_kwh: kg of CO2 equivalents of a kWh that is generated."""

    name: str
    kg_per_kwh: float
    year: int
    source: str
    confidence: Confidence = "estimate"


_EMBER = "Ember, by Statista"
_OWID = "Ember and Energy Institute, by Our World in Data"
GRIDS = {
    grid.name: grid
    for grid in (
        Grid("Norway", 0.030, 2023, _EMBER),
        Grid("France", 0.056, 2023, _OWID),
        Grid("Germany", 0.381, 2023, _OWID),
        Grid("World mean", 0.481, 2023, _EMBER),
        Grid("China", 0.582, 2023, _OWID),
        Grid("India", 0.713, 2023, _OWID),
    )
}
