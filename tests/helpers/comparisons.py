"""Made-up summaries of the comparisons, as experiments/{collapse,capacity,race}.py write them."""

import re
import statistics

import numpy as np

from helpers.recorded_routers import PROVENANCE
from moeviz.experiments import capacity, dense_training, hybrids, race
from moeviz.experiments.cures import BASE, DENSE, SETTINGS
from moeviz.experiments.dense_training import CUTS
from moeviz.experiments.recording import differences, judged
from moeviz.pictures.training.settings import Setting
from moeviz.records.runs import Curve, Snapshot

STEPS = 300
NAMES = sorted([*SETTINGS, "sixteenth"], key=len, reverse=True)


def figure(*values):
    """As experiments record a figure: mean, standard deviation, values over seeds."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": [*values]}


def made_settings(*aheads):
    """Settings of a race, at 4, 8, 16 … experts, whose three seeds end ahead by about so much; the
    second is chosen."""
    spread = np.array([-0.004, 0.0, 0.005])
    found = judged({n: (ahead + spread, np.zeros(3)) for n, ahead in enumerate(aheads)})
    return [
        Setting(f"E = {4 * 2**n}", gap, {"experts": 4 * 2**n}, n == 1) for n, gap in found.items()
    ]


def numbers(sentence):
    """The figures of a sentence: names of settings and layers, and "95 %", are none."""
    for name in NAMES:
        sentence = sentence.replace(name, "")
    bare = re.sub(r"95 % interval|layer \d|top-\d|(?:factor|pool of) \d[\d.]*", "", sentence)
    return re.findall(r"\d[\d,.]*", bare)


def sentences(words):
    return re.split(r"(?<=\.) (?=[A-Z\d])", words)


def made_collapse(seeds=3, *, losses=None, violations=None, fallen=None, kept=None, restart=0.5):
    """losses, violations (of layer 1), fallen (runs), kept: of settings that differ from the
    others, each a mean. restart: what a warm restart adds to MaxVio."""
    losses, violations = losses or {}, violations or {}
    luck = 0.01 * np.arange(seeds)

    def over(mean):
        return figure(*(mean + luck))

    values = {name: (3.5 + losses.get(name, 0.0) + luck**2).tolist() for name in SETTINGS}
    against = {base: differences(values, base) for base in (DENSE, BASE)}
    arms = {}
    for name in SETTINGS:
        arm = {
            "runs": seeds, "collapsed": 0, "collapsed_by_layer": [],
            "reserve_loss": figure(*values[name]), "validation_loss": figure(*values[name]),
            "loss_minus_dense": against[DENSE][name], "loss_minus_nothing": against[BASE][name],
            "curves": {"step": [100, 200, 300], "loss": [6.0, 4.0, 3.5]},
        }  # fmt: skip
        if name != DENSE:
            violation = violations.get(name, 5.0)
            fell = (fallen or {}).get(name, 0)
            balance = {
                "max_violation": [over(1.0), over(violation)],
                "dead_experts": [over(0.0), over(6.0)],
                "effective_experts": [over(14.0), over(5.0)],
            }
            arm |= {
                "collapsed": fell, "collapsed_by_layer": [0, fell],
                "max_violation": over(violation), "dead_experts": over(6.0),
                "effective_experts": over(5.0),
                "domain_information": over(0.2), "training": balance, "held_out": balance,
                "kept_experts": [over(0.5), over((kept or {}).get(name, 0.25))],
            }  # fmt: skip
            curve = [violation] * 3
            arm["curves"] |= {"max_violation": [[1.0, 1.0, 1.0], curve], "z_loss": [7.0, 8.0, 8.5]}
            if "hash" not in name and name not in ("expert choice", "Sinkhorn"):
                arm["curves"]["balance_loss"] = [1.0, 1.25, 1.5]
            else:
                del arm["curves"]["z_loss"]
        arms[name] = arm
    changes = {BASE: 0.0, "nothing, warm restarts": restart}
    restarts = {
        name: [
            {"step": step, **{
                side: {"max_violation": [over(1.0), figure(*(5 + added + luck * (1 + added)))]}
                for side, added in (("before", 0.0), ("after", change))
            }}
            for step in (125, 200)
        ]
        for name, change in changes.items()
    }  # fmt: skip
    busy = {}
    for kind, times in (("busy", 4.0), ("rare", 1.0)):
        sizes = {"tokens": times, "gradient": times, "update": times**0.25, "moved": times**0.25}
        busy |= {f"run_{kind}_{name}": over(size) for name, size in sizes.items()}
        busy |= {f"run_{kind}_gain": over(0.2), f"step_{kind}_gain": over(0.01 * times)}
    return {
        "provenance": PROVENANCE, "steps": STEPS, "arms": arms, "restarts": restarts,
        "busy_experts": busy,
    }  # fmt: skip


def made_capacity(seeds=3, *, costs=None, worths=None, signature=0.0):
    """costs: by (arm, pool), of a limit; worths: by arm, of the later tokens; signature: what
    neighbours in order train lower than shuffled ones. All else is 0."""
    costs, worths = costs or {}, worths or {}
    luck = [1e-3 * (seed - 1) ** 2 for seed in range(seeds)]
    balance = {"drop_rate": 0.07, "max_violation": 1.0, "dead_experts": 0.0}
    limits = {
        arm: [
            {"loss": 3.3 + off} | balance
            | {f"loss_{pool}": 3.3 + off + costs.get((arm, pool), 0.0) for pool in capacity.POOLS}
            | {f"dropped_{pool}": 0.05 for pool in capacity.POOLS}
            for off in luck
        ]
        for arm in capacity.CAPACITY_ARMS
    }  # fmt: skip
    leaks = {
        arm: [
            {
                "training_loss": 3.4 + off + signature * (arm == "pool of 16 neighbours"),
                **{f"loss_{pool}": 3.3 + off for pool in capacity.POOLS},
                "loss_with_later_tokens": 3.2 + off, "loss_from_prefixes": 3.25 + off,
                "loss_with_other_later_tokens": 3.2 + off + worths.get(arm, 0.0),
            }
            for off in luck
        ]
        for arm in (capacity.TOKEN_CHOICE, *capacity.LEAK_ARMS)
    }  # fmt: skip
    dense = [{"loss": 3.35} for _ in luck]
    return {"provenance": PROVENANCE, **capacity.summary(dense, limits, leaks)}


def racer(label, losses, seed=0, flops=1.0, seconds=1.0):
    """A recorded run with these losses on the reserve, one a step."""
    rows = [[n, n * flops, n * seconds, loss] for n, loss in enumerate(losses, 1)]
    empty = np.zeros(0)
    curve = Curve(empty, empty, empty, empty, np.zeros((0, 0, 0)), empty)
    meta = {"reserve": rows, "train": {"seed": seed}, "gigaflops_per_step": flops}
    return Snapshot(label, len(rows), len(rows), 1.0, 1.0, 1, 1, curve, meta)


def made_race(seeds=3, *, ahead=0.25, seconds=2.0, control=-0.5):
    """ahead: of MoE at equal steps; seconds: of a step of MoE, where one of dense takes 1; control:
    its loss minus MoE's."""
    runs, controls = [], []
    for seed in range(seeds):
        falls = [4 - 0.25 * n + 0.01 * seed**2 for n in range(8)]
        runs.append(racer("dense", falls, seed))
        runs.append(racer("MoE", [v - ahead for v in falls], seed, 1.1, seconds))
        controls.append(racer(race.CONTROL, [v - ahead + control for v in falls], seed, 8.0, 4.0))
    return {"provenance": PROVENANCE, **race.summary(runs, controls)}


