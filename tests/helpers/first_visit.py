"""How long each part of the layer benchmark takes, by what an H200 was recorded to need."""

import json

from layer_contenders import DENSE, EAGER, OURS
from layer_shapes import SHAPES
from moeviz.host import data_path
from moeviz.watch.timing import LEAST, REPEATS

RECORDED = json.loads((data_path("runs") / "layer_h200.json").read_text("utf-8"))
# That run took some 197 s, 14 of them for profiles; the steps that its record tells of, 155 s.
OVERHEAD = 1.2
UNKNOWN = {"DSv3-8192": "Mixtral-8192", "decode-8": "decode-1", "decode-64": "decode-1"}
START_S = 12.0  # of a process, with its libraries, and of the ceilings
CALL_S = 20.0  # of a first call that compiles; nobody has timed one
PROFILE_S = 1.5
LONG_RUN_S = 5.0


def steps(result, part, budget):
    """Seconds of the timed repetitions of a part, there and back, with their warm-up."""
    once = result[f"{part}_ms"]["median"] / 1e3
    return 2 * once * ((5 if once < budget / 5 else 2) + max(LEAST, min(REPEATS, budget / once)))


def timed(result):
    return steps(result, "both", 0.25) + steps(result, "inference", 0.12)


def checked(result):
    """Seconds of what comes before: first call, float64, equal bits, memory, host, graphs."""
    both = result["both_ms"]["median"] / 1e3
    replays = [result[key]["median"] / 1e3 for key in result if key.startswith("graph_")]
    graphs = sum(4 * both + once * min(REPEATS, 5 + 0.25 / once) for once in replays)
    host = max(3 * both, min(0.2, 20 * both))
    return result["first_call_s"] + 0.3 + (result["repeated_runs"] + 4) * both + host + graphs


def of(name, routing):
    """The recorded contenders of a case, or of the one that is most like it."""
    like = UNKNOWN.get(name, name)
    [case] = [
        case
        for case in RECORDED["cases"]
        if (case["shape"]["name"], case["routing"]) == (like, routing)
    ]
    ran = {n: r for n, r in case["contenders"].items() if "not_run" not in r}
    assert {OURS, DENSE, EAGER} <= set(ran)
    return ran


def quick_seconds(name, routing):
    ran = of(name, routing)
    return OVERHEAD * sum(timed(r) + checked(r) for n, r in ran.items() if n != EAGER)


def apart_seconds(item):
    """Of one item measured apart, beside ours; what nobody has timed is taken to
    be as slow as transformers' grouped_mm."""
    ran = of(item.name, item.routing)
    peer = ran[item.peer if item.peer in ran else "transformers Mixtral grouped_mm"]
    return OVERHEAD * (timed(ran[OURS]) + timed(peer) + checked(peer))


assert set(UNKNOWN) < set(SHAPES)
