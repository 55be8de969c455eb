"""The backends of the experts against each other on this machine, and what the machine can do.

Times are by the wall clock, in rounds: each contender once a round, so that a disturbance hits all
of them. A CPU works with one thread: what else runs then disturbs least, and the notebook stays
quick. Triton's interpreter is no contender: what it takes says nothing of a kernel.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from moeviz.host import device_name
from moeviz.model.experts import apply_experts, swiglu
from moeviz.routing import Plan
from moeviz.watch.routers import one_thread

# on_turn(done, total) -> whether to go on.
OnTurn = Callable[[int, int], bool]
EXPERTS = (8, 64, 256)
ROUNDS = 25
# A contender that takes longer than so many seconds has so many rounds only.
FEWER_ROUNDS = ((1.0, 3), (0.1, 9))
# A copy reads and writes buffers several times any cache; a matrix product does all else.
COPY_BYTES = 2**28
REPEATS = 12  # of either; the best one counts, for what disturbs only slows down
MATMUL = {"cpu": 1536, "cuda": 8192}
# The layer whose roofline is drawn, and the numbers of tokens that are measured.
LAYERS: dict[str, dict[str, int]] = {
    "cpu": dict(d_model=512, d_expert=256, num_experts=64, top_k=4),
    "cuda": dict(d_model=2048, d_expert=1024, num_experts=64, top_k=8),
}
MEASURED_TOKENS = {"cpu": (1, 16, 256, 2048), "cuda": (1, 16, 256, 4096)}


class Stopped(Exception):
    """The learner pressed Stop."""


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


def naive_loop(x_TD: Tensor, plan: Plan, w13_E2FD: Tensor, w2_EDF: Tensor) -> Tensor:
    """As one writes it first: w13[e] and w2[e] in the loop. Backward, each of these selections
    fills a zero gradient of all E experts."""
    y_TD = torch.zeros_like(x_TD)
    bounds = plan.offsets.tolist()
    for e in range(plan.num_experts):
        rows = slice(bounds[e], bounds[e + 1])
        token_n = plan.token[rows].long()
        y_nD = swiglu(x_TD[token_n] @ w13_E2FD[e].T) @ w2_EDF[e].T
        y_TD = y_TD.index_add(0, token_n, y_nD * plan.weight[rows, None].to(y_nD.dtype))
    return y_TD


def _by(backend: str) -> Callable[..., Tensor]:
    def run(x_TD: Tensor, plan: Plan, w13_E2FD: Tensor, w2_EDF: Tensor) -> Tensor:
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
def contest(num_experts: int, *, rounds: int = ROUNDS, on_turn: OnTurn) -> dict[str, Any]:
    """Time every contender on one layer, sort and combine included, the router's scores not: a case
    as in the recorded files. Raises Stopped when on_turn says so."""
    device, dtype = device_and_dtype()
    shape = shape_of(num_experts, device.type)
    problem = _problem(shape, device, dtype)
    tensors = (problem["x"], problem["w13"], problem["w2"])
    found: dict[str, Any] = {}
    steps = {}
    for name, run in CONTENDERS.items():
        reason = refused(name, tensors)
        if reason:
            found[name] = {"not_run": reason}
        else:
            steps[name] = run
    limits: dict[str, int] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    turns, done = len(steps) * (rounds + 1), 0
    for number in range(rounds + 1):  # the first one warms up
        for name, run in steps.items():
            if number <= limits.get(name, rounds):
                pair = _time(run, problem, device)
                if number:
                    times[name].append(pair)
                else:
                    limits[name] = _rounds(sum(pair), rounds)
            done += 1
            if not on_turn(done, turns):
                raise Stopped
    for name, pairs in times.items():
        forward, both = ([1e3 * pair[i] for pair in pairs] for i in (0, 1))
        found[name] = {"forward_ms": _spread(forward), "both_ms": _spread(both)}
    return {
        "shape": shape, "dtype": str(dtype)[6:], "routing": "uniform",
        "contenders": {name: found[name] for name in CONTENDERS},
    }  # fmt: skip


def _rounds(seconds: float, most: int) -> int:
    for longer, rounds in FEWER_ROUNDS:
        if seconds > longer:
            return min(rounds, most)
    return most


def _problem(shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
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


def _time(run: Callable[..., Tensor], problem: dict[str, Any], device: torch.device) -> Any:
    """Seconds of a forward pass alone, and of a forward with its backward pass."""
    x_TD, w13_E2FD, w2_EDF = problem["x"], problem["w13"], problem["w2"]
    weight_TK, expert_TK = problem["choice"]

    def output() -> Tensor:
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=problem["num_experts"])
        return run(x_TD, plan, w13_E2FD, w2_EDF)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    begun = clock()
    with torch.no_grad():
        output()
    middle = clock()
    torch.autograd.grad(output(), (x_TD, w13_E2FD, w2_EDF), problem["grad"])
    return middle - begun, clock() - middle


def _spread(values: list[float]) -> dict[str, float]:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 4), "q1": round(q1, 4), "q3": round(q3, 4)}


@one_thread()
def machine(on_turn: OnTurn) -> dict[str, Any]:
    """What this machine reaches. device: as in the recorded files, with its best copy (bytes read
    and written) and its best matrix product; layer; points: what the best backend reaches on that
    layer, forward, for growing numbers of tokens. Raises Stopped."""
    device, dtype = device_and_dtype()
    kind = device.type
    size, layer = MATMUL[kind], LAYERS[kind]
    counts = MEASURED_TOKENS[kind]
    turns, done = 2 + len(counts), 0

    def turn() -> None:
        nonlocal done
        done += 1
        if not on_turn(done, turns):
            raise Stopped

    copy = _copy_bytes_per_s(device)
    turn()
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    matmul = 2 * size**3 / _best(lambda: a @ b, REPEATS, device)
    turn()
    points = []
    shape = {**layer, "tokens": max(counts)}
    problem = _problem(shape, device, dtype)
    weight_TK, expert_TK = problem["choice"]
    for tokens in counts:
        # Other tokens each time: one batch's experts would lie in the cache.
        batches = [torch.randint(max(counts), (tokens,), device=device) for _ in range(6)]
        times = []
        for rows in batches:
            plan = Plan.from_topk(
                expert_TK[rows], weight_TK[rows], num_experts=layer["num_experts"]
            )
            x_TD = problem["x"].detach()[rows]
            times.append(_best(partial(_forward, x_TD, plan, problem), 1, device))
        flops = 6 * tokens * layer["top_k"] * layer["d_model"] * layer["d_expert"]
        points.append({"tokens": tokens, "flops_per_s": flops / statistics.median(times[1:])})
        turn()
    return {
        "device": {
            "name": described(), "kind": kind, "dtype": str(dtype)[6:],
            "copy_gb_per_s": copy / 1e9, "matmul_tflops": matmul / 1e12,
        },
        "layer": layer,
        "points": points,
    }  # fmt: skip


def _copy_bytes_per_s(device: torch.device) -> float:
    source = torch.ones(COPY_BYTES, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _best(lambda: target.copy_(source), REPEATS, device)


@torch.no_grad()
def _forward(x_TD: Tensor, plan: Plan, problem: dict[str, Any]) -> Tensor:
    return apply_experts(x_TD, plan, problem["w13"], problem["w2"])


def _best(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times)
