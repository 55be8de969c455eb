"""What the panel tests share: every exhibit with a move of each of its controls, and how to read,
open and press a panel."""

import html
import json
import re
import subprocess
import sys
import threading
import time
from xml.etree import ElementTree

import ipywidgets
import pytest

from helpers.patience import wait
from moeviz import panels
from moeviz.costs import CLAIMS, DEVICES, MODELS
from moeviz.panels.costs.model_anatomy import CONFIG
from moeviz.panels.pulse import family

NASTY = "<script>alert(\"x\")</script> & 'q' ]]> {{x}}\n\t% + # ="
# What a callback raises, and what a thread raises, would pass unseen otherwise.
LOUD = [
    pytest.mark.usefixtures("nothing_is_swallowed"),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]

# One move of every control of every exhibit; in this order they can be made one after the other.
MOVES = {
    "Adapting": {"task": "arithmetic", "measure": "elsewhere", "larger": True},
    "CacheLadder": {"context": 1024, "batch": 32, "bits": 8, "other": "one head"},
    "Claims": {"claim": "gpt4_sizes", "first": None, "second": None, "third": None},
    "Collapse": {
        "aux": 0.1, "scope": "sequence", "bias": "quantile", "noise": 1.0, "z": True,
        "shared": True, "router": "sinkhorn", "learning": "frozen", "layer": 0, "seed": 0,
        "victim": 6,
    },
    "CompareRouters": {
        "routers": "base,sinkhorn,remoe", "rows": "all", "mode": "outside", "text": "another text",
        "layer": 2, "top_k": 2, "temperature": 4.0, "noise": 1.5, "capacity": "0.5",
        "source": "synthetic", "skew": 2.0, "tokens": 12, "seed": 5,
    },
    "Compression": {
        "stored": "INT4", "kept": 4, "who": "prune by REAP", "part": "attention", "regime": "bias",
        "prompt": "another text",
    },
    "Contenders": {
        "timed": "forward_ms", "machine": "this machine", "case": None, "against": None,
    },
    "DecodeBatch": {
        "model_name": "Kimi K2", "device_name": "B200 SXM", "devices": 64, "plan": "q4_k_m",
        "context": 131072, "batch": 64, "shown": "speed", "critical": True,
    },
    "DenseThenSparse": {"model": "wide, 0.1", "top_k": 1, "rule": "renormalised"},
    "Dispatch": {
        "tokens": 9, "top_k": 1, "sort_block": 4, "tile_block": 8, "text": "another text",
        "layer": 2, "source": "synthetic", "skew": 0.0, "seed": 3, "step": 9,
    },
    "Edge": {
        "device_name": "Raspberry Pi 5, 16 GB", "plan": "int8", "context": 131072, "wanted": 50,
        "share": 100,
    },
    "Exchange": {
        "table": True, "model_name": "Kimi K2", "nodes": 8, "devices_per_node": 8, "tokens": 1,
        "copies": "node", "node_limit": 2, "fp8": True, "skew": 0.5, "seed": 7, "step": 3,
        "source": 6,
    },
    "ExpertPaths": {"layer": 0, "expert": 2},
    "Frontier": {"axis": "flops", "steps": 300, "arm": "hash, 16 experts"},
    "Hybrids": {"layer_0": False, "layer_1": False, "layer_2": False},
    "InsideLayer": {
        "text": "another text", "stage": "combine", "layer": 0, "weighting": "raw",
        "follow": 1, "step": 9,
    },
    "KilledExperts": {"layer": 0, "figures": "this machine"},
    "LoudAndQuiet": {"scale": 0.125, "seed": 3},
    "MeasuredExchange": {
        "figures": "this machine", "processes": 4, "skew": 2.0, "copies": "device",
        "capacity": 0.5, "limit": 1, "tokens": 64, "whole": True, "exchange": 8,
    },
    "MemoryOrThinking": {"learn": "multiplication of 3 digits", "seed": 3},
    "MemoryFit": {
        "model_name": "Llama 3.1 405B", "device_name": "T4", "devices": 16, "plan": "int4",
        "context": 512, "batch": 1024,
    },
    "ModelsAsExperts": {
        "text": "another text", "way": "even", "where": "unseen", "seed": 3,
    },
    "ModelAnatomy": {
        "model": "GPT-3 175B", "beside": "Kimi K2", "part": "attention", "sheet": True,
        "config": CONFIG.replace('"num_experts": 128', '"num_experts": 64'),
    },
    "ModelMap": {"model": "Kimi K2", "until": 2021, "counted": "ex_embeddings"},
    "Offloading": {
        "model_name": "Kimi K2", "device_name": "T4", "plan": "bf16", "link": "host",
        "hit": 99,
    },
    "OwnExpert": {
        "text": "german", "form": "rank 4", "beside": "friend", "steps": 300, "replay": 0.0,
        "layer": 0, "seed": 3, "own": "another text",
    },
    "Race": {"experts": 4, "top_k": 1, "seed": 3, "axis": "flops", "watts": 65},
    "RealModels": {"question": "specialists", "model": "olmoe", "task": "math", "layer": 3},
    "Roofline": {"machine": "this machine", "tokens": 8},
    "RouteText": {"text": "another text", "layer": 0, "view": "load"},
    "RuleSteps": {"step": 4, "scores": "1,2: 9"},
    "ScalingLaws": {"total": 1e9, "tokens": 1e12, "share": 0.05, "granularity": 1},
    "SharesOfQuality": {
        "beside": "dense, width 512", "claimed": 0.95, "arm": "hash, 16 experts",
    },
    "Slots": {
        "factor": 0.5, "top_k": 2, "priority": "batch", "overflow": "pad", "pool": "sequence",
        "skew": 0.0, "tokens": 64, "seed": 3, "source": "text", "text": "another text",
        "layer": 2, "step": 9,
    },
    "Specialisation": {"layer": 0, "tokens": 1024, "beside": "token ids alone", "seed": 3},
    "SplitExperts": {"split": 4, "shared": 1, "steps": 300},
    "TileWaste": {
        "skew": 1.0, "tokens": 64, "experts": 128, "top_k": 2, "block": 16, "seed": 5,
    },
    "TileWalk": {
        "view": "programs", "walk": "persistent", "programs": 2, "group": 1, "step": 9,
        "follow": "program 1",
    },
    "TrainingCost": {
        "model": "GPT-3 175B", "tokens": 1, "mfu": 0.5, "price": 3.0, "watts": 500, "pue": 1.5,
        "device": "H100 SXM", "beside": "power",
    },
    "Upcycling": {"grow": "all drawn anew", "seed": 3, "axis": "flops"},
}  # fmt: skip
# What must stand before a move shows in the picture.
BEFORE = {
    ("Race", "watts"): {"axis": "joules"},
    ("Claims", "first"): {"claim": "gpt4_sizes"},
    ("Claims", "second"): {"claim": "gpt4_sizes"},
    ("Claims", "third"): {"claim": "gpt4_sizes"},
    ("Compression", "who"): {"kept": 4},
    ("Compression", "part"): {"stored": "INT4"},
    ("Collapse", "scope"): {"aux": 0.1},
    ("CompareRouters", "temperature"): {"top_k": 2},
    ("CompareRouters", "skew"): {"source": "synthetic"},
    ("CompareRouters", "tokens"): {"source": "synthetic"},
    ("CompareRouters", "seed"): {"source": "synthetic"},
    ("Dispatch", "tile_block"): {"step": 30},
    ("Dispatch", "skew"): {"source": "synthetic"},
    ("Dispatch", "seed"): {"source": "synthetic"},
    ("Exchange", "node_limit"): {"skew": 0.0},
    ("InsideLayer", "weighting"): {"stage": "top-k"},
    ("Offloading", "hit"): {"link": "pcie5"},
    ("OwnExpert", "own"): {"text": "yours"},
    ("RealModels", "task"): {"model": "olmoe"},
    ("TileWalk", "walk"): {"view": "programs"},
    ("TrainingCost", "watts"): {"beside": "power"},
    ("TrainingCost", "pue"): {"beside": "power"},
    ("Slots", "priority"): {"top_k": 2},
    ("Slots", "text"): {"source": "text"},
    ("Slots", "layer"): {"source": "text"},
}
LIVE = ("Race", "Collapse", "LoudAndQuiet", "MemoryOrThinking", "Upcycling")
# Exhibits that read a text: how they open on one.
READING = {
    "CompareRouters": {}, "Dispatch": {}, "InsideLayer": {}, "RouteText": {},
    "Slots": {"source": "text"},
}  # fmt: skip