def made_dense_training(seeds=3, luck=0.01):
    """What `experiment dense_training` would write, with a cut that costs the less the surer a gate
    is."""
    draw = np.random.default_rng(4)
    cost = {
        "sparse": 0.0,
        "narrow, 0": 0.2,
        "narrow, 0.01": 0.1,
        "narrow, 0.1": 0.01,
        "wide, 0.1": 0,
    }
    runs = {"dense": [{"loss": 3.2 + luck * one} for one in draw.normal(size=seeds)]}
    for arm, each in cost.items():
        runs[arm] = []
        for one in draw.normal(size=seeds):
            losses = {str(k): 3.2 + luck * one + each * (4 - np.log2(k)) for k in CUTS}
            rules = {"raw": losses, "renormalised": losses}
            runs[arm].append({"loss": losses["16"]} | dict(list(rules.items())[arm == "sparse" :]))
            sizes = {str(k): 300_000 + 6_000 * k for k in CUTS}
            shares = {str(k): k / 16 for k in CUTS}
            runs[arm][-1] |= {"active_parameters": sizes, "covered": shares}
    for arm, figures in runs.items():
        for run in figures:
            run |= {"parameters": 400_000, "gigaflops_per_step": 5.9 if "wide" in arm else 1.7}
    return dense_training.summary(runs) | {"provenance": PROVENANCE}


def made_hybrids(seeds=3, gain=(0.03, 0.02, 0.0), luck=0.01):
    """What `experiment hybrids` would write, where experts in each layer gain so much."""
    draw = np.random.default_rng(5)
    runs = {
        name: [
            {
                "loss": 3.2 - sum(gain[n] for n in layers) + luck * one,
                "parameters": 459_200 + 345_088 * len(layers),
                "active_parameters": 459_200 + 1024 * len(layers),
                "gigaflops_per_step": 2.1,
            }
            for one in draw.normal(size=seeds)
        ]
        for name, layers in hybrids.CHOICES.items()
    }
    return hybrids.summary(runs) | {"provenance": PROVENANCE}
