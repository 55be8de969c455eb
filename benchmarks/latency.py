"""Slider to changed pixels, pause to standstill, first cell to first picture, in a real browser.

    python -m moeviz bench latency [--case stage] [--moves 50] [--kernels 3]

A real JupyterLab and Chromium; each kernel is fresh, in a fresh server, and its very first move
after display counts. A move is timed in the page, from the key event to the second animation frame
after the picture's `data-state` carries the slider's new value. A move whose value is not shown in
time is a miss. A pause is timed from the click until the panel says so and the picture has changed
for the last time. Targets: no miss, p95 100 ms idle and 150 ms while a model trains, pause 250 ms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lab_browser
import report

WARM_UP_SECONDS = 2.0  # of training before the first move
PAUSE_TARGET_MS = 250


@dataclass(frozen=True)
class Case:
    """A slider and what goes on meanwhile. source: a shipped notebook, or the cells of a small one.
    slider: its class, which data-state repeats with the value. trains: the panel whose models
    train. at_once: move while the cells after the panel still run."""

    source: str | tuple[str, ...]
    panel: str
    slider: str
    trains: str = ""
    at_once: bool = False

    @property
    def target_ms(self) -> int:
        """What 95 of 100 moves should keep."""
        return 150 if self.trains else 100

    @property
    def notebook(self) -> Path | dict[str, Any]:
        if isinstance(self.source, str):
            return lab_browser.NOTEBOOKS / f"{self.source}.ipynb"
        return lab_browser.notebook("from moeviz import panels", *self.source)


# What the panels of 03 and 05 load in the background at the first move that needs it.
READY = """from moeviz.panels.shipped_model import READER

