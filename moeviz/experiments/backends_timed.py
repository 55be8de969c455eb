"""The backends of the experts against each other on this machine, and what the machine can do.

Contenders take turns (watch/timing.py). A CPU works with one thread: what else runs then disturbs
least, and the notebook stays quick. Triton's interpreter is no contender: what it takes says
nothing of a kernel.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.host import device_name
from moeviz.leaving import Stopped
from moeviz.model.experts import apply_experts, swiglu
from moeviz.routing import Plan
from moeviz.watch.routers import one_thread
from moeviz.watch.timing import Mark, Step, by_turns, copy_gb_per_s, matmul_tflops, seconds, spread

# on_turn(done, total) -> whether to go on.
OnTurn = Callable[[int, int], bool]
EXPERTS = (8, 64, 256)
ROUNDS = 25
SLOW_STEP_SECONDS = 1.5  # a contender that took so long has no more turns, but two
# The layer whose roofline is drawn, and the numbers of tokens that are measured.
LAYERS: dict[str, dict[str, int]] = {
    "cpu": dict(d_model=512, d_expert=256, num_experts=64, top_k=4),
    "cuda": dict(d_model=2048, d_expert=1024, num_experts=64, top_k=8),
}
MEASURED_TOKENS = {"cpu": (1, 16, 256, 2048), "cuda": (1, 16, 256, 4096)}


def device_and_dtype() -> tuple[torch.device, torch.dtype]:
    """The GPU in the dtype of its tensor cores, or else the CPU in float32."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    fast = torch.cuda.get_device_capability() >= (8, 0)
    return torch.device("cuda"), torch.bfloat16 if fast else torch.float16


def described() -> str:
    """The device that is timed."""
    name = device_name()
    return name if torch.cuda.is_available() else f"{name.split(',')[0]}, one thread"


def shape_of(num_experts: int, kind: str) -> dict[str, Any]:
    """The layer that is timed on a CPU or a GPU: about a second a round with the slowest loop."""
    sizes = (512, 128, 32) if kind == "cpu" else (8192, 1024, 512)
    tokens, d_model, d_expert = sizes
    return {
        "name": f"{num_experts} experts", "tokens": tokens, "d_model": d_model,
        "d_expert": d_expert, "num_experts": num_experts, "top_k": 2,
    }  # fmt: skip


def naive_loop(
    x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor
) -> Tensor:
    """As one writes it first: a mask, w13[e] and w2[e] in the loop. Backward, each of these
    selections fills a zero gradient of all E experts."""
    y_TD = torch.zeros_like(x_TD)
    for e in range(w13_E2FD.shape[0]):
        token, choice = torch.where(expert_TK == e)
        y_nD = F.linear(swiglu(F.linear(x_TD[token], w13_E2FD[e])), w2_EDF[e])
        y_TD = y_TD.index_add(0, token, (y_nD * weight_TK[token, choice, None]).to(y_TD.dtype))
    return y_TD


def _by(backend: str) -> Callable[..., Tensor]:
    def run(
        x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor
    ) -> Tensor:
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=w13_E2FD.shape[0])
        return apply_experts(x_TD, plan, w13_E2FD, w2_EDF, backend=backend)

    return run


CONTENDERS: dict[str, Callable[..., Tensor]] = {
    "loop over W[e]": naive_loop,
    "loop over W.unbind()": _by("reference"),
    "grouped_mm": _by("grouped"),
    "matmul by expert": _by("matmul"),
    "Triton": _by("triton"),
}
ON_GPU = ("matmul by expert", "Triton")


def refused(name: str, tensors: tuple[Tensor, Tensor, Tensor]) -> str | None:
    """Why a contender does not run here."""
    from moeviz.backend import grouped_refusal, triton_refusal

    if name in ON_GPU and not tensors[0].is_cuda:
        return "needs a GPU" if name != "Triton" else "needs a GPU; its interpreter is no speed"
    if name == "Triton":
        return triton_refusal(*tensors)
    return grouped_refusal(*tensors) if name == "grouped_mm" else None


