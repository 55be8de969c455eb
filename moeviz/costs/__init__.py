"""What a model costs, from its configuration alone: parameters, FLOPs, bytes, seconds, dollars.

Every result carries its terms, so that a sum can be read: `parameters(arch).terms`. Sizes are
decimal: B is 1e9 parameters, GB 1e9 bytes.
"""

from moeviz.costs.claims.claims import CLAIMS, Evaluation, evaluate
from moeviz.costs.claims.ledger import SOURCES, VERDICTS, Assumption, Claim
from moeviz.costs.cost.compute import six_n_d_flops, training_flops_per_token
from moeviz.costs.cost.decode import DecodeStep, critical_batch, decode_step, distinct_experts
from moeviz.costs.cost.energy import Footprint, assumed_device, footprint
from moeviz.costs.cost.memory import (
    Fit,
    cache_baselines,
    fit,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    weight_bytes,
)
from moeviz.costs.cost.money import Bill, bill, hours_bill
from moeviz.costs.cost.parameters import active_parameters, parameters
from moeviz.costs.cost.traffic import Traffic, all_to_all, offload_bound
from moeviz.costs.known.catalogue import Model
from moeviz.costs.known.devices import DEVICES, Device, device
from moeviz.costs.known.grids import GRIDS, Grid
from moeviz.costs.known.models import MODELS, model
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.feedforward import MoE
from moeviz.costs.shape.layers import Layer
from moeviz.costs.shape.mixers import LatentAttention
from moeviz.costs.shape.terms import Total

__all__ = [
    "CLAIMS", "DEVICES", "GRIDS", "MODELS", "SOURCES", "VERDICTS", "Architecture", "Assumption",
    "Bill", "Claim", "DecodeStep", "Device", "Evaluation", "Fit", "Footprint", "Grid",
    "LatentAttention", "Layer", "MoE", "Model", "Total", "Traffic", "active_parameters",
    "all_to_all", "assumed_device", "bill", "cache_baselines", "critical_batch", "decode_step",
    "device", "distinct_experts", "evaluate", "fit", "footprint", "hours_bill",
    "kv_cache_bytes", "kv_cache_bytes_per_token", "model", "offload_bound", "parameters",
    "six_n_d_flops", "training_flops_per_token", "weight_bytes",
]  # fmt: skip