model, tokenizer = READER.get()"""
# Without the panels' answer_at_once the first moves here wait until the cell ends.
BUSY = "import time\n\ntime.sleep(15)"

CASES = {
    "layer": Case("00_start_here", "route_text", "layer"),
    "stage": Case("02_inside_a_layer", "inside_layer", "stage"),
    "timeline while training": Case("01_dense_vs_moe", "race", "timeline", trains="race"),
    "layer while training": Case(
        ("panels.Race()", "panels.RouteText()"), "route_text", "layer", trains="race"
    ),
    "four routers": Case((READY, "panels.CompareRouters()"), "compare_routers", "top-k"),
    "slots": Case((READY, "panels.Slots()"), "slots", "factor"),
    "collapse": Case("04_collapse", "collapse", "timeline"),
    "collapse while training": Case(
        ("panels.Collapse()",), "collapse", "timeline", trains="collapse"
    ),
    "dispatch": Case(("panels.Dispatch()",), "dispatch", "step"),
    "fit": Case(("panels.MemoryFit()",), "memory_fit", "batch"),
    "decode": Case(("panels.DecodeBatch()",), "decode_batch", "batch"),
    "exchange": Case(("panels.Exchange()",), "exchange", "tokens"),
    "offloading": Case(("panels.Offloading()",), "offloading", "hit"),
    "cache ladder": Case(("panels.CacheLadder()",), "cache_ladder", "batch"),
    "model map": Case(("panels.ModelMap()",), "model_map", "until"),
    "training cost": Case(("panels.TrainingCost()",), "training_cost", "watts"),
    "specialisation": Case(("panels.Specialisation()",), "specialisation", "tokens"),
    "split experts": Case(("panels.SplitExperts()",), "split_experts", "split"),
    "scaling laws": Case(("panels.ScalingLaws()",), "scaling_laws", "granularity"),
    "upcycling": Case(("panels.Upcycling()",), "upcycling", "timeline"),
    "memory or thinking": Case(("panels.MemoryOrThinking()",), "memory_or_thinking", "timeline"),
    "memory while training": Case(
        ("panels.MemoryOrThinking()",),
        "memory_or_thinking",
        "timeline",
        trains="memory_or_thinking",
    ),
    "expert paths": Case(("panels.ExpertPaths()",), "expert_paths", "expert"),
    "layer while a cell runs": Case(
        ("panels.RouteText()", BUSY), "route_text", "layer", at_once=True
    ),
}

# Resolves to the milliseconds until the first picture `css` is on the screen.
FIRST = """css => { const start = performance.now(); window.moevizFirst = new Promise(done => {
    const look = () => requestAnimationFrame(() => document.querySelector(css)
        ? requestAnimationFrame(() => done(performance.now() - start)) : look());
    look() }) }"""
# Arms one measurement; the promise holds {ms, value} or {miss}. Times are of the page's one clock.
ARM = """([slider, picture, pattern, limit]) => {
    const root = document.querySelector(picture);
    const shown = () => root.querySelector('.mv[data-state]')?.dataset.state ?? '';
    const label = () => document.querySelector(`${slider} .widget-readout`).textContent.trim();
    const old = {label: label(), state: shown()};
    window.moevizMove = new Promise(done => addEventListener('keydown', key => setTimeout(() => {
        const value = label(), start = key.timeStamp;
        const end = result => { clearTimeout(timer); observer.disconnect(); done(result) };
        // A readout groups thousands, a state does not.
        const literal = value.replace(/,/g, '').replace(/[.*+?^${}()|[\\]\\\\]/g, '\\\\$&');
        const wanted = new RegExp(pattern.replace('VALUE', () => literal));
        const look = () => { if (shown() !== old.state && wanted.test(shown())) {
            observer.disconnect();
            requestAnimationFrame(() => requestAnimationFrame(() =>
                end({ms: performance.now() - start, value}))) } };
        const observer = new MutationObserver(look), timer = setTimeout(() =>
            end({miss: `${old.label} -> ${value}: picture shows ${shown()}`}), limit);
        if (value === old.label) return end({miss: `the key did not move ${value}`});
        observer.observe(root, {subtree: true, childList: true, attributes: true});
        look();
    }), {capture: true, once: true})) }"""
# The key that leads away from the end where the slider's handle stands, null between the ends.
AWAY = """h => { const at = name => +h.getAttribute(`aria-value${name}`), left = h.style.left;
    if (h.hasAttribute('aria-valuenow') ? at('now') >= at('max') : left === '100%')
        return 'ArrowLeft';
    if (h.hasAttribute('aria-valuenow') ? at('now') <= at('min') : left === '0%')
        return 'ArrowRight';
    return null }"""
# Arms one pause: {ms} when the panel said so and then stood still for a second, or {miss}.
ARM_PAUSE = """([panel, button]) => {
    const root = document.querySelector(panel);
    const shown = () => root.querySelector('.mv[data-state]').dataset.state;
    const said = () => root.querySelector('.moeviz-status').textContent.startsWith('Paused');
    window.moevizMove = new Promise(done => document.querySelector(button).addEventListener('click',
        click => { let state = shown(), paused = null, changed = click.timeStamp;
            const look = () => { const now = performance.now();
                if (paused === null && said()) paused = now;
                if (shown() !== state) { state = shown(); changed = now }
                if (paused !== null && now - Math.max(paused, changed) > 1000)
                    return done({ms: Math.max(paused, changed) - click.timeStamp});
                if (now - click.timeStamp > 5000) return done({miss: `still at ${state}`});
                requestAnimationFrame(look) };
            look() }, {capture: true, once: true})) }"""


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """One fresh kernel: its moves and pauses, [{ms} or {miss}], and what went wrong."""
    name, panel = "latency.ipynb", f".moeviz-{case.panel}"
    slider, picture = f"{panel} .moeviz-{case.slider}", f"{panel} {lab_browser.PICTURE}"
    key = case.slider.replace("-", "_")
    arm = [slider, picture, rf"(^|[^\d.]){key}=VALUE($|[^\d.]|\.(?!\d))", arguments.timeout * 1000]
    with lab_browser.open_shipped({name: case.notebook}, arguments.python) as (page, lab):
        lab_browser.open_notebook(page, lab, name)
        page.evaluate(FIRST, f"{picture} .mv[data-state]")
        if case.at_once:
            page.evaluate("() => void moeviz.runAll(600000)")
        else:
            lab_browser.run_all(page, timeout=600)
        first_ms = page.evaluate("() => moeviz.within(60000, 'a picture', moevizFirst)")
        if case.trains:
            lab_browser.play(page, f".moeviz-{case.trains}")
            page.wait_for_timeout(WARM_UP_SECONDS * 1000)
        handle, key, moves = lab_browser.slider_handle(page, slider), "ArrowRight", []
        if not handle.is_visible():
            lab_browser.click(page, f"{panel} .moeviz-more")
        for _ in range(arguments.moves):
            key = handle.evaluate(AWAY) or key
            page.evaluate(ARM, arm)
            lab_browser.press(handle, key)
            moves.append(page.evaluate("() => moeviz.within(60000, 'a move', moevizMove)"))
        pauses = []
        for n in range(arguments.pauses if case.panel == case.trains else 0):
            page.wait_for_timeout(400 + 37 * n)  # so that it meets every part of a step
            page.evaluate(ARM_PAUSE, [panel, "button.moeviz-pause"])
            lab_browser.click(page, ".moeviz-pause")
            pauses.append(page.evaluate("() => moeviz.within(60000, 'a pause', moevizMove)"))
            lab_browser.play(page, panel)
        problems = lab_browser.problems(page, ignore=[lab_browser.BADGE])
    figures = {"moves": moves, "pauses": pauses, "problems": problems}
    return figures | {"first_picture_ms": first_ms}


def summary(kernels: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Misses and percentiles over the moves (or pauses) of several kernels."""
    ms = [[round(m["ms"], 1) if "ms" in m else None for m in kernel] for kernel in kernels]
    times = [t for kernel in ms for t in kernel if t is not None]
    ranks: list[float | None] = [None] * 3
    if times:
        ranks = np.percentile(times, [50, 95, 100], method="inverted_cdf").tolist()
    return {
        "count": sum(map(len, ms)),
        "misses": [move["miss"] for kernel in kernels for move in kernel if "miss" in move],
        **dict(zip(("p50_ms", "p95_ms", "max_ms"), ranks, strict=True)),
        "first_ms": [kernel[0] for kernel in ms if kernel],
        "ms": ms,
    }


