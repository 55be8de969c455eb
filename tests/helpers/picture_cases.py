"""What every picture is tested on: recorded runs, and small inputs with known answers."""

import json
from dataclasses import replace
from functools import partial
from itertools import cycle, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from helpers.adapting import made_adapting, made_selection
from helpers.answers import PARROT, made_answers, made_learners
from helpers.comparisons import (
    figure,
    made_capacity,
    made_collapse,
    made_dense_training,
    made_hybrids,
    made_race,
    made_settings,
)
from helpers.compression import made_compression
from helpers.fine_grained import made_fine_grained
from helpers.models_as_experts import made_loads, made_models, made_text
from helpers.own_runs import DOMAINS, made_run
from helpers.recorded_frontier import made_frontier
from helpers.recorded_routers import PROVENANCE, routers, routers_longer, scale
from helpers.upcycling import made_grown, made_upcycling
from moeviz.costs import CLAIMS, MODELS
from moeviz.experiments.router_arms import FAIR, arms
from moeviz.experiments.routers_on_a_text import recorded as recorded_decisions
from moeviz.experiments.slots import placed, synthetic
from moeviz.experiments.slots_at_once import visit_chances
from moeviz.host import data_path, read_figures
from moeviz.panels import hardware_choice as offered
from moeviz.panels.costs.edge import DEVICES as SMALL_DEVICES
from moeviz.panels.routing.real_models import OF_COUNTS, QUESTIONS
from moeviz.panels.training.frontier import LEAST
from moeviz.pictures.compression.names import REGIMES
from moeviz.pictures.compression.smaller import smaller
from moeviz.pictures.compression.verdicts import merging, regimes, whom
from moeviz.pictures.costs.cache_ladder import OTHERS, cache_ladder
from moeviz.pictures.costs.claims import claims
from moeviz.pictures.costs.decode_batch import decode_batch
from moeviz.pictures.costs.edge import FORMATS, SHARES, edge
from moeviz.pictures.costs.exchange import exchange
from moeviz.pictures.costs.expert_caches import expert_caches
from moeviz.pictures.costs.fewer_bits import fewer_bits
from moeviz.pictures.costs.generation import generation
from moeviz.pictures.costs.measured_exchange import measured_exchange
from moeviz.pictures.costs.memory_fit import PLANS, memory_fit
from moeviz.pictures.costs.model_anatomy import CONVENTIONS, model_anatomy
from moeviz.pictures.costs.model_map import model_map
from moeviz.pictures.costs.model_parts import PARTS
from moeviz.pictures.costs.offloading import LINKS, offloading
from moeviz.pictures.costs.one_token import STEPS
from moeviz.pictures.costs.placement import placement
from moeviz.pictures.costs.scaling_laws import scaling_laws
from moeviz.pictures.costs.training_cost import COMPARED, TOLD, training_cost
from moeviz.pictures.kernels.contenders import contenders
from moeviz.pictures.kernels.dispatch import dispatch
from moeviz.pictures.kernels.layer_work import Reached, all_experts
from moeviz.pictures.kernels.roofline import roofline
from moeviz.pictures.kernels.tile_walk import VIEWS, WALKS, tile_walk
from moeviz.pictures.kernels.tile_waste import BLOCKS, tile_waste
from moeviz.pictures.many_models.loaded_experts import loaded_experts
from moeviz.pictures.many_models.models_as_experts import models_as_experts
from moeviz.pictures.many_models.models_on_a_text import WAYS as TEXT_WAYS
from moeviz.pictures.many_models.own_arms import own_arms
from moeviz.pictures.many_models.own_expert import own_expert
from moeviz.pictures.routing.all_routers import overview
from moeviz.pictures.routing.capacity import by_place, changed
from moeviz.pictures.routing.esft_selection import esft_selection
from moeviz.pictures.routing.inside_layer import anatomy
from moeviz.pictures.routing.layer_dispatch import moving_rows
from moeviz.pictures.routing.layer_frame import STAGES
from moeviz.pictures.routing.limits import leak, limits
from moeviz.pictures.routing.real_view import POOLED, View
from moeviz.pictures.routing.routers import compare
from moeviz.pictures.routing.rule_steps import rule_steps
from moeviz.pictures.routing.slots import slots
from moeviz.pictures.routing.tokens import load_bars, routing_matrix, token_strip
from moeviz.pictures.specialisation.changes import changes
from moeviz.pictures.specialisation.expert_paths import expert_paths
from moeviz.pictures.specialisation.killed_experts import killed_experts
from moeviz.pictures.specialisation.lift import BESIDE, lift_tables, specialisation
from moeviz.pictures.specialisation.settled import settled
from moeviz.pictures.specialisation.written import written
from moeviz.pictures.training.adapting import adapting
from moeviz.pictures.training.arms import FIVE
from moeviz.pictures.training.arms import LONG as LONGER
from moeviz.pictures.training.as_written import as_written
from moeviz.pictures.training.at_scale import at_scale
from moeviz.pictures.training.balance_over_time import balance_over_time, restarts
from moeviz.pictures.training.busy_experts import busy_experts
from moeviz.pictures.training.collapse import collapse
from moeviz.pictures.training.cures import FEW, cures
from moeviz.pictures.training.dense_then_sparse import dense_then_sparse
from moeviz.pictures.training.fair_and_written import fair_and_written
from moeviz.pictures.training.fine_grained import fine_grained
from moeviz.pictures.training.frontier import frontier
from moeviz.pictures.training.frontier_read import AXES as FRONTIER_AXES
from moeviz.pictures.training.hybrids import hybrids
from moeviz.pictures.training.kept_experts import kept_experts
from moeviz.pictures.training.left_out import left_out
from moeviz.pictures.training.lengths import lengths
from moeviz.pictures.training.loud_and_quiet import Ending, loud_and_quiet
from moeviz.pictures.training.memory_or_thinking import memory_or_thinking
from moeviz.pictures.training.order import order
from moeviz.pictures.training.output_scale import output_scale
from moeviz.pictures.training.pools import pools
from moeviz.pictures.training.powers_of_experts import powers_of_experts
from moeviz.pictures.training.published import published
from moeviz.pictures.training.race import AXES, JOULES, race
from moeviz.pictures.training.seeds import race_seeds
from moeviz.pictures.training.shares_of_quality import shares_of_quality
from moeviz.pictures.training.split_experts import split_experts
from moeviz.pictures.training.standings import standings
from moeviz.pictures.training.upcycling import upcycling
from moeviz.records.compare import compare as paired
from moeviz.records.compressed import Compressed
from moeviz.records.dispatch import DispatchTrace
from moeviz.records.domain_look import look, sampled
from moeviz.records.exchanged import Exchanged, Line
from moeviz.records.expert_paths import paths_of
from moeviz.records.growth import COPIES
from moeviz.records.killed import Killed
from moeviz.records.models_as_experts import HINDSIGHT, MIXED, SOUP, TUNED, MixedText
from moeviz.records.own_runs import unmeasured
from moeviz.records.routes import Anatomy, Decision, DomainTrace, Trace
from moeviz.records.runs import Curve, Snapshot, load_snapshots, powered
from moeviz.records.store import load_records
from moeviz.routing import Capacity