def figures(words):
    """The numbers of each sentence but for those in names and in a claim that is quoted."""
    quoted = [claim.text for claim in CLAIMS.values()]
    for name in sorted([*quoted, *MODELS, *DEVICES], key=len, reverse=True):
        words = words.replace(name, "")
    kinds = "layer|expert|token|seed|program|step"
    words = re.sub(rf"(?i)\b({kinds}) \d+|PCIe \d x\d+|\d+ ×|\d{{4}}\.\d{{5}}", "", words)
    return [re.findall(r"(?<![\w.,])\d[\d,.]*", each) for each in re.split(r"\. ", words)]


def exhibit(name):
    if name == "Dispatch":
        pytest.importorskip("triton")
    return getattr(panels, name)


def value_for(panel, name, control):
    """What MOVES has for a control, or another value on offer."""
    widget, value = panel.controls[control], MOVES[name][control]
    others = [v for v in values_of(widget) if v != widget.value] if value is None else [value]
    return [*others, widget.value][0]


def move(panel, name, value):
    """Move a control, and wait for the picture."""
    panel.controls[name].value = value
    return at_ease(panel)


def moved(name):
    """The exhibit after a move of every control that its other moves leave room for."""
    panel = exhibit(name)()
    for control in MOVES[name]:
        if not (name == "Collapse" and control == "router"):  # its cures exclude another router
            move(panel, control, value_for(panel, name, control))
    return panel


