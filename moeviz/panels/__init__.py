"""Exhibits: controls, a picture and its table twin, each in one call."""

from moeviz.panels.anatomy import InsideLayer
from moeviz.panels.capacity import Seats
from moeviz.panels.collapse import Collapse
from moeviz.panels.contenders import Contenders
from moeviz.panels.dispatch import Dispatch
from moeviz.panels.predict import Predict
from moeviz.panels.race import Race
from moeviz.panels.roofline import Roofline
from moeviz.panels.route_text import RouteText
from moeviz.panels.routers import CompareRouters
from moeviz.panels.tile_waste import TileWaste

__all__ = [
    "Collapse",
    "CompareRouters",
    "Contenders",
    "Dispatch",
    "InsideLayer",
    "Predict",
    "Race",
    "Roofline",
    "RouteText",
    "Seats",
    "TileWaste",
]