NASTY = ("<script>alert(1)</script>", "&amp;", '"quoted"', "it's", "]]>", "<b", "x" * 60, "字")
LONG = tuple(f"tok{i}" for i in range(120))


def measured_exchanges():
    """Recorded ones, and one of which a count is wrong and nothing else travels."""
    figures = read_figures("exchanged")
    where = "recorded on <this & that>"
    for run in figures["runs"][:: len(figures["runs"]) // 5]:
        found, line = Exchanged.read(run), Line.read(figures["lines"][str(run["processes"])])
        setting = {name: run[name] for name in ("skew", "capacity", "limit")}
        for whole, number in ((False, 0), (True, 0), (True, 8)):
            yield (
                f"measured exchange {run['processes']} {setting} {run['copies']} {whole} {number}",
                partial(
                    measured_exchange, found, line, whole=whole, where=where, exchange=number,
                    **setting,
                ),
            )  # fmt: skip
    wrong = replace(
        found, sent=found.sent + 4 * (np.arange(found.sent.size) == 1).reshape(found.sent.shape)
    )
    yield (
        "measured exchange, not as computed",
        partial(measured_exchange, wrong, line, whole=True, where=where, **setting),
    )
    alone = replace(found, sent=found.sent * np.eye(len(found.end), dtype=int))
    yield (
        "measured exchange, nothing crosses",
        partial(measured_exchange, alone, line, whole=False, where=where, **setting),
    )


def recorded_json(name):
    return json.loads(data_path("runs", f"{name}.json").read_text("utf-8"))


# Whole numbers, so that no generator stands between a picture and another machine.


def wave(*shape):
    size = int(np.prod(shape))
    return ((np.arange(size) * 7 + 3) % 11 + 1).reshape(shape).astype(np.float32)


def judged_figure(*values, verdict="open"):
    """A paired difference as experiments.recording.judged writes one: with Student's interval."""
    low = high = None
    if len(values) > 1:
        gap = paired(values, [0.0] * len(values))
        low, high = gap.low, gap.high
    return figure(*values) | {"low": low, "high": high, "p": 0.5, "verdict": verdict}


def routed(num_tokens, num_layers, num_experts, top_k):
    score_TLE = wave(num_tokens, num_layers, num_experts)
    score_TLE = score_TLE / score_TLE.sum(-1, keepdims=True)
    expert_TLK = np.argsort(-score_TLE, axis=-1, kind="stable")[..., :top_k].astype(np.int16)
    best_TLK = np.take_along_axis(score_TLE, expert_TLK.astype(np.int64), -1)
    return score_TLE, expert_TLK, best_TLK / best_TLK.sum(-1, keepdims=True)


def make_trace(tokens=NASTY, num_experts=4, top_k=2, num_layers=2):
    score, expert, weight = routed(len(tokens), num_layers, num_experts, top_k)
    return Trace(tuple(tokens), expert, weight, score, tuple(range(1, num_layers + 1)))


def make_anatomy(tokens=NASTY, num_experts=4, top_k=2, weighting="renormalise"):
    score, expert, weight = (a[:, 0] for a in routed(len(tokens), 1, num_experts, top_k))
    if weighting == "raw":
        weight = np.take_along_axis(score, expert.astype(np.int64), 1)
    order = np.argsort(expert.ravel(), kind="stable")
    row_expert, row_weight = expert.ravel()[order].astype(np.int32), weight.ravel()[order]
    row_token = (order // top_k).astype(np.int32)
    row_output = wave(len(order), 6) / 6 - 1
    y = np.zeros((len(tokens), 6), dtype=np.float32)
    np.add.at(y, row_token, row_weight[:, None] * row_output)
    return Anatomy(
        text="".join(tokens), tokens=tuple(tokens), layer=1, model_layers=(0, 1),
        weighting=weighting, x=wave(len(tokens), 6), logits=score * 9 - 3, score=score,
        expert=expert, weight=weight, row_token=row_token, row_expert=row_expert,
        row_weight=row_weight, row_output=row_output, y=y,
        offsets=np.searchsorted(row_expert, np.arange(num_experts + 1)).astype(np.int32),
    )  # fmt: skip


def snapshot(label, load_PLE, *, every, total=600, seconds=0.5, ahead=0.0, seed=0,
             router="token_choice"):  # fmt: skip
    """A run with a validation every so many steps; ahead: of the others' loss."""
    points = len(load_PLE)
    step = np.arange(1, points + 1, dtype=np.float64)
    measured = (step % every == 0) if every else np.zeros(points, dtype=bool)
    loss = 2 + 5 / step - ahead
    curve = Curve(
        step=step, seconds=step * seconds, flops=step * 2e9, loss=loss,
        load=load_PLE / load_PLE.sum(-1, keepdims=True),
        validation=np.where(measured, loss + 0.125, np.nan),
        entropy=np.stack([1 - step / 4096, 1 - step / 512], 1),
    )  # fmt: skip
    meta = {
        "model": {"moe": {"top_k": 1, "router": router}},
        "train": {"batch_size": 16, "seq_len": 64, "seed": seed},
    }
    return Snapshot(
        label=label, step=points, total_steps=total, seconds=points * seconds,
        tokens_per_second=1000 / seconds, parameters=2_000_000, active_parameters=500_000,
        curve=curve, meta=meta,
    )  # fmt: skip


def learner(label, points=12, num_experts=0, *, every=4, **changes):
    load = wave(points, 2 if num_experts else 0, num_experts)
    return snapshot(label, load, every=every, **changes)


def pair(points=12, **changes):
    sparse = learner("MoE", points, 8, seconds=0.75, ahead=0.25, **changes)
    return [learner('dense <b>&"', points, **changes), sparse]


def seeds(count=3):
    found = []
    for n in range(count):
        found += [learner("dense", seed=n), learner("MoE", 12, 8, ahead=0.25 * (n - 1), seed=n)]
    return found


def make_run(label="nothing <&>", points=300, experts=16, collapse_at=60, **changes):
    """Expert 3 of layer 1 takes over from a step on; layer 0 stays nearly even."""
    load = (np.arange(points * 2 * experts) * 7 % 11 + 5.0).reshape(points, 2, experts)
    load[collapse_at:, 1] = 0.05
    load[collapse_at:, 1, min(3, experts - 1)] = 30.0
    return snapshot(label, load, every=25, **{"total": 300, **changes})


RUN = make_run()
TWIN = learner("dense", 300, every=25, ahead=0.125, total=300)
# As recorded, whose points stand for three steps each and bear the last one's number.
TWIN = replace(TWIN, curve=replace(TWIN.curve, step=np.ceil(TWIN.curve.step / 3) * 3))


def one_seed(recorded):
    """A recorded experiment as if only its first seed had run."""
    if "values" in recorded:
        return figure(recorded["values"][0])
    return {k: one_seed(v) if isinstance(v, dict) else v for k, v in recorded.items()}


def make_gpu_run(arms=("dense", "MoE"), seeds=3, *, gap=-0.1, wide=0.02):
    """A made-up record of a GPU's training, as experiments/gpu_record.py makes them. gap: of each
    arm's loss to the one before it; wide: half of its interval."""
    found = {}
    for i, arm in enumerate(arms):
        loss = [3 + gap * i + 0.01 * seed for seed in range(seeds)]
        found[arm] = {
            "runs": seeds, "seeds": [*range(seeds)], "validation_loss": figure(*loss),
            "tokens_per_second": figure(*[1e6 / (i + 1)] * seeds), "of_peak": figure(0.25),
            "parameters": 35_000_000 * (i + 1), "active_parameters": 35_000_000 + i,
            "validation_curve": [[[50 * s, v + 4 / s] for s in range(1, 13)] for v in loss],
        }  # fmt: skip
        if i:
            interval = wide if seeds > 1 else None
            found[arm]["loss_minus_base"] = figure(*[gap * i] * seeds) | {"interval": interval}
        if arm != "dense":
            curve = [[6 * p, 16 - p / 10] for p in range(1, 101)]
            found[arm] |= {
                "experts": 16, "effective_by_layer": [[9.0, 6.0]] * seeds,
                "dead_by_layer": [[0, 2]] * seeds, "effective_curve": [curve] * seeds,
            }  # fmt: skip
    provenance = {**PROVENANCE, "commit": "abc"}
    steps = {"steps": 600, "tokens": 600 * 32768, "base": arms[0]}
    return {"provenance": provenance, **steps, "arms": found}


def learned(gradient=1.0, update=0.1):
    """Eight experts whose gradient grows with their tokens by so much, and their update."""
    tokens = np.array([40.0, 30, 20, 10, 0, 0, 5, 8])
    return SimpleNamespace(
        tokens=tokens, gradient=gradient * tokens / 40 + 0.01, update=update * tokens / 40 + 0.1,
        moved=update * tokens / 40 + 0.1, gain=np.where(tokens, 0.2, np.nan),
    )  # fmt: skip


def make_decision(label="Top-K", tokens=NASTY, num_experts=8, top_k=2, **changes):
    """Token t visits experts t, t + 3, ... with falling weights."""
    weight = np.zeros((len(tokens), num_experts), dtype=np.float32)
    for t in range(len(tokens)):
        for k in range(top_k):
            weight[t, (t + 3 * k) % num_experts] = 0.75 / (k + 1)
    visits = weight > 0
    load = visits.sum(0).astype(np.int64)
    fields = dict(
        label=label, tokens=tuple(tokens), score=np.full_like(weight, 1 / num_experts),
        weight=weight, visits=visits, dropped=np.zeros_like(visits),
        leaks=np.zeros(len(tokens), dtype=bool), load=load, demand=load, capacity=None, causal=True,
        soft=False, meta={"top_k": top_k, "training": True, "substitute": "", "learned": 512},
    )  # fmt: skip
    return Decision(**{**fields, **changes})


def limited(label="Switch", tokens=NASTY, **changes):
    """The second half finds no slot, and looks ahead."""
    whole = make_decision(label, tokens, top_k=1)
    late = np.arange(len(tokens)) >= len(tokens) // 2
    dropped = whole.visits & late[:, None]
    visits = whole.visits & ~dropped
    return replace(
        whole, visits=visits, dropped=dropped, weight=whole.weight * visits, load=visits.sum(0),
        capacity=1, leaks=late, causal=False, **changes,
    )  # fmt: skip


def mixture(label="Soft MoE", tokens=NASTY):
    weight = np.full((len(tokens), 8), 0.125, dtype=np.float32)
    leaks = np.ones(len(tokens), dtype=bool)
    return make_decision(label, tokens, weight=weight, visits=weight > 0, soft=True, leaks=leaks,
                         causal=False)  # fmt: skip


def make_domain_trace(sequences=4, length=16, domains=("code", "<b>&"), num_experts=6, top_k=2):
    """Sequences of so many tokens; all tokens of the last domain begin with expert 0."""
    T = len(domains) * sequences * length
    expert = routed(T, 2, num_experts, top_k)[1]
    expert[-sequences * length :, 1, 0] = 0
    expert[-sequences * length :, 1, 1:] = 1 + expert[-sequences * length :, 1, 1:] % (
        num_experts - 1
    )
    domain = np.repeat(np.arange(len(domains)), sequences).astype(np.int32)
    return DomainTrace(
        tuple(domains), expert, (np.arange(T) % 7).astype(np.int32), domain,
        np.full(len(domain), length, np.int32), num_experts, (1, 3),
    )  # fmt: skip


def make_killed(num_experts=4, sequences=3, domains=("code", "<b>&")):
    """Without expert e the loss rises by e / 10 in the first domain; expert 0 has most load."""
    domain = np.repeat(np.arange(len(domains)), sequences).astype(np.int32)
    before = 3 + wave(len(domain)) / 100
    rise = np.arange(num_experts)[:, None] / 10 * (domain == 0)
    load = np.tile(np.arange(num_experts, 0, -1.0), (1, len(domains), 1))
    return Killed(
        tuple(domains), before, (before + rise)[None].astype(np.float32), domain,
        load / load.sum(-1, keepdims=True), (2,),
    )  # fmt: skip


def make_settled(seeds=3):
    """Choices that settle, the first layer before the others."""
    steps = [0, 10, 100, 1200]

    def layer(late):
        return [figure(*[max(0, 0.25 + 0.25 * i - late - 0.01 * s) for s in range(seeds)])
                for i in range(len(steps))]  # fmt: skip

    return {
        "provenance": PROVENANCE, "steps": 1200, "checkpoints": steps, "loss": figure(3.0, 3.1),
        "settled": [layer(0.0), layer(0.1), layer(0.2)], "chance": [layer(0.25)] * 3,
        "first_minus_last": {"100": judged_figure(*[0.2] * seeds, verdict="higher")},
    }  # fmt: skip


RULES = ["each token takes its K best experts", 'a <b> & "rule"', "c " * 60, "d"]


def four(tokens=LONG[:40]):
    dense = make_decision("Dense <i>", tokens, top_k=8)
    return [make_decision(tokens=tokens), limited(tokens=tokens), mixture(tokens=tokens), dense]


def slots_by_hand(tokens=NASTY, **changes):
    """8 tokens, 2 experts, K = 2: token 7 gets nothing, token 6 half."""
    asked = [(t % 2, t, 0) for t in range(8)] + [(1 - t % 2, t, 1) for t in range(8)]
    lost = [(1, 7, 0), (0, 7, 1), (1, 6, 1)]
    placed = [row for row in asked if row not in lost]
    visits = np.ones((8, 2), bool)
    for e, t, _ in lost:
        visits[t, e] = False
    meta = {
        "top_k": 2, "factor": 1.0, "priority": "position", "overflow": "drop", "pool": "batch",
        "own": False, "part": [0] * 8, "placed": sorted(placed), "lost": lost, "visits": [1.0, 1.0],
    }  # fmt: skip
    fields = dict(
        score=np.full((8, 2), 0.5, np.float32), weight=visits * np.float32(0.5), visits=visits,
        dropped=~visits, load=visits.sum(0), demand=np.array([8, 8]), capacity=8, meta=meta,
    )  # fmt: skip
    return make_decision(**{"label": "", "tokens": tokens, **fields, **changes})


def placed_batch(num_tokens=64, top_k=1, seed=0, **capacity):
    """A synthetic batch, placed by the real rule."""
    limit = Capacity(**{"factor": 1.25, **capacity}) if capacity.get("factor", 1) else None
    tokens, visits = synthetic(num_tokens, skew=1.0, seed=seed), visit_chances(1.0, top_k)
    return placed(tokens, top_k=top_k, capacity=limit, visits=visits)


def dispatch_by_hand():
    """Three tokens, two experts, K = 1: expert 1, 0, 1. Worked out on paper."""
    arrays = {
        "expert": [[1], [0], [1]], "count": [[1, 1], [0, 1]], "before": [[0, 0], [1, 1]],
        "total": [1, 2], "order": [1, 0, 2], "rank": [1, 0, 2], "row_expert": [0, 1, 1],
        "slot": [0, 0, 1], "offsets": [0, 1, 3], "tile_expert": [0, 1, -1], "tile_row": [0, 1, -1],
    }  # fmt: skip
    return DispatchTrace(
        tokens=("<b>", "a & b", "x" * 50), weight=np.array([[0.5], [1.0], [0.25]], np.float32),
        **{name: np.array(values, np.int32) for name, values in arrays.items()},
        x=np.ones((3, 4), np.float32), hidden=np.ones((3, 2), np.float32),
        rows=np.ones((3, 4), np.float32), y=np.ones((3, 4), np.float32),
        sort_block=2, tile_block=4, gemm_block=16, error=1.6e-7,
        meta={"where": "Triton's interpreter"},
    )  # fmt: skip


# One line a picture and input: name -> what draws it.

SWEEP = ("dense", *(f"E = {e}" for e in (8, 16, 32, 64, 128)))
CURED = (
    "nothing",
    "balancing loss 0.01",
    "sign <b>",
    "balancing loss 0.01 + z-loss 0.001",
    "dense",
)
GPU_RUNS = {
    "a race on a GPU": partial(at_scale, "gpu_race", make_gpu_run()),
    "one arm of a race on a GPU": partial(at_scale, "gpu_race", make_gpu_run(["MoE"])),
    "more experts on a GPU": partial(at_scale, "gpu_experts", make_gpu_run(SWEEP, seeds=1)),
    "collapse on a GPU": partial(at_scale, "gpu_collapse", make_gpu_run(CURED, seeds=1)),
}

LAYER = dict(d_model=512, d_expert=256, num_experts=64, top_k=4)
GPU = {"name": "A GPU", "dtype": "bfloat16", "copy_gb_per_s": 4300.0, "matmul_tflops": 780.0}
CPU = {"name": "A machine", "dtype": "float32", "copy_gb_per_s": 10.0, "matmul_tflops": 0.1}
V3 = MODELS["DeepSeek-V3 / R1"]
COUNTED = [m for m in MODELS.values() if m.architecture is not None]
BILL = dict(
    chosen=V3.name, tokens=14.8e12, device="H800 SXM", mfu=0.39, usd_per_hour=2, watts=700, pue=1.1
)
FIT = dict(
    model_name="gpt-oss-120b", device_name="H100 SXM", devices=1, plan="mxfp4_experts",
    context=32768, batch=8,
)  # fmt: skip
STEP = dict(
    model_name=V3.name, device_name="H200 SXM", devices=32, plan="fp8_block", context=4096, batch=64
)
SEND = dict(
    model_name=V3.name, nodes=8, devices_per_node=8, tokens=128, copies="expert", node_limit=0,
    fp8=False,
)  # fmt: skip
LINK = dict(model_name="Mixtral 8x7B", device_name="T4", plan="int4", link="pcie3", hit=0)
REACHED = [Reached(f"T = {t}", all_experts(t, LAYER, 4).intensity, 3e9) for t in (1, 16)]
TRACES = {
    name: DispatchTrace.load_file(data_path("traces", f"{name}.safetensors"))
    for name in ("dispatch", "dispatch_zipf")
}
BENCHED = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "results" / "layer_cpu.json").read_text()
)["cases"]


