"""Training steps per second of one MoE layer, beside its peers with the same weights and inputs.

    python -m moeviz bench training [--experts 8,64,256] [--threads 1] [--rounds 7]

A step is forward + backward (gradients of the input and of every weight) in float32, the router
included: its linear map, softmax, top-k and, for moeviz, the plan and the balance and z losses
(forward only), which the peers do not compute. The dense FFN of equal active FLOPs has no router.
First every contender's output and gradients are compared with float64 experts. Then the
contenders take turns in each round (A B C A B C ...), so that a disturbance on a shared machine
hits all of them; ratios are taken within a round. Wall and process CPU time are both kept:
where other programs run too, CPU time is the steadier one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.host import provenance
from moeviz.model.layer import DenseFFN, MoEConfig, MoEFFN
from moeviz.records.store import write_atomically
from moeviz.routing import RouteContext

RESULT = Path(__file__).resolve().parent / "results" / "training.json"
# num_experts: (tokens, d_model, d_expert, top_k); coarse, OLMoE-like and finest-grained.
SHAPES = {8: (2048, 256, 256, 2), 64: (1024, 512, 256, 8), 256: (512, 256, 64, 8)}
OURS = "moeviz grouped"
DENSE = "dense, equal active FLOPs"
NOT_INSTALLED = "transformers is not installed: 'make bench' installs it"
# All contenders compute the same numbers in float32: more than this is another computation.
AGREE = 1e-4
SECONDS_PER_TURN = 0.2  # a turn repeats a quick step for about this long


class NaiveMoE(nn.Module):
    """The usual tutorial form: a mask and W[e] for one expert after the other."""

    def __init__(self, moe: MoEFFN) -> None:
        super().__init__()
        self.top_k = moe.router.top_k
        self.gate = nn.Parameter(moe.router.weight_ED.detach().clone())
        self.w13 = nn.Parameter(moe.w13_E2FD.detach().clone())
        self.w2 = nn.Parameter(moe.w2_EDF.detach().clone())

    def forward(self, x_TD: Tensor) -> Tensor:
        scores_TK, expert_TK = F.linear(x_TD, self.gate).softmax(-1).topk(self.top_k)
        weight_TK = scores_TK / scores_TK.sum(-1, keepdim=True)
        return naive_experts(x_TD, expert_TK, weight_TK, self.w13, self.w2)


def naive_experts(
    x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor
) -> Tensor:
    y_TD = torch.zeros_like(x_TD)
    for e in range(w13_E2FD.shape[0]):
        token, choice = torch.where(expert_TK == e)
        gate, up = F.linear(x_TD[token], w13_E2FD[e]).chunk(2, -1)
        y = F.linear(F.silu(gate) * up, w2_EDF[e])
        y_TD.index_add_(0, token, (y * weight_TK[token, choice, None]).to(y_TD.dtype))
    return y_TD


class Contender:
    """One way to run the layer: its step, and the gradients to compare, in one order for all."""

    def __init__(self, forward: Callable[[Tensor], Tensor], weights: list[nn.Parameter]) -> None:
        self.forward, self.weights = forward, weights

    def step(self, x_TD: Tensor, grad_TD: Tensor) -> list[Tensor]:
        for leaf in (x_TD, *self.weights):
            leaf.grad = None
        y_TD = self.forward(x_TD)
        y_TD.backward(grad_TD)
        return [y_TD.detach(), x_TD.grad, *(weight.grad for weight in self.weights)]


def moeviz_layer(moe: MoEFFN) -> Contender:
    return Contender(
        lambda x_TD: moe(x_TD, RouteContext())[0], [moe.router.weight_ED, moe.w13_E2FD, moe.w2_EDF]
    )


def mixtral_config(w2_EDF: Tensor, top_k: int, implementation: str) -> Any:
    """Of transformers. Raises ImportError without it."""
    from transformers import MixtralConfig

    num_experts, d_model, d_expert = w2_EDF.shape
    return MixtralConfig(
        hidden_size=d_model,
        intermediate_size=d_expert,
        num_local_experts=num_experts,
        num_experts_per_tok=top_k,
        experts_implementation=implementation,
    )


def mixtral_block(moe: MoEFFN, implementation: str) -> Contender:
    """transformers' block with the weights of `moe`. Raises ImportError without transformers."""
    config = mixtral_config(moe.w2_EDF, moe.router.top_k, implementation)
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    block = MixtralSparseMoeBlock(config).to(moe.w2_EDF.device)
    weights = [block.gate.weight, block.experts.gate_up_proj, block.experts.down_proj]
    with torch.no_grad():
        ours = (moe.router.weight_ED, moe.w13_E2FD, moe.w2_EDF)
        for theirs, same in zip(weights, ours, strict=True):
            theirs.copy_(same)
    return Contender(lambda x_TD: block(x_TD[None])[0], weights)


