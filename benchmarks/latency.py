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
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab_browser
from moeviz.host import load_average, provenance
from moeviz.records.store import write_atomically

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
RESULT = ROOT / "benchmarks" / "results" / "latency.json"
WARM_UP_SECONDS = 2.0  # of training before the first move
# JupyterLab resolves the badge's address while the page already loads it by the unresolved one.
HARMLESS = ["/lab/tree/img/colab.svg"]


@dataclass(frozen=True)
class Case:
    """A slider: where it is, what data-state says of it, and what goes on meanwhile."""

    notebook: Path | dict[str, Any]
    panel: str
    slider: str
    match: str
    target_ms: int
    trains: str = ""  # the panel whose models train meanwhile
    at_once: bool = False  # move while the cells after the panel still run


def _small(*sources: str) -> dict[str, Any]:
    return lab_browser.notebook("from moeviz import panels", *sources)


# What the panels of 03 and 05 load in the background at the first move that needs it.
READY = """import threading

from moeviz.panels.shipped_model import READER

loaded = threading.Event()
READER.load(loaded.set)
print(loaded.wait(60))"""

CASES = {
    "layer": Case(
        NOTEBOOKS / "00_start_here.ipynb", ".moeviz-route_text", ".moeviz-layer", "layer={}", 100
    ),
    "stage": Case(
        NOTEBOOKS / "02_inside_a_layer.ipynb",
        ".moeviz-inside_layer",
        ".moeviz-stage",
        "stage={}",
        100,
    ),
    "timeline while training": Case(
        NOTEBOOKS / "01_dense_vs_moe.ipynb",
        ".moeviz-race",
        ".moeviz-timeline",
        "timeline={}",
        150,
        trains=".moeviz-race",
    ),
    "layer while training": Case(
        _small("panels.Race()", "panels.RouteText()"),
        ".moeviz-route_text",
        ".moeviz-layer",
        "layer={}",
        150,
        trains=".moeviz-race",
    ),
    "four routers": Case(
        _small(READY, "panels.CompareRouters()"),
        ".moeviz-compare_routers",
        ".moeviz-top-k",
        "top_k={}",
        100,
    ),
    "slots": Case(
        _small(READY, "panels.Slots()"), ".moeviz-slots", ".moeviz-tokens", "tokens={}", 100
    ),
    "collapse": Case(
        NOTEBOOKS / "04_collapse.ipynb", ".moeviz-collapse", ".moeviz-timeline", "timeline={}", 100
    ),
    "collapse while training": Case(
        _small("panels.Collapse()"),
        ".moeviz-collapse",
        ".moeviz-timeline",
        "timeline={}",
        150,
        trains=".moeviz-collapse",
    ),
    **{
        name: Case(
            _small(f"panels.{panel}()"),
            f".moeviz-{kind}",
            f".moeviz-{slider}",
            f"{slider}={{}}",
            100,
        )
        for name, panel, kind, slider in (
            ("dispatch", "Dispatch", "dispatch", "step"),
            ("fit", "MemoryFit", "memory_fit", "batch"),
            ("decode", "DecodeBatch", "decode_batch", "batch"),
            ("exchange", "Exchange", "exchange", "tokens"),
            ("offloading", "Offloading", "offloading", "hit"),
            ("cache ladder", "CacheLadder", "cache_ladder", "batch"),
            ("model map", "ModelMap", "model_map", "until"),
            ("training cost", "TrainingCost", "training_cost", "watts"),
        )
    },
    # Without the panels' answer_at_once the first moves here wait until the cell ends.
    "layer while a cell runs": Case(
        _small("panels.RouteText()", "import time\n\ntime.sleep(15)"),
        ".moeviz-route_text",
        ".moeviz-layer",
        "layer={}",
        100,
        at_once=True,
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
    const shown = () => root.querySelector('svg[data-state]')?.dataset.state ?? '';
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
    const shown = () => root.querySelector('svg[data-state]').dataset.state;
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
    name = "latency.ipynb"
    slider, picture = f"{case.panel} {case.slider}", f"{case.panel} {lab_browser.PICTURE}"
    pattern = re.escape(case.match).replace(r"\{\}", "VALUE")
    arm = [slider, picture, rf"(^|[^\d.]){pattern}($|[^\d.]|\.(?!\d))", arguments.timeout * 1000]
    with (
        tempfile.TemporaryDirectory(prefix="moeviz-latency-") as home,
        lab_browser.LabServer(
            {name: case.notebook}, python=arguments.python, env={"MOEVIZ_HOME": home}
        ) as lab,
        lab_browser.open_browser() as page,
    ):
        shutil.copytree(NOTEBOOKS / "img", lab.home / "root" / "img")  # the badge
        lab_browser.open_notebook(page, lab, name)
        page.evaluate(FIRST, f"{picture} svg[data-state]")
        if case.at_once:
            page.evaluate("() => void moeviz.runAll(600000)")
        else:
            lab_browser.run_all(page, timeout=600)
        first_ms = page.evaluate("() => moeviz.within(60000, 'a picture', moevizFirst)")
        if case.trains:
            play(page, case.trains)
            page.wait_for_timeout(WARM_UP_SECONDS * 1000)
        handle, key, moves = lab_browser.slider_handle(page, slider), "ArrowRight", []
        for _ in range(arguments.moves):
            key = handle.evaluate(AWAY) or key
            page.evaluate(ARM, arm)
            handle.focus()
            page.keyboard.press(key)
            moves.append(page.evaluate("() => moeviz.within(60000, 'a move', moevizMove)"))
        pauses = []
        for n in range(arguments.pauses if case.panel == case.trains else 0):
            page.wait_for_timeout(400 + 37 * n)  # so that it meets every part of a step
            page.evaluate(ARM_PAUSE, [case.panel, "button.moeviz-pause"])
            lab_browser.click(page, ".moeviz-pause")
            pauses.append(page.evaluate("() => moeviz.within(60000, 'a pause', moevizMove)"))
            play(page, case.panel)
        problems = lab_browser.problems(page, ignore=HARMLESS)
        return {"moves": moves, "pauses": pauses, "first_picture_ms": first_ms} | {
            "problems": problems
        }


def play(page: Any, panel: str) -> None:
    """Press a panel's Play and wait until its models train."""
    lab_browser.click(page, ".moeviz-play")
    training = page.locator(f"{panel} .moeviz-status", has_text="Training.")
    training.wait_for(timeout=120_000)


def percentile(values: list[float], percent: int) -> float | None:
    """The nearest-rank percentile of some numbers, None of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def summary(kernels: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Misses and percentiles over the moves (or pauses) of several kernels."""
    ms = [[round(m["ms"], 1) if "ms" in m else None for m in kernel] for kernel in kernels]
    times = [t for kernel in ms for t in kernel if t is not None]
    return {
        "count": sum(map(len, ms)),
        "misses": [move["miss"] for kernel in kernels for move in kernel if "miss" in move],
        "p50_ms": percentile(times, 50),
        "p95_ms": percentile(times, 95),
        "max_ms": max(times, default=None),
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


def compact(report: dict[str, Any]) -> bytes:
    """JSON with lists of numbers on one line."""
    text = json.dumps(report, indent=1)
    return (re.sub(r"(?<=[\d\[l,])\n\s+(?=[\d\]n])", " ", text) + "\n").encode()


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return 0 when nothing was missed and nothing went wrong, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m moeviz bench latency", description=__doc__.split("\n", 1)[0]
    )
    add = parser.add_argument
    add("--case", choices=CASES, action="append", help="default: all of them")
    add("--moves", type=int, default=50, help="for each kernel (%(default)s)")
    add("--pauses", type=int, default=10, help="for each kernel that trains (%(default)s)")
    add("--kernels", type=int, default=3, help="fresh kernels for each case (%(default)s)")
    add("--timeout", type=float, default=5.0, help="seconds after which a move is a miss")
    add("--python", default=sys.executable, help="the Python whose JupyterLab and kernel to use")
    add("--json", type=Path, default=RESULT, help="where the figures go (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.moves < 1 or arguments.kernels < 1 or arguments.pauses < 0:
        parser.error("--moves and --kernels must be at least 1, --pauses not negative")

    report: dict[str, Any] = {
        "provenance": provenance("python -m moeviz bench latency"),
        "environment": environment(arguments.python),
        "load_average_before": load_average(),
        "cases": {},
    }
    failed = False
    for name in arguments.case or CASES:
        case = CASES[name]
        kernels = [measure(case, arguments) for _ in range(arguments.kernels)]
        figures = {"target_p95_ms": case.target_ms} | summary([k["moves"] for k in kernels])
        figures["first_picture_ms"] = [round(kernel["first_picture_ms"]) for kernel in kernels]
        figures["problems"] = [text for kernel in kernels for text in kernel["problems"]]
        report["cases"][name] = figures
        bad = figures["misses"] + figures["problems"]
        line = "p50 {p50_ms} ms, p95 {p95_ms} (target {target_p95_ms}), max {max_ms}, first "
        line = (line + "{first_ms}, first picture {first_picture_ms} ms").format_map(figures)
        print(f"{name}: {len(figures['misses'])} of {figures['count']} moves missed, {line}")
        if any(kernel["pauses"] for kernel in kernels):
            figures["pause"] = pause = {"target_ms": 250} | summary([k["pauses"] for k in kernels])
            bad += pause["misses"]
            line = "p50 {p50_ms} ms, p95 {p95_ms}, max {max_ms} (target {target_ms})"
            print(f"pause: {len(pause['misses'])} of {pause['count']} missed, ", end="")
            print(line.format_map(pause))
        for text in bad:
            print(f"  {text}")
        failed = failed or bool(bad)
    report["load_average_after"] = load_average()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.json, compact(report))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
