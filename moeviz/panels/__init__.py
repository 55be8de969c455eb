"""Exhibits: controls, a picture and its table twin, each in one call."""

from moeviz.panels.anatomy import InsideLayer
from moeviz.panels.predict import Predict
from moeviz.panels.race import Race
from moeviz.panels.route_text import RouteText

__all__ = ["InsideLayer", "Predict", "Race", "RouteText"]