def evil_case():
    """A recorded contest with a contender that never ran."""
    contest = recorded_json("kernels")["cases"][-1]
    contest["contenders"]["<evil>"] = {"not_run": "<b>why</b>"}
    return contest


def case(draw, **options):
    return f"{draw.__name__} {' '.join(map(str, options.values()))}", partial(draw, **options)


def _routing():
    trace = Trace.load_file(data_path("traces", "start_here.safetensors"))
    layer = Anatomy.load_file(data_path("traces", "inside_layer.safetensors"))
    shown = list(recorded_decisions()[0].values())
    yield "recorded strip", partial(token_strip, trace, 0)
    yield "recorded matrix", partial(routing_matrix, trace, 1)
    yield "recorded load", partial(load_bars, trace.load(), trace.layers)
    for stage in STAGES:
        yield f"recorded layer, {stage}", partial(anatomy, layer, stage)
    yield "recorded routers", partial(compare, shown[:3], RULES[:3], heading="Recorded")
    few = partial(compare, shown[:3], RULES[:3], heading="Recorded", rows="few", pressed=True)
    yield "few rows of recorded routers", few
    yield "all recorded routers", partial(overview, shown, heading="Recorded")
    for name in ("slots", "slots_zipf"):
        decision = Decision.load_file(data_path("traces", f"{name}.safetensors"))
        yield f"recorded {name}", partial(slots, decision)
    for name, options in {
        "": {}, " of 40 experts": dict(tokens=LONG, num_experts=40), " of 1 token": {"tokens": "a"},
        " of a real size": dict(tokens=LONG, num_experts=128, top_k=8, num_layers=4),
        " of 1 expert": dict(num_experts=1, top_k=1), " of no tokens": {"tokens": ()},
    }.items():  # fmt: skip
        trace = make_trace(**options)
        yield f"strip{name}", partial(token_strip, trace, 0)
        yield f"matrix{name}", partial(routing_matrix, trace, 1)
        yield f"load{name}", partial(load_bars, trace.load(), trace.layers)
    recorded = recorded_json("real_traces")
    for question, (_, draw) in QUESTIONS.items():
        deepseek, olmoe = (
            partial(View, name, recorded[name], recorded["sources"][name])
            for name in ("deepseek_v2_lite", "olmoe")
        )
        yield f"real, {question}", partial(draw, deepseek(25, "translation"))
        yield f"real, {question} of all", partial(draw, deepseek(0, POOLED))
        if question in OF_COUNTS:
            yield f"counts, {question}", partial(draw, olmoe(9, "creative_writing"))
    for name, options in {
        "8 tokens": {}, "raw weights": {"weighting": "raw"}, "30 tokens": {"tokens": LONG[:30]},
        "1 token": {"tokens": "a"}, "1 expert": {"num_experts": 1, "top_k": 1},
        "32 experts": {"tokens": LONG[:30], "num_experts": 32, "top_k": 4},
        "a real size": {"tokens": LONG[:30], "num_experts": 128, "top_k": 8},
    }.items():  # fmt: skip
        for stage in STAGES:
            layer = make_anatomy(**options)
            yield f"layer of {name}, {stage}", partial(anatomy, layer, stage, follow=0)
    for step in (0, 5):
        yield f"layer, {step} rows moved", partial(moving_rows, make_anatomy(), 3, step)
    for name, decision in {
        "by hand": slots_by_hand(), "two parts": placed_batch(pool="sequence"),
        "K = 4": placed_batch(128, 4, factor=0.5), "wide": placed_batch(128, 4, factor=4.0),
        "few": placed_batch(16), "padded": placed_batch(overflow="pad"),
        "no limit": placed_batch(factor=None), "one token": placed_batch(1),
        "looks ahead": placed_batch(top_k=2, priority="batch"), "512": placed_batch(512, 2),
    }.items():  # fmt: skip
        yield f"slots, {name}", partial(slots, decision)
    half = placed_batch(top_k=2, pool="sequence")
    yield "slots, half of them", partial(slots, half, step=64, offered=(0.5, 1.0, 2.0))
    yield "slots, none of them", partial(slots, placed_batch(), step=0, offered=(0.5, 1.25, 4.0))
    yield "by place", partial(by_place, {"a": np.array([0.0, 0.5]), "b <": np.zeros(2)})
    yield "changed", partial(changed, slots_by_hand((*NASTY[:7], "y")), slots_by_hand(label="<r>"))
    nobody = make_decision("B", visits=np.zeros((8, 8), bool), load=np.zeros(8, np.int64))
    for name, decisions in {
        "two": [make_decision(), limited()], "three": [limited(), mixture(), make_decision()],
        "four": four(), "one token": [make_decision(tokens="a"), limited(tokens="a")],
        "12 experts": [make_decision(num_experts=12), make_decision("B", num_experts=12)],
        "nobody served": [make_decision(), nobody],
    }.items():  # fmt: skip
        rules = RULES[: len(decisions)]
        yield f"routers, {name}", partial(compare, decisions, rules, heading="A <t>", note="<n> &")
    for name, (step, tokens, *shape) in {
        "two steps": (1, NASTY, 8, 8), "one token, one column": (0, "a", 1, 1),
        "40 tokens, 16 columns": (1, LONG[:40], 40, 16),
    }.items():  # fmt: skip
        steps = [("<first>", wave(*shape) - 6), ("then &", wave(*shape) % 3)] * 7
        yield f"rule of {name}", partial(rule_steps, steps, step, tokens=tokens)
    yield "all routers", partial(overview, four(NASTY), heading="All of <them>")