def environment(python: str) -> dict[str, Any]:
    """The browser, and the versions that the kernel's Python has of what a move passes through."""
    packages = ["jupyterlab", "ipywidgets", "jupyterlab_widgets", "ipykernel", "torch"]
    ask = "import importlib.metadata as m, json, sys\n"
    ask += "print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    versions = subprocess.run(
        [python, "-c", ask, *packages], capture_output=True, text=True, check=True
    ).stdout
    chromium = subprocess.run(
        [lab_browser.find_chromium(), "--version"], capture_output=True, text=True
    ).stdout
    return {"chromium": chromium.strip(), **json.loads(versions)}


def sentence(what: str, figures: dict[str, Any]) -> str:
    """The figures of one case, as the terminal shows them."""
    line = "{p50_ms} ms, p95 {p95_ms} (target {target_ms}), max {max_ms}, first {first_ms}"
    misses = f"{len(figures['misses'])} of {figures['count']} missed"
    return f"{what}: {misses}, p50 {line.format_map(figures)}"


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return 0 when nothing was missed and nothing went wrong, else 1."""
    parser = report.command_line("latency", __doc__)
    add = parser.add_argument
    add("--case", choices=CASES, action="append", help="default: all of them")
    add("--moves", type=int, default=50, help="for each kernel (%(default)s)")
    add("--pauses", type=int, default=10, help="for each kernel that trains (%(default)s)")
    add("--kernels", type=int, default=3, help="fresh kernels for each case (%(default)s)")
    add("--timeout", type=float, default=5.0, help="seconds after which a move is a miss")
    add("--python", default=sys.executable, help="the Python whose JupyterLab and kernel to use")
    default = report.RESULTS / "latency.json"
    add("--json", type=Path, default=default, help="where the figures go (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.moves < 1 or arguments.kernels < 1 or arguments.pauses < 0:
        parser.error("--moves and --kernels must be at least 1, --pauses not negative")

    cases: dict[str, Any] = {}
    results = report.begin(parser.prog)
    results |= {"environment": environment(arguments.python), "cases": cases}
    bad: list[str] = []
    for name in arguments.case or CASES:
        case = CASES[name]
        kernels = [measure(case, arguments) for _ in range(arguments.kernels)]
        problems = [text for kernel in kernels for text in kernel["problems"]]
        moves = summary([kernel["moves"] for kernel in kernels])
        pauses = summary([kernel["pauses"] for kernel in kernels])
        cases[name] = {"target_ms": case.target_ms, **moves, "problems": problems}
        cases[name]["first_picture_ms"] = [round(kernel["first_picture_ms"]) for kernel in kernels]
        print(sentence(name, cases[name]), "first picture", cases[name]["first_picture_ms"], "ms")
        if pauses["count"]:
            cases[name]["pause"] = {"target_ms": PAUSE_TARGET_MS, **pauses}
            print(sentence("pause", cases[name]["pause"]))
        bad += [f"{name}: {text}" for text in moves["misses"] + pauses["misses"] + problems]
    report.save(results, arguments.json)
    print(*bad, sep="\n", end="\n" if bad else "")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