def contenders(moe: MoEFFN, top_k: int) -> dict[str, Contender]:
    """All that can run here, by name; they share their weights' values, not their memory."""
    num_experts, d_model, d_expert = moe.w2_EDF.shape
    device = moe.w2_EDF.device

    def ours(backend: str) -> Contender:
        config = MoEConfig(num_experts, top_k, d_expert, backend=backend)
        layer = MoEFFN(d_model, config).to(device)
        layer.load_state_dict(moe.state_dict())
        return moeviz_layer(layer)

    naive = NaiveMoE(moe)
    dense = DenseFFN(d_model, top_k * d_expert).to(device)
    found = {OURS: ours("grouped"), "moeviz reference": ours("reference")}
    try:
        for implementation in ("grouped_mm", "eager"):
            block = mixtral_block(moe, implementation)
            found[f"transformers Mixtral {implementation}"] = block
    except ImportError:
        print(NOT_INSTALLED)
    found["naive loop over W[e]"] = Contender(naive, [naive.gate, naive.w13, naive.w2])
    found[DENSE] = Contender(
        lambda x_TD: dense(x_TD, RouteContext())[0], [dense.w13_2FD, dense.w2_DF]
    )
    return found


def relative_errors(
    found: dict[str, Contender], moe: MoEFFN, x_TD: Tensor, grad_TD: Tensor
) -> dict[str, float]:
    """||a - b|| / ||b||, the largest of output and gradients, against float64 experts.

    The router stays in float32 there as everywhere, so that all route the same way.
    """
    exact = moeviz_layer(moe.double())
    want = exact.step(x_TD.detach().double().requires_grad_(), grad_TD.double())
    errors = {}
    for name, contender in found.items():
        got = contender.step(x_TD, grad_TD)  # the dense FFN has nothing to compare: a warm-up
        if name != DENSE:
            pairs = zip(got, want, strict=True)
            errors[name] = max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)
    return errors