def _training():
    runs, _ = load_snapshots(data_path("runs", "race.safetensors"))
    arms, _ = load_snapshots(data_path("runs", "collapse.safetensors"))
    for axis in AXES:
        yield f"recorded race by {axis}", partial(race, runs[:2], axis)
        yield f"race by {axis}", partial(race, pair(), axis, note="<i>")
    joules = [powered(run, 45) for run in runs[:2]]
    yield "recorded race by joules", partial(race, joules, JOULES, power="45 W")
    yield "recorded seeds", partial(race_seeds, recorded_json("race"))
    bare, cured = (
        next(run for run in arms if run.label == name) for name in ("nothing", "sign bias")
    )
    yield "recorded collapse", partial(collapse, bare, 1)
    yield "recorded collapse beside", partial(collapse, cured, 0, before=bare)
    for draw in (cures, as_written, balance_over_time, restarts, kept_experts):
        yield f"recorded {draw.__name__}", partial(draw, recorded_json("collapse"))
        for count in (1, 3):
            yield f"{draw.__name__} of {count} seeds", partial(draw, made_collapse(count))
    yield "few cures", partial(cures, made_collapse(), FEW)
    yield "busy experts", partial(busy_experts, learned(), np.array([0, 1]), np.array([6, 7]))
    for draw in (limits, leak):
        yield f"recorded {draw.__name__}", partial(draw, recorded_json("capacity"))
        for count in (1, 3):
            made = made_capacity(count, signature=-0.03)
            yield f"{draw.__name__} of {count} seeds", partial(draw, made)
    many = [learner("dense", 400, every=1), learner("MoE", 400, 32, every=1)]
    for name, learners in {
        "of 400 points, 32 experts": many, "without points": pair(points=0),
        "of one point": pair(points=1), "without validation": pair(every=0),
        "of one learner": [learner("MoE", 12, 8)],
        "with one behind": [learner("dense", 40), learner("MoE", 0, 8)],
    }.items():  # fmt: skip
        yield f"race {name}", partial(race, learners, "step")
    yield from GPU_RUNS.items()
    for seeds in (1, 3):
        made, layers = made_dense_training(seeds), made_hybrids(seeds)
        for model, top_k, rule in (("wide, 0.1", 16, "raw"), ("sparse", 2, "renormalised")):
            shown = partial(dense_then_sparse, made, model, top_k, rule)
            yield f"{model} at K = {top_k}, {seeds} seeds", shown
        for chosen in ((), (0, 2)):
            yield f"experts in {chosen}, {seeds} seeds", partial(hybrids, layers, chosen)
    yield "three races", partial(race_seeds, made_race())
    yield "one race", partial(race_seeds, made_race(1, ahead=0.0))
    listed, luck = made_settings(-0.3, 0.02, 0.0), [(4.0, 0.9), (8.0, 0.3), (12.0, 0.05)]
    yield "race among settings", partial(race, pair(), "step", settings=listed, luck=luck)
    for axis in AXES:
        alone = partial(race, pair(), axis, beside_work=True)
        yield f"race beside other work over {axis}", alone
    yield "race of three", partial(race, [*pair(), learner("dense, all parameters")], "step")
    start = recorded_json("loud_and_quiet")
    for name, times in {"written": 0.0, "quietest": 0.0625, "loudest": 4.0}.items():
        scales = [
            Ending(f"scale {n}", ahead, 0.05, "a gap", {"scale": n}, n == times)
            for n, ahead in ((0.0, -0.3), (1.0, 0.02), (4.0, 0.0))
        ]
        loud = partial(loud_and_quiet, pair(), start, times, name, note="<i>", settings=scales)
        yield f"loud and quiet, {name}", loud
    products = "multiplication of 3 digits"
    nothing = dict.fromkeys(PARROT, (0.0, 0.0, 0.0))
    for name, (answers, trio) in {
        "": (made_answers(), made_learners()),
        " of one seed": (made_answers(seeds=1), made_learners()),
        " with nothing gained": (made_answers(nothing, spread=0), made_learners()),
        " before the first step": (made_answers(), made_learners(0)),
        " in training": (made_answers(), made_learners(300)),
        " at the first steps": (None, made_learners(10)),
    }.items():
        case = partial(memory_or_thinking, answers, products, trio, note="<i>")
        yield f"memory or thinking{name}", case
    for name, (figures, trio, axis) in {
        "": (made_upcycling(), made_grown(), "step"),
        " over compute": (made_upcycling(), made_grown(), "flops"),
        " of one seed": (made_upcycling(seeds=1), made_grown(way=COPIES), "step"),
        " before the first step": (made_upcycling(), made_grown(0), "flops"),
        " in training": (None, made_grown(120), "step"),
        " at the first step": (None, made_grown(1), "flops"),
    }.items():
        way = trio[-1].meta["notes"]["way"]
        yield f"upcycling{name}", partial(upcycling, figures, way, trio, axis, note="<i>")
    killed = [(70, 1, 3), (90, 0, 5), (200, 1, 4)]
    for name, options in {
        "of a run": dict(run=RUN, layer=1, note="<i>"), "of the even layer": dict(run=RUN, layer=0),
        "beside another": dict(run=make_run("now", 120), layer=1, before=RUN, killed=killed),
        "beside its dense twin": dict(run=RUN, layer=1, before=RUN, twin=TWIN),
        "before the first step": dict(run=RUN.at("step", 0), layer=1, twin=TWIN),
        "at the first step": dict(run=RUN.at("step", 1), layer=1, before=RUN.at("step", 0)),
        "of a hash": dict(run=make_run("hash", router="hash"), layer=1, before=RUN),
        "of 4 experts": dict(run=make_run(experts=4), layer=1),
        "of 1 expert": dict(run=make_run(experts=1), layer=1),
        "of 64 experts": dict(run=make_run(experts=64, collapse_at=400), layer=1),
        "of a long run": dict(run=make_run(points=390, total=2000), layer=1),
    }.items():  # fmt: skip
        yield f"collapse {name}", partial(collapse, **options)


