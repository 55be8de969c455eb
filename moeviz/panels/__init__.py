"""Exhibits: controls, a picture and its table twin, each in one call."""

from moeviz.panels.anatomy import InsideLayer
from moeviz.panels.cache_ladder import CacheLadder
from moeviz.panels.capacity import Seats
from moeviz.panels.claims import Claims
from moeviz.panels.collapse import Collapse
from moeviz.panels.contenders import Contenders
from moeviz.panels.decode_batch import DecodeBatch
from moeviz.panels.dispatch import Dispatch
from moeviz.panels.exchange import Exchange
from moeviz.panels.memory_fit import MemoryFit
from moeviz.panels.model_anatomy import ModelAnatomy
from moeviz.panels.model_map import ModelMap
from moeviz.panels.offloading import Offloading
from moeviz.panels.predict import Predict
from moeviz.panels.race import Race
from moeviz.panels.roofline import Roofline
from moeviz.panels.route_text import RouteText
from moeviz.panels.routers import CompareRouters
from moeviz.panels.tile_waste import TileWaste
from moeviz.panels.training_cost import TrainingCost

__all__ = [
    "CacheLadder",
    "Claims",
    "Collapse",
    "CompareRouters",
    "Contenders",
    "DecodeBatch",
    "Dispatch",
    "Exchange",
    "InsideLayer",
    "MemoryFit",
    "ModelAnatomy",
    "ModelMap",
    "Offloading",
    "Predict",
    "Race",
    "Roofline",
    "RouteText",
    "Seats",
    "TileWaste",
    "TrainingCost",
]
