"""Which experts lie on which device, and how even the devices' loads are then.

numpy only. An expert whose load is too large for one device may have several replicas, which share
its tokens evenly. The balancer is DeepSeek's EPLB (github.com/deepseek-ai/EPLB, commit d52c72d),
layer by layer: pack groups of experts onto nodes, replicate the busiest inside each node, pack the
replicas onto its devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_whole
from moeviz.records.arrays import amounts, ratio


@dataclass(frozen=True)
class Placement:
    """The experts of one layer on its devices. expert_DR: int64, the expert of each replica that a
    device holds, R on each; num_experts: E, each of which lies somewhere."""

    expert_DR: np.ndarray
    num_experts: int

    @property
    def replicas(self) -> np.ndarray:
        """How often each expert is there, int64 [E]."""
        return np.bincount(self.expert_DR.ravel(), minlength=self.num_experts)

    @property
    def wasted(self) -> int:
        """Replicas on a device that holds their expert already: they take memory and no load off
        any other device."""
        return sum(len(held) - len(np.unique(held)) for held in self.expert_DR)

    def load(self, load_E: ArrayLike) -> np.ndarray:
        """What each device has to do, float64 [D], if the replicas of an expert share evenly."""
        each_E = _loads(load_E, self.num_experts) / self.replicas
        return np.asarray(each_E[self.expert_DR].sum(1))

    def imbalance(self, load_E: ArrayLike) -> float:
        """The busiest device's load over the mean, 1 at best: all devices wait for that one. NaN
        without any load."""
        load_D = self.load(load_E)
        return ratio(load_D.max(), load_D.mean())


def contiguous(num_experts: int, devices: int) -> Placement:
    """Experts in the order of their numbers, as many on each device: no plan at all."""
    check_whole("devices", devices)
    check_whole("num_experts", num_experts)
    _check_divides("num_experts", num_experts, "devices", devices)
    return Placement(np.arange(num_experts).reshape(devices, -1), num_experts)


def balanced(
    load_E: ArrayLike,
    *,
    devices: int,
    replicas: int | None = None,
    nodes: int = 1,
    groups: int = 1,
) -> Placement:
    """A placement that evens out these loads (EPLB).

    replicas: of all experts together, None for one of each; groups: experts that stay on one node,
    neighbours by number, for group-limited routing. Where nodes do not divide the groups, experts
    go anywhere, as in EPLB. ValueError where sizes do not divide.
    """
    load_E = amounts("load_E", load_E)
    num_experts = len(load_E)
    replicas = num_experts if replicas is None else replicas
    for name, value in (("devices", devices), ("nodes", nodes), ("groups", groups)):
        check_whole(name, value)
    check_whole("replicas", replicas, low=num_experts)
    _check_divides("replicas", replicas, "devices", devices)
    _check_divides("devices", devices, "nodes", nodes)
    _check_divides("num_experts", num_experts, "groups", groups)
    if groups % nodes:
        nodes = groups = 1
    _check_divides("replicas", replicas, "nodes", nodes)
    # 1. Groups onto nodes.
    expert_GI = np.arange(num_experts).reshape(groups, -1)
    on_node = _packed(load_E[expert_GI].sum(1), nodes)
    # 2. Replicas inside each node, 3. onto its devices.
    held = []
    for group_n in on_node:
        expert_n = expert_GI[group_n].ravel()
        replica_n = _replicated(load_E[expert_n], replicas // nodes)
        each_n = load_E[expert_n] / np.bincount(replica_n)
        for pack in _packed(each_n[replica_n], devices // nodes):
            held.append(expert_n[replica_n[pack]])
    return Placement(np.array(held), num_experts)


def _packed(load_N: np.ndarray, packs: int) -> list[list[int]]:
    """Items onto packs, as many on each: the heaviest item first, onto the lightest pack that has
    room. Items of one a pack stay in their order."""
    room = len(load_N) // packs
    items: list[list[int]] = [[] for _ in range(packs)]
    if room == 1:
        return [[item] for item in range(packs)]
    weight = [0.0] * packs
    for item in np.argsort(-load_N, kind="stable").tolist():
        lightest = min((p for p in range(packs) if len(items[p]) < room), key=weight.__getitem__)
        items[lightest].append(item)
        weight[lightest] += load_N[item]
    return items


def _replicated(load_E: np.ndarray, replicas: int) -> np.ndarray:
    """One replica of each expert, and each further one of the expert whose replicas have the most
    to do: the expert of each replica, int64 [replicas]."""
    expert, count_E = list(range(len(load_E))), np.ones(len(load_E))
    while len(expert) < replicas:
        busiest = int((load_E / count_E).argmax())
        expert.append(busiest)
        count_E[busiest] += 1
    return np.array(expert)


def _loads(load_E: ArrayLike, num_experts: int) -> np.ndarray:
    loads = amounts("load_E", load_E)
    if len(loads) != num_experts:
        raise ValueError(
            f"load_E must have a load for each of {num_experts} experts, got {len(loads)}."
        )
    return loads


def _check_divides(whole: str, count: int, part: str, by: int) -> None:
    if count % by:
        raise ValueError(f"{part} must divide {whole} = {count}, got {by}.")
