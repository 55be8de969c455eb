"""Exhibits: controls, a picture and its table twin, each in one call."""

from moeviz.panels.costs.cache_ladder import CacheLadder
from moeviz.panels.costs.claims import Claims
from moeviz.panels.costs.decode_batch import DecodeBatch
from moeviz.panels.costs.exchange import Exchange
from moeviz.panels.costs.memory_fit import MemoryFit
from moeviz.panels.costs.model_anatomy import ModelAnatomy
from moeviz.panels.costs.model_map import ModelMap
from moeviz.panels.costs.offloading import Offloading
from moeviz.panels.costs.training_cost import TrainingCost
from moeviz.panels.kernels.contenders import Contenders
from moeviz.panels.kernels.dispatch import Dispatch
from moeviz.panels.kernels.roofline import Roofline
from moeviz.panels.kernels.tile_waste import TileWaste
from moeviz.panels.predict import Predict
from moeviz.panels.routing.capacity import Seats
from moeviz.panels.routing.inside_layer import InsideLayer
from moeviz.panels.routing.route_text import RouteText
from moeviz.panels.routing.routers import CompareRouters
from moeviz.panels.training.collapse import Collapse
from moeviz.panels.training.race import Race

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
