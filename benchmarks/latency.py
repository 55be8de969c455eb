"""Slider to changed pixels: how long after a key press does the panel show the new value?

    python -m moeviz bench latency --notebook notebooks/02_inside_a_layer.ipynb \\
        --slider .moeviz-k --panel .moeviz-layer --play .moeviz-play --json out.json

A real JupyterLab and Chromium; each case starts in a fresh server and kernel and counts the very
first move after the panel is displayed. A move is timed in the page, from the key event to the
second animation frame after the picture's `data-state` carries the slider's new value. A move
whose value is not shown in time is a miss. Without --notebook it measures a panel of its own,
which bounds what any panel can reach on this machine.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import lab_browser

# The least panel: a slider and an SVG of 512 marks; a thread that trains and shows a loss at 10 Hz.
MINIMAL = (
    """
import threading, time
import ipywidgets as W

slider = W.IntSlider(min=0, max=200, value=50).add_class("bench-slider")
button, live = W.Button(description="play").add_class("bench-play"), W.HTML()
picture = W.HTML().add_class("moeviz-picture")

def draw(*_):
    k = slider.value
    mark = '<rect x="{}" y="{}" width="9" height="19" fill="hsl({},50%,50%)"/>'
    marks = (mark.format(i % 64 * 10, i // 64 * 20, i * k % 360) for i in range(512))
    picture.value = f'<svg width="640" height="160" data-state="k={k}">{"".join(marks)}</svg>'

def train():
    import torch
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.Linear(512, 256))
    optimizer, step, last = torch.optim.AdamW(model.parameters()), 0, 0.0
    while True:
        x = torch.randn(256, 256)
        loss = (model(x) - x).pow(2).mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step(); step += 1
        if time.monotonic() - last > 0.1:
            live.value, last = f"step {step}, loss {loss.item():.4f}", time.monotonic()

slider.observe(draw, "value")
button.on_click(lambda _: threading.Thread(target=train, daemon=True).start())
draw()
""",
    """
panel = W.VBox([slider, button, picture, live]).add_class("bench-panel")
for widget in (panel, *panel.children):
    widget.comm._reply_subshell_for = None  # see front_end_chooses_the_thread in the panels
panel""",
)

# Arms one measurement; the promise holds {ms, value} or {miss}. Times are of the page's one clock.
ARM = """([slider, picture, pattern, limit]) => {
    const root = document.querySelector(picture);
    const shown = () => root.querySelector('svg[data-state]')?.dataset.state ?? '';
    const label = () => document.querySelector(`${slider} .widget-readout`).textContent.trim();
    const old = {label: label(), state: shown()};
    window.moevizMove = new Promise(done => addEventListener('keydown', key => setTimeout(() => {
        const value = label(), start = key.timeStamp;
        const end = result => { clearTimeout(timer); observer.disconnect(); done(result) };
        const literal = value.replace(/[.*+?^${}()|[\\]\\\\]/g, '\\\\$&');
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


def measure(arguments, case):
    """Return the moves of one fresh kernel, [{ms, value} or {miss}], and the problems seen."""
    name = "latency.ipynb"
    content = arguments.notebook or lab_browser.notebook(*MINIMAL)
    pattern = re.sub(r"\\?\{value\\?\}", "VALUE", re.escape(arguments.match))
    arm = [arguments.slider, f"{arguments.panel} {lab_browser.PICTURE}"]
    arm += [rf"(^|[^\d.]){pattern}($|[^\d.]|\.(?!\d))", arguments.timeout * 1000]
    moves = []
    with lab_browser.LabServer({name: content}, python=arguments.python) as lab:
        with lab_browser.open_browser() as page:
            lab_browser.open_notebook(page, lab, name)
            if arguments.at_once:  # the first move while later cells still run
                page.evaluate("() => void moeviz.runAll(600000)")
                lab_browser.slider_handle(page, arguments.slider).wait_for(timeout=120_000)
                page.locator(f"{arm[1]} svg[data-state]").first.wait_for(timeout=120_000)
            else:
                lab_browser.run_all(page, timeout=600)
            if case == "training":
                lab_browser.click(page, arguments.play)
                page.wait_for_timeout(arguments.warm_up * 1000)
            handle, key = lab_browser.slider_handle(page, arguments.slider), "ArrowRight"
            for _ in range(arguments.moves):
                key = handle.evaluate(AWAY) or key
                page.evaluate(ARM, arm)
                handle.focus()
                page.keyboard.press(key)
                moves.append(page.evaluate("() => moeviz.within(60000, 'a move', moevizMove)"))
            return moves, lab_browser.problems(page)


def percentile(values, fraction):
    """Return the nearest-rank percentile of some numbers, None of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * fraction // 100) - 1)] if ordered else None


def summary(kernels):
    """Return misses and percentiles over the moves of several kernels."""
    moves = [move for kernel in kernels for move in kernel]
    times = [round(move["ms"], 1) for move in moves if "ms" in move]
    return {
        "moves": len(moves),
        "kernels": len(kernels),
        "misses": [move["miss"] for move in moves if "miss" in move],
        "p50_ms": percentile(times, 50),
        "p95_ms": percentile(times, 95),
        "max_ms": max(times, default=None),
        "first_ms": [
            round(kernel[0]["ms"], 1) if "ms" in kernel[0] else None for kernel in kernels
        ],
        "ms": [[round(m["ms"], 1) if "ms" in m else None for m in kernel] for kernel in kernels],
    }


def provenance(python):
    """Return what a figure depends on: machine, load, versions, commit, date."""
    packages = ["jupyterlab", "ipywidgets", "jupyterlab_widgets", "ipykernel", "torch"]
    ask = "import importlib.metadata as m, json, sys; d = {}\nfor p in sys.argv[1:]:\n try:"
    ask += " d[p] = m.version(p)\n except m.PackageNotFoundError: pass\nprint(json.dumps(d))"

    def output(*command):
        result = subprocess.run(command, capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else None

    folder = str(pathlib.Path(__file__).parent)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": output("git", "-C", folder, "rev-parse", "HEAD"),
        "uncommitted_changes": bool(output("git", "-C", folder, "status", "--porcelain")),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load_average": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "python": platform.python_version(),
        "chromium": output(lab_browser.find_chromium(), "--version"),
        **json.loads(output(python, "-c", ask, *packages) or "{}"),
    }


def main(argv=None):
    """Run the benchmark; return 0 when no move was missed and nothing went wrong, else 1."""
    parser = argparse.ArgumentParser(prog="latency", description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--notebook", type=pathlib.Path, help="notebook with the panel (default: a minimal one)")
    add("--slider", default=".bench-slider", help="CSS class of the slider")
    add("--panel", default=".bench-panel", help="CSS class of the panel that holds the picture")
    add("--play", default=".bench-play", help="CSS class of the button that starts the training")
    add("--match", default="{value}", help="what data-state contains, e.g. 'k={value}'")
    add("--case", choices=["idle", "training"], action="append", help="default: both")
    add("--moves", type=int, default=50)
    add("--kernels", type=int, default=1, help="fresh kernels for each case")
    add("--at-once", action="store_true", help="move while the cells after the panel still run")
    add("--warm-up", type=float, default=2.0, help="seconds of training before the first move")
    add("--timeout", type=float, default=5.0, help="seconds after which a move is a miss")
    add("--python", default=sys.executable, help="the Python whose JupyterLab and kernel to use")
    add("--json", type=pathlib.Path, help="write the figures to this file")
    arguments = parser.parse_args(argv)
    if arguments.moves < 1 or arguments.kernels < 1:
        parser.error("--moves and --kernels must be at least 1")
    if arguments.notebook and not arguments.notebook.is_file():
        parser.error(f"no notebook {arguments.notebook}")

    name = arguments.notebook.name if arguments.notebook else "minimal"
    report = {"notebook": name, "slider": arguments.slider, "at_once": arguments.at_once}
    report |= {"provenance": provenance(arguments.python), "cases": {}}
    failed = False
    for case in arguments.case or ["idle", "training"]:
        results = [measure(arguments, case) for _ in range(arguments.kernels)]
        figures = summary([moves for moves, _ in results])
        figures["problems"] = [text for _, problems in results for text in problems]
        report["cases"][case] = figures
        failed = failed or bool(figures["misses"] or figures["problems"])
        shown = {key: figures[key] for key in ("p50_ms", "p95_ms", "max_ms", "first_ms")}
        print(f"{case}: {len(figures['misses'])} of {figures['moves']} moves missed, {shown}")
        for text in figures["misses"] + figures["problems"]:
            print(f"  {text}")
    report["provenance"]["load_average_after"] = provenance(arguments.python)["load_average"]
    if arguments.json:
        text = re.sub(r"(?<=[\d\[l,])\n\s+(?=[\d\]n])", " ", json.dumps(report, indent=1))
        arguments.json.write_text(text + "\n", encoding="utf-8")  # number lists on one line
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