def _routers():
    gaps = {name: 0.1 * (i % 7 - 3) for i, name in enumerate(arms())}
    whole, one, two = (routers(gaps, seeds=seeds) for seeds in (5, 1, 2))
    first = routers(gaps, settings=(FAIR,), timed=False, diverged=("Switch",))
    files = {"": whole, " of one seed": one, " of two seeds": two, " so far": first}
    if "settings" in (recorded := recorded_json("routers")):
        files[" recorded"] = recorded
    for name, file in files.items():
        longer = routers_longer(gaps, seeds=len(file["settings"][FAIR]["seeds"]))
        yield f"standings{name}", partial(standings, file)
        yield f"five{name}", partial(standings, file, only=FIVE)
        yield f"pools{name}", partial(pools, file)
        yield f"published{name}", partial(published, file)
        if "order" in file:
            yield f"order{name}", partial(order, file)
            yield f"later{name}", partial(standings, file, LONGER)
        yield f"lengths{name}", partial(lengths, file, longer)
        if "changes" in file:
            yield f"scales{name}", partial(fair_and_written, file)
    for seeds in (5, 1, 2):
        yield f"output scale of {seeds}", partial(output_scale, scale(seeds=seeds))
    if data_path("runs").joinpath("scale.json").exists():
        yield "output scale recorded", partial(output_scale, recorded_json("scale"))


