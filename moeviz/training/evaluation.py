"""What held-out text says of a model: which windows meet in a batch, and whose load is whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from moeviz.checks import check_choice
from moeviz.ops import count
from moeviz.routing.plan import Plan, SoftPlan

# Unless asked for others: enough for a curve, whose points differ by more than they err.
WINDOWS_PER_DOMAIN = 8
# For a final figure: 528 windows of six domains, which are whole batches of 16.
FINAL_WINDOWS = 88

Pool = Literal["mixed", "domain", "sequence"]


@dataclass(frozen=True)
class Evaluation:
    """How a model does on held-out text. domain_loss: nats per token, float64 [domains]; load:
    assignments per MoE layer, domain and expert, float64 [L, domains, E]; tokens: of all domains.

    A slot of a soft router counts for each domain by that domain's part of what the slot reads.
    """

    domain_loss: np.ndarray
    load: np.ndarray
    tokens: int

    @property
    def loss(self) -> float:
        """The mean over domains, nats per token."""
        return float(self.domain_loss.mean())

    @property
    def active_experts(self) -> np.ndarray:
        """How many experts worked for a token on average, float64 [L]; shared ones do not count."""
        return self.load.sum((1, 2)) / self.tokens


def batches(domain_W: np.ndarray, pool: str, batch_size: int) -> list[np.ndarray]:
    """Which windows are evaluated together: their numbers, each once, at most batch_size a batch.

    domain_W: the domain of each window, as many of each. "mixed": domains take turns, as in a batch
    of training; "domain": a batch holds one domain; "sequence": each window is alone. Batches are
    of one size, give or take one window, so that no pool is much smaller than another. Neighbours
    in the text do not meet more often than in training: the order is drawn, the same every time.
    """
    check_choice("pool", pool, get_args(Pool))
    domains = [np.flatnonzero(domain_W == domain) for domain in np.unique(domain_W)]
    drawn = np.argsort(np.random.Philox(key=0).random_raw(len(domains[0])))
    domains = [windows[drawn] for windows in domains]
    if pool == "mixed":
        domains = [np.stack(domains, axis=1).ravel()]
    size = 1 if pool == "sequence" else batch_size
    return [b for rows in domains for b in np.array_split(rows, -(-len(rows) // size))]


def domain_load(plan: Plan | SoftPlan, domain_T: Tensor, num_domains: int) -> Tensor:
    """How many of an expert's rows are of each domain [domains, E]: int64, or float for a soft
    router, whose slot is of each domain by that domain's part of the mixture."""
    if isinstance(plan, SoftPlan):
        read_TE = plan.by_token(plan.dispatch.sum(-1))
        return F.one_hot(domain_T, num_domains).to(read_TE.dtype).T @ read_TE
    cell_N = domain_T[plan.token.long()] * plan.num_experts + plan.expert
    return count(cell_N, num_domains * plan.num_experts).view(num_domains, -1)
