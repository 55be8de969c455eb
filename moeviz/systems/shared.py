"""A batch and its experts among the processes of a run, so that training is a single process's."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.parallel import DistributedDataParallel

from moeviz.model import ModelConfig
from moeviz.model.division import Division
from moeviz.model.experts import apply_experts
from moeviz.model.transformer import LossOut
from moeviz.routing import (
    ROUTERS,
    BaseRouter,
    Plan,
    RouteContext,
    RouterOut,
    RouterStats,
    SoftPlan,
)
from moeviz.systems.exchange import Copies, all_gather, exchanged_experts
from moeviz.systems.ranks import Ranks

EXPERTS = ("w13_E2FD", "w2_EDF")  # of an MoEFFN


class SharedDivision(Division):
    """Every process has the ids of the whole batch and works on its share of the sequences.

    Before each router what it reads is gathered, so that every process decides on all tokens, as
    one process would. Choices that compare tokens (expert choice, capacities, Sinkhorn, BASE),
    noise, balancing losses, counts and biases are then those of the whole batch in every process,
    and nothing of them has to be reduced. It costs D numbers a token and layer, beside the 2 K D of
    the exchange, and the router's own work R times over. All is equal to rounding, save where two
    tokens are exactly alike (the first of two texts that begin with one word): a rule that ranks
    tokens (expert choice, BASE, a capacity by weight) may take the other twin.

    Gradients are means over processes: DDP's of what all have, or FSDP's where it is sharded (each
    process keeps an R-th of every parameter and its moments, and has the whole while a block runs);
    those of experts here, which add up what all tokens sent back, by hand: one DDP has one group,
    and theirs is a column of the mesh. copies: see exchanged_experts.
    """

    def __init__(self, ranks: Ranks, *, sharded: bool = False, copies: Copies = "expert") -> None:
        super().__init__()
        self.copies = copies
        self.ranks, self.size, self.device = ranks, ranks.size, ranks.device
        self.sharded = sharded

    def check(
        self, model: ModelConfig, batch_size: int, precision: torch.dtype, *, compiled: bool
    ) -> None:
        if compiled:
            raise ValueError("compile is for one process; leave it out.")
        if precision == torch.float16:
            raise ValueError(
                "float16 training is for one process, whose gradients overflow together; use "
                "precision='float32'."
            )
        if batch_size % self.size:
            raise ValueError(
                f"batch_size must be a multiple of the {self.size} processes, got {batch_size}."
            )
        expert = self.ranks.expert
        if model.moe is None:
            if expert > 1:
                raise ValueError(
                    f"A dense model has no experts to spread over {expert} processes; use "
                    "data_parallel."
                )
            return
        if model.moe.num_experts % expert:
            raise ValueError(
                f"expert_parallel must divide num_experts = {model.moe.num_experts}, got {expert}."
            )
        if self.sharded and model.moe.options.get("learning") == "rerandomised":
            raise ValueError("A gate that is drawn again after every step cannot be sharded.")
        if self.size > 1 and ROUTERS[model.moe.router].soft:
            raise ValueError(
                f"Router {model.moe.router!r} mixes tokens instead of sending them to experts, so "
                "its model trains in one process."
            )

    def divide(self, model: nn.Module) -> None:
        """Let the model work so, and keep of its experts those that live here."""
        super().divide(model)
        if self.ranks.expert > 1:
            place, size = dist.get_rank(self.ranks.expert_group), self.ranks.expert
            for block in model.blocks:
                for name in EXPERTS if hasattr(block.ffn, "router") else ():
                    here = getattr(block.ffn, name).detach().chunk(size)[place]
                    setattr(block.ffn, name, nn.Parameter(here.clone()))
        # A group of its own: the order of its sums and of the exchanges may differ by process.
        self.replicas = dist.new_group()
        if self.sharded:
            _tell_pytrees()
            mesh = DeviceMesh.from_group(self.replicas, self.ranks.device.type)
            empty = [name for name, p in model.named_parameters() if not p.numel()]
            if empty:
                raise ValueError(f"{empty[0]} has no entries to shard; leave --shard out.")
            ignored = {parameter for _, parameter in self.spread(model)}
            for part in (*model.blocks, model):
                fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)

    def replicated(self, model: nn.Module) -> Any:
        if self.sharded:
            return model
        # Buffers are equal everywhere without being sent.
        ignored = [name for name, _ in (*self.spread(model), *model.named_buffers())]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
        return DistributedDataParallel(model, process_group=self.replicas)

    def spread(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        if self.ranks.expert == 1:
            return []
        return [(n, p) for n, p in model.named_parameters() if n.endswith(EXPERTS)]

    def as_parts(self, tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        spread = tuple(name for name, _ in self.spread(model))
        placements = [Replicate(), Shard(0)]
        return {
            name: DTensor.from_local(value, self.ranks.mesh, placements, run_check=False)
            if spread and name.endswith(spread)
            else value
            for name, value in tensors.items()
        }

    # --- a batch ---

    def own_rows(self, values_BS: Tensor) -> Tensor:
        return values_BS.chunk(self.size)[self.ranks.rank]

    def own_tokens(self, values_TD: Tensor) -> Tensor:
        return values_TD.chunk(self.size)[self.ranks.rank]

    def own_plan(self, plan: Plan | SoftPlan) -> Plan | SoftPlan:
        assert isinstance(plan, Plan)
        share = plan.num_tokens // self.size
        return plan.of_tokens(self.ranks.rank * share, (self.ranks.rank + 1) * share)

    def route(self, router: BaseRouter, x_TD: Tensor, context: RouteContext) -> RouterOut:
        return super().route(router, all_gather(x_TD, self.ranks.all_group), context)

    def experts(
        self, x_TD: Tensor, plan: Plan | SoftPlan, w13_E2FD: Tensor, w2_EDF: Tensor, backend: str
    ) -> Tensor:
        if self.ranks.expert == 1:
            return apply_experts(x_TD, plan, w13_E2FD, w2_EDF, backend=backend)
        assert isinstance(plan, Plan)
        group = self.ranks.expert_group
        return exchanged_experts(
            x_TD, plan, w13_E2FD, w2_EDF, group, copies=self.copies, backend=backend
        )

    # --- a step ---

    def clip_gradients(self, model: nn.Module, most: float) -> Tensor:
        spread = [parameter for _, parameter in self.spread(model)]
        for parameter in spread:
            if self.ranks.data > 1:
                dist.all_reduce(parameter.grad, group=self.ranks.data_group)
            parameter.grad /= self.size
        here = {id(parameter) for parameter in spread}
        parts = [p for p in model.parameters() if id(p) not in here], spread
        squares = []
        for part in parts:
            norm = nn.utils.get_total_norm([p.grad for p in part if p.grad is not None])
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            squares.append(norm.to(self.ranks.device) ** 2)
        dist.all_reduce(squares[1], group=self.ranks.expert_group)
        norm = torch.sqrt(squares[0] + squares[1])
        for part in parts:
            nn.utils.clip_grads_with_norm_(part, most, norm)
        return norm

    def mean(self, values: Tensor) -> Tensor:
        values = values.detach().clone()
        dist.all_reduce(values)
        return values / self.size

    def all_rows(self, values_b: Tensor) -> Tensor:
        return all_gather(values_b, self.ranks.all_group)


@functools.cache
def _tell_pytrees() -> None:
    """FSDP looks for the tensors of a block's output, and knows tuples and dicts alone. It warns of
    views among them, on which nobody here works in place."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    for kind in (LossOut, RouterOut, RouterStats, Plan):
        torch.export.register_dataclass(kind)
