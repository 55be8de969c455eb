"""A small healthy MoE layer and five in which one thing is wrong, trained and examined alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from moeviz.pictures.table import Table
from moeviz.records.metrics import max_violation

if TYPE_CHECKING:
    from torch import Tensor

HEALTHY, DETACHED, FOLDED, SIGN, TOKENS, STALE, UNSCALED = (
    "healthy",
    "detached weights",
    "bias in the weights",
    "sign of the balancing loss",
    "softmax over tokens",
    "old tokens",
    "outputs without weights",
)
SABOTAGED = {"A": TOKENS, "B": FOLDED, "C": STALE, "D": DETACHED, "E": SIGN}
D_MODEL, EXPERTS, TOP_K, TOKENS_IN_BATCH, STEPS, LAST = 16, 8, 2, 128, 150, 50
BALANCE, BIAS_RATE = 2.0, 1e-3  # strong, so that the wrong sign shows within so few steps


@dataclass
class Layer:
    """Eight linear experts, two for a token. fault: what is wrong with it.

    The balancing loss pushes the load even, and so does a bias by the sign rule, which enters the
    choice alone.
    """

    fault: str
    gate_ED: Tensor
    expert_EDD: Tensor
    old_TD: Tensor
    bias_E: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.bias_E = self.gate_ED.new_zeros(EXPERTS)

    def __call__(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y_TD, expert_TK and the scores [T, E]."""
        import torch

        seen_TD = self.old_TD[: len(x_TD)] if self.fault == STALE else x_TD
        score_TE = (seen_TD @ self.gate_ED.T).softmax(0 if self.fault == TOKENS else -1)
        expert_TK = (score_TE.detach() + self.bias_E).topk(TOP_K).indices
        weighed_TE = score_TE + self.bias_E if self.fault == FOLDED else score_TE
        weight_TK = weighed_TE.gather(1, expert_TK)
        weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True)
        if self.fault == DETACHED:
            weight_TK = weight_TK.detach()
        if self.fault == UNSCALED:
            weight_TK = torch.ones_like(weight_TK)
        y_TED = torch.einsum("td,efd->tef", x_TD, self.expert_EDD)
        weight_TE = torch.zeros_like(score_TE).scatter(1, expert_TK, weight_TK)
        return (weight_TE[..., None] * y_TED).sum(1), expert_TK, score_TE

    def balancing_loss(self, expert_TK: Tensor, score_TE: Tensor) -> Tensor:
        from moeviz.routing.balance import load_balancing_loss

        load_E = expert_TK.flatten().bincount(minlength=EXPERTS)
        loss = BALANCE * load_balancing_loss(score_TE, load_E)
        return -loss if self.fault == SIGN else loss

    @property
    def parameters(self) -> list[Tensor]:
        return [self.gate_ED, self.expert_EDD]


class Task:
    """Tokens of several kinds, some of them frequent, and a linear map for each kind to learn."""

    def __init__(self) -> None:
        import torch

        self.random = torch.Generator().manual_seed(0)
        self.centre_GD = 1.5 * torch.randn(EXPERTS, D_MODEL, generator=self.random)
        self.map_GDD = torch.randn(EXPERTS, D_MODEL, D_MODEL, generator=self.random) / 4
        self.often_G = torch.linspace(3, 1, EXPERTS)

    def batch(self) -> tuple[Tensor, Tensor]:
        """x_TD and what is to be learned of it, y_TD."""
        import torch

        kind_T = self.often_G.multinomial(TOKENS_IN_BATCH, True, generator=self.random)
        noise_TD = torch.randn(TOKENS_IN_BATCH, D_MODEL, generator=self.random)
        x_TD = self.centre_GD[kind_T] + noise_TD
        return x_TD, torch.einsum("td,tfd->tf", x_TD, self.map_GDD[kind_T])


