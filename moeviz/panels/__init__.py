"""Exhibits: controls, a picture and its table twin, each in one call."""

from moeviz.panels.anatomy import InsideLayer
from moeviz.panels.capacity import Seats
from moeviz.panels.collapse import Collapse
from moeviz.panels.dispatch import Dispatch
from moeviz.panels.predict import Predict
from moeviz.panels.race import Race
from moeviz.panels.route_text import RouteText
from moeviz.panels.routers import CompareRouters

__all__ = ["Collapse", "CompareRouters", "InsideLayer", "Predict", "Race", "RouteText", "Seats"]