def _fine_grained():
    for name, recorded in {
        "recorded": recorded_json("fine_grained")
        if data_path("runs").joinpath("fine_grained.json").exists()
        else made_fine_grained(),
        "made": made_fine_grained(finer=0.02, shared=-0.03),
        "of one seed": made_fine_grained(1, timed=False, looked=False),
    }.items():
        yield f"finer, {name}", partial(fine_grained, recorded)
        yield f"left out of finer, {name}", partial(left_out, recorded)
        for split, shared, steps in ((1, 0, 1200), (4, 2, 300), (8, 1, 1200)):
            draw = partial(split_experts, recorded, split=split, shared=shared, steps=steps)
            yield f"split {split}, {shared} shared, {steps}, {name}", draw
    draw = partial(split_experts, None, split=8, shared=0, steps=300)
    yield "split, nothing recorded", draw


def _adapting():
    of = {"made": made_adapting(), "of one seed": made_adapting(1), "not recorded": None}
    for name, figures in of.items():
        for task, measure, larger in (("c", "task", False), ("arithmetic", "at_equal_gain", True)):
            options = dict(task=task, measure=measure, larger=larger)
            yield f"adapting to {task}, {name}", partial(adapting, figures, **options)
    yield "the choice of ESFT", partial(esft_selection, made_selection())