def build(fault: str) -> tuple[Layer, Task]:
    """A layer at its start and its task; the same for every fault."""
    import torch

    task = Task()
    old_TD, _ = task.batch()
    gate_ED = 0.1 * torch.randn(EXPERTS, D_MODEL, generator=task.random)
    expert_EDD = torch.randn(EXPERTS, D_MODEL, D_MODEL, generator=task.random) / 4
    return Layer(fault, gate_ED.requires_grad_(), expert_EDD.requires_grad_(), old_TD), task


# The figures, by the names under which they are shown.
SIZE = "size of the output at the start"
SLOPE = "gradient of the task's loss at the gate"
LOSS = f"the task's loss, last {LAST} steps"
VIOLATION = f"MaxVio, last {LAST} steps"
RAISED = "all biases raised by 0.1: the output changes by"
LATER = "later tokens replaced: the earlier outputs change by"
SAME = "all tokens replaced: share of places with the same experts"


def figures(fault: str) -> dict[str, float]:
    """What a layer shows: at its start, in training, and afterwards under three changes."""
    import torch

    layer, task = build(fault)
    x_TD, wanted_TD = task.batch()
    y_TD, _, _ = layer(x_TD)
    loss = (y_TD - wanted_TD).square().mean()
    (slope_ED,) = torch.autograd.grad(loss, layer.gate_ED, allow_unused=True)
    slope = 0.0 if slope_ED is None else slope_ED.norm().item()
    start = {SIZE: y_TD.square().mean().sqrt().item(), SLOPE: slope}
    return start | train(layer, task) | changes(layer, task)


def train(layer: Layer, task: Task) -> dict[str, float]:
    """Loss and balance at the end of a training."""
    from moeviz.model.adamw import AdamW

    optimizer = AdamW(layer.parameters, lr=1e-2, weight_decay=0.0)
    losses, loads = [], []
    for _ in range(STEPS):
        x_TD, wanted_TD = task.batch()
        y_TD, expert_TK, score_TE = layer(x_TD)
        loss = (y_TD - wanted_TD).square().mean()
        optimizer.zero_grad()
        (loss + layer.balancing_loss(expert_TK, score_TE)).backward()
        optimizer.step()
        load_E = expert_TK.flatten().bincount(minlength=EXPERTS)
        layer.bias_E += BIAS_RATE * (load_E.float().mean() - load_E).sign()
        losses.append(loss.item())
        loads.append(load_E.numpy())
    return {LOSS: sum(losses[-LAST:]) / LAST, VIOLATION: max_violation(sum(loads[-LAST:]))}


def changes(layer: Layer, task: Task) -> dict[str, float]:
    """What other biases, other later tokens and other tokens change."""
    import torch

    with torch.no_grad():
        x_TD, other_TD = task.batch()[0], task.batch()[0]
        y_TD, expert_TK, _ = layer(x_TD)
        half = TOKENS_IN_BATCH // 2
        later_TD, _, _ = layer(torch.cat((x_TD[:half], other_TD[half:])))
        _, other_TK, _ = layer(other_TD)
        layer.bias_E += 0.1
        raised_TD, _, _ = layer(x_TD)
    same_T = (expert_TK.sort(1).values == other_TK.sort(1).values).all(1)
    return {
        RAISED: ((raised_TD - y_TD).norm() / y_TD.norm()).item(),
        LATER: ((later_TD - y_TD)[:half].norm() / y_TD[:half].norm()).item(),
        SAME: same_T.float().mean().item(),
    }


@cache
def examine() -> Table:
    """The figures of the healthy layer and of the five, one column each."""
    columns = {name: figures(fault) for name, fault in {HEALTHY: HEALTHY, **SABOTAGED}.items()}
    rows = [
        (name, *(f"{column[name]:.3f}" for column in columns.values())) for name in columns[HEALTHY]
    ]
    caption = "Six layers, the same start, the same task; in A to E one thing is wrong."
    return Table(caption, ("figure", *columns), rows)