def take_turn(step: Callable[[], object], device: torch.device, repeats: int) -> tuple[float, ...]:
    """Wall and process CPU milliseconds of one step."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return wall * 1e3 / repeats, cpu * 1e3 / repeats


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(num_experts: int, tokens: int | None, rounds: int, device: torch.device) -> dict:
    """One size: numerical agreement, then interleaved timing."""
    default_tokens, d_model, d_expert, top_k = SHAPES[num_experts]
    tokens = tokens or default_tokens
    torch.manual_seed(0)
    config = MoEConfig(num_experts, top_k, d_expert, backend="reference")
    moe = MoEFFN(d_model, config).to(device)
    x_TD = torch.randn(tokens, d_model, device=device, requires_grad=True)
    grad_TD = torch.randn(tokens, d_model, device=device)
    load_E = moe.router(x_TD, RouteContext()).stats.load.double()
    found = contenders(moe, top_k)
    errors = relative_errors(found, moe, x_TD, grad_TD)

    steps = {name: lambda c=c: c.step(x_TD, grad_TD) for name, c in found.items()}
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in found}
    repeats = {}
    for name, step in steps.items():
        wall_ms, _ = take_turn(step, device, 1)
        repeats[name] = max(1, round(SECONDS_PER_TURN * 1e3 / wall_ms))
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(take_turn(step, device, repeats[name]))

    results = {}
    for name, turns in times.items():
        wall_ms, cpu_ms = (list(column) for column in zip(*turns, strict=True))
        walls, cpus = zip(*times[OURS], strict=True)
        results[name] = {
            "steps_per_second": 1e3 / statistics.median(wall_ms),
            "wall_ms": spread(wall_ms),
            "cpu_ms": spread(cpu_ms),
            "wall_ratio": spread([a / b for a, b in zip(wall_ms, walls, strict=True)]),
            "cpu_ratio": spread([a / b for a, b in zip(cpu_ms, cpus, strict=True)]),
            "relative_error": errors.get(name),
            "steps_per_turn": repeats[name],
        }
    return {
        "shape": {
            "tokens": tokens,
            "d_model": d_model,
            "d_expert": d_expert,
            "num_experts": num_experts,
            "top_k": top_k,
        },
        "active_gflop_per_step": 18e-9 * tokens * top_k * d_model * d_expert,
        "max_over_mean_load": float(load_E.max() / load_E.mean()),
        "agree": all(error < AGREE for error in errors.values()),
        "contenders": results,
    }


def table(case: dict) -> str:
    """The case as text, one row a contender."""
    shape = case["shape"]
    lines = [
        "T={tokens} D={d_model} F={d_expert} E={num_experts} K={top_k}, ".format(**shape)
        + f"forward + backward, {case['active_gflop_per_step']:.1f} active GFLOP a step, "
        f"busiest expert {case['max_over_mean_load']:.1f}x the mean",
        f"{'':32}{'steps/s':>9}{'wall ms':>25}{'CPU ms':>25}"
        f"{'x wall':>8}{'x CPU':>8}{'rel. error':>12}",
    ]
    for name, r in case["contenders"].items():
        wall, cpu = (
            f"{t['median']:.1f} ({t['min']:.1f}-{t['max']:.1f})"
            for t in (r["wall_ms"], r["cpu_ms"])
        )
        error = "-" if r["relative_error"] is None else f"{r['relative_error']:.0e}"
        lines.append(
            f"{name:32}{r['steps_per_second']:9.2f}{wall:>25}{cpu:>25}"
            f"{r['wall_ratio']['median']:8.2f}{r['cpu_ratio']['median']:8.2f}{error:>12}"
        )
    return "\n".join(lines)


def load_average() -> list[float] | None:
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return 0 where all contenders agree, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m moeviz bench training", description=__doc__.split("\n", 1)[0]
    )
    add = parser.add_argument
    add("--json", type=Path, default=RESULT, help="where the figures go (default: %(default)s)")
    add("--experts", default=",".join(map(str, SHAPES)), help="sizes to run (default: %(default)s)")
    add("--tokens", type=int, help="tokens in a batch (default: by size)")
    add("--threads", type=int, default=torch.get_num_threads(), help="torch's CPU threads")
    add("--rounds", type=int, default=7)
    add("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args(argv)
    sizes = arguments.experts.split(",")
    if unknown := [size for size in sizes if size not in map(str, SHAPES)]:
        known = ", ".join(map(str, SHAPES))
        parser.error(f"--experts takes {known}, separated by commas, got {', '.join(unknown)}")
    for name in ("tokens", "threads", "rounds"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")

    command = f"{parser.prog} --experts {arguments.experts} --rounds {arguments.rounds}"
    command += f" --threads {arguments.threads} --device {arguments.device}"
    command += f" --tokens {arguments.tokens}" if arguments.tokens else ""
    report = {
        "provenance": provenance(command),
        "threads": arguments.threads,
        "dtype": "float32",
        "router_included": True,
        "load_average_before": load_average(),
        "cases": [],
    }
    before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        for size in sizes:
            device = torch.device(arguments.device)
            case = measure(int(size), arguments.tokens, arguments.rounds, device)
            report["cases"].append(case)
            print(table(case), end="\n\n", flush=True)
    finally:
        torch.set_num_threads(before)
    report["load_average_after"] = load_average()
    transformers = sys.modules.get("transformers")
    report["provenance"]["versions"]["transformers"] = getattr(transformers, "__version__", None)
    print(
        f"Times: median (least-most) of the rounds. Ratios: against {OURS}, within a round, median."
    )
    print("The router is included in every timing; the dense FFN has none.")
    print(f"Load average {report['load_average_before']} before, {load_average()} after.")
    write_atomically(arguments.json, (json.dumps(report, indent=1) + "\n").encode())
    if not all(case["agree"] for case in report["cases"]):
        print(f"The contenders do not compute the same: a relative error is above {AGREE}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