def _frontier():
    short = read_figures("frontier_short")
    of = {
        "recorded frontier": read_figures("frontier"),
        "short frontier": short,
        "frontier": made_frontier(),
        "frontier of one seed": made_frontier(seeds=1, timed=False),
    }
    for name, figures in of.items():
        for axis in FRONTIER_AXES:
            if axis != "seconds" or figures["arms"][LEAST]["seconds_per_step"]:
                yield f"{name} by {axis}", partial(frontier, figures, axis=axis, arm=LEAST)
        twin = dict(axis="flops", arm="dense, width 256")
        yield f"{name}, its twin", partial(frontier, figures, **twin)
        beside = dict(beside="dense, width 2048", arm=LEAST)
        yield f"{name}, shares", partial(shares_of_quality, figures, **beside)
        powers = partial(powers_of_experts, figures, short, read_figures("gpu_experts"))
        yield f"{name}, powers", powers


def _kernels():
    for name, trace in {**TRACES, "dispatch by hand": dispatch_by_hand()}.items():
        for step in range(0, trace.steps, 1 if trace.steps < 20 else 3):
            yield f"{name}, step {step}", partial(dispatch, trace, step)
    for (tokens, experts), block in product([(1, 8), (1024, 64), (32768, 256)], BLOCKS):
        yield case(tile_waste, tokens=tokens, experts=experts, top_k=2, skew=1.0, block=block)
    for (_, view), (_, walk), programs in product(VIEWS, WALKS, [2, 8]):
        for name, trace in {**TRACES, "dispatch by hand": dispatch_by_hand()}.items():
            options = dict(
                view=view, walk=walk, programs=programs, group=2, step=2, follow="tile 0"
            )
            name = f"{view} of walk {walk} of {name}, {programs}"
            yield name, partial(tile_walk, trace, **options)
    for device, tokens in product([None, CPU, GPU], [1, 64, 4096]):
        name = f"roofline of {device and device['name']}, {tokens} tokens"
        yield name, partial(roofline, device, LAYER, tokens, REACHED if device else ())
    contests = [*recorded_json("kernels")["cases"], *BENCHED, evil_case()]
    cases = {f"case {i} <b>": contest for i, contest in enumerate(contests)} | {"none": None}
    for title in cases:
        yield f"contenders, {title}", partial(contenders, cases, title, where="here <i>")
    name = "transformers Mixtral grouped_mm"
    title = next(t for t, case in cases.items() if name in case["contenders"])
    yield (
        "contenders against a long name",
        partial(contenders, cases, title, where="here", against=name),
    )


def _specialisation():
    recorded = DomainTrace.load_file(data_path("traces", "domains.safetensors"))
    wide = make_domain_trace(domains=tuple("abcd"), num_experts=64, top_k=6)
    for name, (trace, place, tokens) in {
        "recorded": (recorded, 1, 8192), "recorded, few tokens": (recorded, 2, 64),
        "made": (make_domain_trace(), 1, 64), "of one sequence": (make_domain_trace(1), 0, 16),
        "of 64 experts": (wide, 1, 64),
    }.items():  # fmt: skip
        found = look(trace, place, tokens)
        samples = sampled(trace, place, sorted({16, tokens}))
        for beside in BESIDE:
            draw = partial(specialisation, found, samples, beside=beside)
            yield f"likings {name}, {beside}", draw
        tables = {
            "one <i>": (found.domains, found.lift.lift),
            "two": (found.domains, found.lift.one_null),
        }
        yield f"lifts side by side {name}", partial(lift_tables, tables, summary="Two tables.")

    for name, trace, place, expert in (
        ("recorded", recorded.sample(256), 1, 5), ("of the last layer", make_domain_trace(), 1, 0),
        ("of 16 experts", make_domain_trace(num_experts=16), 0, 15),
        ("of top-1", make_domain_trace(top_k=1), 0, 2),
    ):  # fmt: skip
        yield f"paths {name}", partial(expert_paths, paths_of(trace, place), expert)
    yield "changes recorded", partial(changes, recorded_json("specialisation"))
    for count in (1, 3):
        yield f"settled of {count} seeds", partial(settled, make_settled(count))
    if data_path("runs").joinpath("saturation.json").exists():
        yield "settled recorded", partial(settled, recorded_json("saturation"))
    raised_EV = wave(3, 8) / 10
    raised_EV[1] = np.nan  # nobody visits this one
    lots = raised_EV[None] / 4, raised_EV * 2
    yield "written", partial(written, raised_EV, *lots, pieces=NASTY, layer=1)
    killed = load_records(data_path("traces", "killed.safetensors"), Killed)[0]
    for name, record in {**killed, "made": make_killed(), "64 experts": make_killed(64)}.items():
        yield f"killed, {name}", partial(killed_experts, record, len(record.layers) - 1)


