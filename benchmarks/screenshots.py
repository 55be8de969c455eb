"""The README's pictures of the lab, taken in a real browser while two models race.

    python -m moeviz bench screenshots

Writes notebooks/img/lab.png (JupyterLab with the race) and one picture for each notebook's panel.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import lab_browser
from moeviz.records.store import write_atomically

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
MAX_BYTES = 200_000
WIDTH, HEIGHT = 1400, 900
# The notebook's panel, and what is pressed on it before the picture is taken.
PANELS = {
    "00_start_here": (".moeviz-route_text", []),
    "01_dense_vs_moe": (".moeviz-race", []),
    "02_inside_a_layer": (".moeviz-inside_layer", [".moeviz-next"] * 3),
    "03_routing": (".moeviz-compare_routers", []),
    "04_collapse": (".moeviz-collapse", []),
    "05_capacity": (".moeviz-slots", []),
    "08_hardware": (".moeviz-decode_batch", []),
    "09_frontier_models": (".moeviz-model_anatomy", []),
    "12_kernels": (".moeviz-dispatch", [".moeviz-next"] * 15),
}
RACE = "01_dense_vs_moe"


def optimised(png: bytes) -> bytes:
    """The same pixels in fewer bytes; a palette would shift colours that mean something."""
    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(small, "PNG", optimize=True)
    return min(small.getvalue(), png, key=len)


def save(out: Path, name: str, png: bytes) -> None:
    data = optimised(png)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name}.png has {len(data)} bytes, at most {MAX_BYTES} are wanted.")
    write_atomically(out / f"{name}.png", data)
    print(f"{name}.png: {len(data) / 1000:.0f} kB")


def race_to(page: Any, step: int) -> None:
    """Press Play and wait until the live race has come so far."""
    lab_browser.click(page, ".moeviz-play")
    page.locator(".moeviz-race svg", has_text=re.compile("(?<!not )live:")).wait_for(
        timeout=120_000
    )
    page.wait_for_function(
        "least => +/step=(\\d+)$/.exec("
        "document.querySelector('.moeviz-race svg').dataset.state)?.[1] >= least",
        arg=step,
        timeout=300_000,
    )


def main(argv: list[str] | None = None) -> int:
    """Take the pictures; returns 0 when nothing went wrong in the browser."""
    parser = argparse.ArgumentParser(
        prog="python -m moeviz bench screenshots", description=__doc__.split("\n", 1)[0]
    )
    add = parser.add_argument
    add("--step", type=int, default=300, help="of the race on the pictures (%(default)s)")
    add("--out", type=Path, default=NOTEBOOKS / "img", help="folder (%(default)s)")
    arguments = parser.parse_args(argv)

    files = [NOTEBOOKS / f"{name}.ipynb" for name in PANELS]
    problems = []
    with (
        tempfile.TemporaryDirectory(prefix="moeviz-screenshots-") as home,
        lab_browser.LabServer(files, env={"MOEVIZ_HOME": home}) as lab,
        lab_browser.open_browser(WIDTH, HEIGHT) as page,
    ):
        shutil.copytree(NOTEBOOKS / "img", lab.home / "root" / "img")  # the badge
        for name, (panel, presses) in PANELS.items():
            lab_browser.open_notebook(page, lab, f"{name}.ipynb")
            lab_browser.run_all(page)
            for css in presses:
                lab_browser.click(page, css)
                page.wait_for_timeout(300)
            if name == RACE:
                race_to(page, arguments.step)
                # The heading that the panel stands under says what is seen.
                page.locator(panel).first.evaluate(
                    "e => { const cell = e.closest('.jp-Cell'); const head = "
                    "cell.previousElementSibling ?? cell; head.scrollIntoView() }"
                )
                page.wait_for_timeout(500)
                save(arguments.out, "lab", page.screenshot())
                lab_browser.click(page, ".moeviz-pause")
            # A window high enough for the whole panel, which the page would otherwise cut.
            page.set_viewport_size({"width": WIDTH, "height": 1500})
            page.locator(panel).first.scroll_into_view_if_needed()
            page.wait_for_timeout(500)
            save(arguments.out, name, page.locator(panel).first.screenshot())
            page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
            # The badge is loaded twice: the first time by an address not yet resolved.
            problems += lab_browser.problems(page, ignore=["/lab/tree/img/colab.svg"])
            page.faults.clear()
    for text in problems:
        print(text)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
