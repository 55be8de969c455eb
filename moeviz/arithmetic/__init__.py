"""What a model costs, from its configuration alone: parameters, FLOPs, bytes, seconds, dollars.

Every result carries its terms, so that a sum can be read: `parameters(arch).terms`. Sizes are
decimal: B is 1e9 parameters, GB 1e9 bytes.
"""

from moeviz.arithmetic.architecture import Architecture
from moeviz.arithmetic.catalogue import Comparison, Figure, Model
from moeviz.arithmetic.claims import CLAIMS, evaluate
from moeviz.arithmetic.compute import (
    attention_flops_per_token,
    decode_flops_per_token,
    forward_flops_per_sequence,
    forward_flops_per_token,
    model_flops_utilisation,
    petaflop_s_days,
    prefill_flops,
    six_n_d_flops,
    training_flops,
    training_flops_per_token,
)
from moeviz.arithmetic.decode import (
    DecodeStep,
    batch_touching,
    critical_batch,
    decode_step,
    distinct_experts,
    distinct_experts_measured,
)
from moeviz.arithmetic.devices import DEVICES, Device, device
from moeviz.arithmetic.feedforward import DenseFFN, MoE
from moeviz.arithmetic.hf import MODEL_TYPES
from moeviz.arithmetic.layers import Layer
from moeviz.arithmetic.ledger import SOURCES, VERDICTS, Assumption, Claim, Evaluation
from moeviz.arithmetic.memory import (
    RECIPES,
    CacheBaseline,
    Fit,
    cache_baselines,
    fit,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    training_state_bytes,
    weight_bytes,
)
from moeviz.arithmetic.mixers import Attention, LatentAttention
from moeviz.arithmetic.models import MODELS, model
from moeviz.arithmetic.money import (
    Bill,
    bill,
    carbon_kg,
    cost_usd,
    device_hours,
    energy_kwh,
    hours_bill,
    margin,
    usd_per_million_tokens,
)
from moeviz.arithmetic.parallel import (
    CapacityUse,
    ExchangeBound,
    OffloadBound,
    balance_efficiency,
    capacity_use,
    exchange_bound,
    offload_bound,
)
from moeviz.arithmetic.parameters import active_parameters, active_share, parameters
from moeviz.arithmetic.quantisation import FORMATS, PLANS, Format, QuantPlan
from moeviz.arithmetic.terms import COMPONENTS, Term, Total
from moeviz.arithmetic.traffic import Destinations, Traffic, all_to_all, destinations

__all__ = [
    "CLAIMS",
    "COMPONENTS",
    "DEVICES",
    "FORMATS",
    "MODELS",
    "MODEL_TYPES",
    "PLANS",
    "RECIPES",
    "SOURCES",
    "VERDICTS",
    "Architecture",
    "Assumption",
    "Attention",
    "Bill",
    "CacheBaseline",
    "CapacityUse",
    "Claim",
    "Comparison",
    "DecodeStep",
    "DenseFFN",
    "Destinations",
    "Device",
    "Evaluation",
    "ExchangeBound",
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
    "attention_flops_per_token",
    "balance_efficiency",
    "batch_touching",
    "bill",
    "cache_baselines",
    "capacity_use",
    "carbon_kg",
    "cost_usd",
    "critical_batch",
    "decode_flops_per_token",
    "decode_step",
    "destinations",
    "device",
    "device_hours",
    "distinct_experts",
    "distinct_experts_measured",
    "energy_kwh",
    "evaluate",
    "exchange_bound",
    "fit",
    "forward_flops_per_sequence",
    "forward_flops_per_token",
    "hours_bill",
    "kv_cache_bytes",
    "kv_cache_bytes_per_token",
    "margin",
    "model",
    "model_flops_utilisation",
    "offload_bound",
    "parameters",
    "petaflop_s_days",
    "prefill_flops",
    "six_n_d_flops",
    "training_flops",
    "training_flops_per_token",
    "training_state_bytes",
    "usd_per_million_tokens",
    "weight_bytes",
]
