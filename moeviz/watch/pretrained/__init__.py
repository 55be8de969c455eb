"""Real checkpoints: a Hugging Face MoE model, and where it sends a text's tokens.

Needs the extra `moeviz[models]`. A model's own code from the Hub is never run.
"""

from moeviz.watch.pretrained.checkpoint import load
from moeviz.watch.pretrained.inside import dissect, layers_of, router_tokens, top_k_of
from moeviz.watch.pretrained.model import Pretrained
from moeviz.watch.pretrained.tracing import describe, trace

__all__ = [
    "Pretrained", "describe", "dissect", "layers_of", "load", "router_tokens", "top_k_of", "trace",
]  # fmt: skip