def values_of(control):
    return [o[1] if isinstance(o, tuple) else o for o in control.options]


def at_ease(panel):
    """The panel, when its picture is of its controls or it says why it cannot be."""
    wait(lambda: not waits(panel), lambda: f"rest; it says: {said(panel)}")
    return panel


def waits(panel):
    """Whether it says that something is on its way; not between a sentence and its picture."""
    with panel.sentence_last():
        return said(panel).endswith("…")


def said(panel):
    return html.unescape(re.sub("<[^>]*>", "", panel.status.value))


def drawn(panel):
    return ElementTree.fromstring(panel.picture.value)


def content(panel):
    """The picture without its state, which changes with every control."""
    return re.sub('data-state="[^"]*"', "", panel.picture.value)


def everything(panel):
    return panel.picture.value, panel.state_box.value, panel.values


def twin(panel):
    """The table twin: its rows, the heading first, and its caption."""
    table = ElementTree.fromstring(panel.table.value)
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    return rows, table.find(".//caption").text


def find(panel, name):
    """The one widget of the class moeviz-NAME."""
    (found,) = [w for w in family(panel) if f"moeviz-{name}" in getattr(w, "_dom_classes", ())]
    return found


def press(panel, name):
    """A button, or one that stays pressed."""
    widget = find(panel, name)
    if isinstance(widget, ipywidgets.ToggleButton):
        widget.value = not widget.value
    else:
        widget.click()


def opened(*makes, then=""):
    """Make and show panels in a process of their own, as a notebook's first cell does: the seconds
    of each, whether it has torch, how the pictures begin, and what the statuses say."""
    code = f"""
import json, sys, time
from moeviz import panels
took, shown = [], []
for make in {list(makes)!r}:
    started = time.process_time()
    shown.append(eval(make))
    shown[-1]._repr_mimebundle_()
    took.append(time.process_time() - started)
panel = shown[-1]
{then}
found = [p.picture.value[:4] for p in shown], [p.status.value for p in shown]
print(json.dumps([took, "torch" in sys.modules, *found]))
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    return json.loads(run.stdout)


def check_at_rest(panel):
    """It moves nothing by itself."""
    threads, before = threading.active_count(), everything(panel)
    time.sleep(0.05)
    assert everything(panel) == before and threading.active_count() <= threads


def check_no_markup(panel):
    """Of a nasty text nothing has become markup."""
    for value in (panel.picture.value, panel.table.value, panel.status.value):
        assert "<script" not in value
        ElementTree.fromstring(value)


def check_refused(panel, state, sentence):
    """A state that does not fit is refused in one sentence, and nothing changes."""
    before = everything(panel)
    panel.state_box.value = state
    assert sentence in said(panel), said(panel)
    assert everything(panel) == before and "unexpected" not in panel.status.value
    assert "<script" not in panel.status.value
    with pytest.raises(ValueError, match=re.escape(sentence)):
        panel.state = state


def sent_by(monkeypatch, panel):
    """What is sent to the page from now on, in order: "picture" and "sentence"."""
    order = []

    def send_state(widget, key=None):
        if key and widget in (panel.status, panel.picture):
            order.append("sentence" if widget is panel.status else "picture")

    monkeypatch.setattr(ipywidgets.HTML, "send_state", send_state)
    # ipywidgets 7 sends nothing where it has no kernel.
    monkeypatch.setattr(type(panel.picture.comm), "kernel", "one", raising=False)
    return order