def _costs():
    parts = cycle(key.name for key in PARTS)
    for model in COUNTED:
        draw = partial(model_anatomy, [model, V3], next(parts), with_sheet=True)
        yield f"anatomy of {model.name}", draw
    pasted = replace(V3.architecture, name="<b>&" + "x" * 99)
    yield "anatomy of a pasted one", partial(model_anatomy, [pasted], "attention")
    for until, kind in zip((2020, 2023, 2026), CONVENTIONS, strict=True):
        yield case(model_map, chosen=V3.name, until=until, convention=kind)
    yield case(model_map, chosen="GPT-4 (rumour)")
    for name, claim in CLAIMS.items():
        least = {assumption.name: assumption.low for assumption in claim.assumptions}
        for assumed in ({}, least)[: 1 + bool(least)]:
            yield f"claim {name} of {len(assumed)}", partial(claims, name, assumed)
    settings = cycle(((1024, 4, 1), (32768, 16, 1), (1048576, 8, 256)))
    for other, (context, bits, batch) in zip(OTHERS, settings, strict=False):
        yield case(cache_ladder, context=context, bits=bits, batch=batch, other=other)
    for name, tokens, told in zip(
        COMPARED, cycle([1e11, 14.8e12, 1e14]), cycle([*TOLD, "published"]), strict=False
    ):
        yield case(training_cost, **BILL | dict(chosen=name, tokens=tokens, beside=told))
    ways = [(1, 0, 0), (4, 2, 0), (8, 4, 0), (4, 2, 1.3), (8, 0, 0)]
    legs = cycle(range(len(STEPS)))
    for copies, (nodes, limit, skew) in product(["expert", "device", "node"], ways):
        options = dict(
            copies=copies,
            nodes=nodes,
            node_limit=limit,
            skew=skew,
            seed=3,
            step=next(legs),
            table=copies != "device",
        )
        yield case(exchange, **SEND | options)
    # Each model of 08_hardware with each plan or link that a panel offers, from one device to many,
    # on the chips in turn: all combinations would be thousands.
    shares, wanted = cycle(SHARES), cycle((1, 10, 100))
    chips, ends = cycle(offered.DEVICES.values()), cycle(((1, 512, 1), (64, 131072, 16384)))
    for name, plan in product((*offered.DENSE, *offered.SPARSE), PLANS):
        for draw in (memory_fit, decode_batch)[: 1 + (name in offered.SPARSE)]:
            devices, context, batch = next(ends)
            yield case(draw, model_name=name, device_name=next(chips), devices=devices, plan=plan,
                       context=context, batch=batch)  # fmt: skip
    for chip, plan in zip(SMALL_DEVICES.values(), cycle(FORMATS), strict=False):
        yield case(edge, device_name=chip, plan=plan, wanted=next(wanted), share=next(shares),
                   context=131072)  # fmt: skip
    hits = cycle((0, 37, 100))
    for name, link in product(offered.SPARSE, LINKS):
        yield case(offloading, model_name=name, device_name=next(chips), plan="q4_k_m", link=link,
                   hit=next(hits))  # fmt: skip
    yield "experts placed", partial(placement, read_figures("placement"))
    yield "fewer bits", partial(fewer_bits, read_figures("quantised"))
    yield from measured_exchanges()
    yield "generation", partial(generation, read_figures("offloaded"))
    yield "caches of experts", partial(expert_caches, read_figures("caches"))
    for total, tokens in ((1.6e12, 300e9), (3e9, 60e9), (1e7, 1e8)):
        yield case(scaling_laws, total=total, share=0.01, tokens=tokens, granularity=8)
    yield case(decode_batch, **STEP)
    yield case(decode_batch, **STEP, shown="speed", critical=True)


def _compression():
    made = made_compression({"prune by chance": 0.9, "merge by output (HC-SMoE)": 1.3})
    one_seed = made_compression(seeds=1, of_regime={"bias": 0.5})
    domains = tuple(made["domains_of_text"])
    still = Compressed(domains, np.zeros(6))
    rise, nasty = np.array([0.3, 2.5, 0.0, -0.02, 0.01, 0.1]), "".join(NASTY) + "\n\t\x00"
    changed_much = Compressed(domains, rise, 0.13, 1.8e6, 0.9e6, nasty, nasty, "")
    words, press = "experts pruned to 4, in INT4", {("bits", "int4"): {"stored": "INT4"}}
    for figures, regime in zip((made, one_seed, None), REGIMES, strict=True):
        for found, said in ((still, ""), (changed_much, words)):
            draw = partial(smaller, figures, found, said, regime=regime, presses=press)
            yield f"smaller {regime} {said}", draw
    for draw in (whom, merging, regimes):
        yield f"compression {draw.__name__}", partial(draw, made)
        yield f"compression {draw.__name__}, one seed", partial(draw, one_seed)


def _models_as_experts():
    many = made_models(above={MIXED: -0.1, TUNED: 0.1, SOUP: 9.0, HINDSIGHT: -0.2})
    nasty = "".join(NASTY) + "\n\t word " * 40
    for place, way in zip(("seen", "unseen", "python", "hex"), TEXT_WAYS, strict=True):
        draw = partial(models_as_experts, many, where=place, way=way, note="live <b>")
        yield f"models as experts {place} {way}", partial(draw, made_text(nasty, 3))
        yield f"models as experts {place} unread", partial(draw, None)
    one = made_models(1)
    yield "models as experts, one seed", partial(models_as_experts, one, made_text("a b"))
    for name in ("models_as_experts", "loaded_experts"):
        if data_path("runs").joinpath(f"{name}.json").exists():
            recorded = recorded_json(name)
            if name == "loaded_experts":
                yield "recorded loads", partial(loaded_experts, recorded)
                continue
            for title, of in recorded["texts"].items():
                text = MixedText.of_json(of)
                yield f"recorded models, {title}", partial(models_as_experts, recorded, text)
    yield "loads", partial(loaded_experts, made_loads())


def _own_experts():
    nasty = "".join(NASTY)
    runs = {
        "one": made_run(),
        "beginning": made_run(done=0),
        "two": made_run("mine", ("german",), tokens=(*NASTY, *LONG)),
        "four": made_run(nasty[:40], ("a", "b", nasty[:39])),
        "unplugged": made_run(plugged=False),
        "unmeasured": unmeasured(nasty[:40], "rank 16", 300, DOMAINS, (0, 1, 2)),
    }
    for (name, run), layer in zip(runs.items(), cycle((0, 2)), strict=False):
        yield f"own expert, {name}", partial(own_expert, run, layer, note="recorded <b>")
    yield "own experts, all ways", partial(own_arms, read_figures("own_expert"))


ALL = [
    *_routing(), *_training(), *_routers(), *_frontier(), *_kernels(), *_specialisation(),
    *_costs(), *_compression(), *_fine_grained(), *_models_as_experts(), *_own_experts(),
    *_adapting(),
]  # fmt: skip
CASES = dict(ALL)
assert len(CASES) == len(ALL), "two cases of one name"