@one_thread()
def contest(num_experts: int, *, on_turn: OnTurn) -> dict[str, Any]:
    """Time every contender on one layer, sort and combine included, the router's scores not: a case
    as in the recorded files. Raises Stopped when on_turn says so."""
    device, dtype = device_and_dtype()
    shape = shape_of(num_experts, device.type)
    problem = problem_of(shape, device, dtype)
    reasons = {n: refused(n, (problem["x"], problem["w13"], problem["w2"])) for n in CONTENDERS}
    turns = by_turns(
        {name: _step(run, problem) for name, run in CONTENDERS.items() if not reasons[name]},
        ROUNDS,
        device=device,
        turn_seconds=0.0,
        step_seconds=SLOW_STEP_SECONDS,
        on_turn=_stopping(on_turn),
    )
    results: dict[str, Any] = {}
    for name, reason in reasons.items():
        if reason:
            results[name] = {"not_run": reason}
        else:
            forward, both = (_rounded(ms) for ms in zip(*turns[name], strict=True))
            results[name] = {"forward_ms": forward, "both_ms": both}
    return {
        "shape": shape, "dtype": str(dtype)[6:], "routing": "uniform", "contenders": results,
    }  # fmt: skip


def _stopping(on_turn: OnTurn) -> Callable[[int, int], None]:
    def after(done: int, total: int) -> None:
        if not on_turn(done, total):
            raise Stopped

    return after


def _rounded(ms: tuple[float, ...]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in spread(list(ms)).items()}


def problem_of(shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Inputs and weights, the same on every machine; tokens choose their experts evenly."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(size, generator=generator) * scale
        return drawn.to(device, dtype).requires_grad_()

    tokens, d_model, d_expert = (shape[n] for n in ("tokens", "d_model", "d_expert"))
    logits_TE = torch.randn(tokens, shape["num_experts"], generator=generator)
    return {
        "x": normal(tokens, d_model),
        "w13": normal(shape["num_experts"], 2 * d_expert, d_model, scale=d_model**-0.5),
        "w2": normal(shape["num_experts"], d_model, d_expert, scale=d_expert**-0.5),
        "grad": normal(tokens, d_model).detach(),
        "choice": [v.to(device) for v in logits_TE.softmax(-1).topk(shape["top_k"])],
        "num_experts": shape["num_experts"],
    }


def _step(run: Callable[..., Tensor], problem: dict[str, Any]) -> Step:
    """A forward pass alone, then a forward with its backward pass."""
    x_TD, w13_E2FD, w2_EDF = problem["x"], problem["w13"], problem["w2"]
    weight_TK, expert_TK = problem["choice"]

    def step(mark: Mark) -> None:
        mark()
        with torch.no_grad():
            run(x_TD, expert_TK, weight_TK, w13_E2FD, w2_EDF)
        mark()
        y_TD = run(x_TD, expert_TK, weight_TK, w13_E2FD, w2_EDF)
        torch.autograd.grad(y_TD, (x_TD, w13_E2FD, w2_EDF), problem["grad"])
        mark()

    return step


@one_thread()
def machine(on_turn: OnTurn) -> dict[str, Any]:
    """What this machine reaches. device: as in the recorded files, with its best copy (bytes read
    and written) and its best matrix product; layer; points: what the best backend reaches on that
    layer, forward, for growing numbers of tokens. Raises Stopped."""
    device, dtype = device_and_dtype()
    kind = device.type
    layer, counts = LAYERS[kind], MEASURED_TOKENS[kind]
    turn, turns = _stopping(on_turn), 2 + len(counts)
    copy = copy_gb_per_s(device)
    turn(1, turns)
    matmul = matmul_tflops(device, dtype)
    turn(2, turns)
    points = []
    shape = {**layer, "tokens": max(counts)}
    problem = problem_of(shape, device, dtype)
    weight_TK, expert_TK = problem["choice"]
    for number, tokens in enumerate(counts, start=3):
        # Other tokens each time: one batch's experts would lie in the cache.
        batches = [torch.randint(max(counts), (tokens,), device=device) for _ in range(6)]
        times = []
        for rows in batches:
            plan = Plan.from_topk(
                expert_TK[rows], weight_TK[rows], num_experts=layer["num_experts"]
            )
            x_TD = problem["x"].detach()[rows]
            times.append(seconds(partial(_forward, x_TD, plan, problem), device))
        flops = 6 * tokens * layer["top_k"] * layer["d_model"] * layer["d_expert"]
        points.append({"tokens": tokens, "flops_per_s": flops / statistics.median(times[1:])})
        turn(number, turns)
    return {
        "device": {
            "name": described(), "kind": kind, "dtype": str(dtype)[6:],
            "copy_gb_per_s": copy, "matmul_tflops": matmul,
        },
        "layer": layer,
        "points": points,
    }  # fmt: skip


@torch.no_grad()
def _forward(x_TD: Tensor, plan: Plan, problem: dict[str, Any]) -> Tensor:
    return apply_experts(x_TD, plan, problem["w13"], problem["w2"])
