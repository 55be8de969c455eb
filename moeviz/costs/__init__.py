"""What a model costs, from its configuration alone: parameters, FLOPs, bytes, seconds, dollars.

Every result carries its terms, so that a sum can be read: `parameters(arch).terms`. Sizes are
decimal: B is 1e9 parameters, GB 1e9 bytes.
"""

from moeviz.costs.claims.claims import CLAIMS, evaluate
from moeviz.costs.claims.ledger import SOURCES, VERDICTS, Assumption, Claim, Evaluation
from moeviz.costs.cost.compute import (
    decode_flops_per_token,
    forward_flops_per_sequence,
    forward_flops_per_token,
    six_n_d_flops,
    training_flops_per_token,
)
from moeviz.costs.cost.decode import (
    DecodeStep,
    critical_batch,
    decode_step,
    distinct_experts,
)
from moeviz.costs.cost.memory import (
    CacheBaseline,
    Fit,
    cache_baselines,
    fit,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    weight_bytes,
)
from moeviz.costs.cost.money import (
    Bill,
    bill,
    carbon_kg,
    cost_usd,
    device_hours,
    energy_kwh,
    hours_bill,
    margin,
)
from moeviz.costs.cost.parameters import active_parameters, active_share, parameters
from moeviz.costs.cost.quantisation import FORMATS, PLANS, Format, QuantPlan
from moeviz.costs.cost.traffic import (
    Destinations,
    OffloadBound,
    Traffic,
    all_to_all,
    destinations,
    offload_bound,
)
from moeviz.costs.known.catalogue import Comparison, Figure, Model
from moeviz.costs.known.devices import DEVICES, Device, device
from moeviz.costs.known.models import MODELS, model
from moeviz.costs.read_hf.read import MODEL_TYPES
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.feedforward import DenseFFN, MoE
from moeviz.costs.shape.layers import Layer
from moeviz.costs.shape.mixers import Attention, LatentAttention
from moeviz.costs.shape.terms import COMPONENTS, Term, Total

__all__ = [
    "CLAIMS",
    "COMPONENTS",
    "DEVICES",
    "FORMATS",
    "MODELS",
    "MODEL_TYPES",
    "PLANS",
    "SOURCES",
    "VERDICTS",
    "Architecture",
    "Assumption",
    "Attention",
    "Bill",
    "CacheBaseline",
    "Claim",
    "Comparison",
    "DecodeStep",
    "DenseFFN",
    "Destinations",
    "Device",
    "Evaluation",
    "Figure",
    "Fit",
    "Format",
    "LatentAttention",
    "Layer",
    "MoE",
    "Model",
    "OffloadBound",
    "QuantPlan",
    "Term",
    "Total",
    "Traffic",
    "active_parameters",
    "active_share",
    "all_to_all",
    "bill",
    "cache_baselines",
    "carbon_kg",
    "cost_usd",
    "critical_batch",
    "decode_flops_per_token",
    "decode_step",
    "destinations",
    "device",
    "device_hours",
    "distinct_experts",
    "energy_kwh",
    "evaluate",
    "fit",
    "forward_flops_per_sequence",
    "forward_flops_per_token",
    "hours_bill",
    "kv_cache_bytes",
    "kv_cache_bytes_per_token",
    "margin",
    "model",
    "offload_bound",
    "parameters",
    "six_n_d_flops",
    "training_flops_per_token",
    "weight_bytes",
]
