"""The README's pictures of the lab, taken in a real browser while two models race.

    python -m moeviz bench screenshots

Writes notebooks/img/lab.png (JupyterLab with the race) and one picture for each notebook's panel.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lab_browser
import report
from moeviz.pictures.static import smaller
from moeviz.records.store import write_atomically

MAX_BYTES = 200_000
WIDTH, HEIGHT = 1400, 900
# The notebook's panel, and what is pressed on it before the picture is taken.
PANELS = {
    "00_start_here": (".moeviz-route_text", []),
    "01_dense_vs_moe": (".moeviz-race", []),
    "02_inside_a_layer": (".moeviz-inside_layer", [".moeviz-next"] * 3),
    "03_routing": (".moeviz-rule_steps", [".moeviz-next"] * 3),
    "03b_who_else_chooses": (".moeviz-compare_routers", []),
    "03c_trained_and_compared": (".moeviz-loud_and_quiet", []),
    "04_collapse": (".moeviz-collapse", []),
    "05_capacity": (".moeviz-slots", []),
    "06_shared_and_fine_grained": (  # with experts in quarters, and one shared
        ".moeviz-split_experts",
        [".moeviz-split_experts .moeviz-preset:nth-of-type(2)"],
    ),
    "07_specialisation": (".moeviz-specialisation", []),
    "08_hardware": (".moeviz-decode_batch", []),
    "08b_many_devices": (".moeviz-exchange", []),
    "09_frontier_models": (".moeviz-model_anatomy", []),
    "10_efficiency_frontier": (".moeviz-scaling_laws", []),
    "11_compression": (  # with fewer experts in fewer bits
        ".moeviz-compression",
        [".moeviz-compression .moeviz-preset:nth-of-type(4)"],
    ),
    "12_kernels": (".moeviz-dispatch", []),
    "13_real_models": (".moeviz-real_models", []),
    "14_many_models_in_one": (  # with two experts at once
        ".moeviz-own_expert",
        [".moeviz-own_expert .moeviz-preset:nth-of-type(4)"],
    ),
}
RACE = "01_dense_vs_moe"
TO_CELL = "panel => panel.closest('.jp-Cell').scrollIntoView()"
# Whether the live race, and not the recorded one, has come so far.
RACED = """least => { const race = document.querySelector('.moeviz-race .mv');
    return /(?<!not )live:/.test(race.textContent)
        && +/step=(\\d+)$/.exec(race.dataset.state)?.[1] >= least }"""


def save(out: Path, name: str, png: bytes) -> None:
    """Write a screenshot in few bytes, as the stills in notebooks are."""
    small = smaller(png)
    if len(small) > MAX_BYTES:
        raise ValueError(f"{name}.png has {len(small)} bytes, at most {MAX_BYTES} are wanted.")
    write_atomically(out / f"{name}.png", small)
    print(f"{name}.png: {len(small) / 1000:.0f} kB")


def main(argv: list[str] | None = None) -> int:
    """Take the pictures; returns 0 when nothing went wrong in the browser."""
    parser = report.command_line("screenshots", __doc__)
    add = parser.add_argument
    add("--step", type=int, default=300, help="of the race on the pictures (%(default)s)")
    add("--out", type=Path, default=lab_browser.NOTEBOOKS / "img", help="folder (%(default)s)")
    arguments = parser.parse_args(argv)

    files = [lab_browser.NOTEBOOKS / f"{name}.ipynb" for name in PANELS]
    problems = []
    with lab_browser.open_shipped(files, width=WIDTH, height=HEIGHT) as (page, lab):
        for name, (panel, presses) in PANELS.items():
            lab_browser.open_notebook(page, lab, f"{name}.ipynb")
            lab_browser.run_all(page, timeout=600)
            for css in presses:
                lab_browser.click(page, css)
                page.wait_for_timeout(300)
            page.locator(f"{panel} .moeviz-stale").first.wait_for(state="detached")
            if name == RACE:
                lab_browser.play(page, panel)
                page.wait_for_function(RACED, arg=arguments.step, timeout=300_000)
                page.locator(panel).first.evaluate(TO_CELL)
                page.wait_for_timeout(500)
                save(arguments.out, "lab", page.screenshot())
                lab_browser.click(page, ".moeviz-pause")
            # A window high enough for the whole panel, which the page would otherwise cut.
            page.set_viewport_size({"width": WIDTH, "height": 1500})
            page.locator(panel).first.scroll_into_view_if_needed()
            page.wait_for_timeout(500)
            save(arguments.out, name, page.locator(panel).first.screenshot())
            page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
            problems += lab_browser.problems(page, ignore=[lab_browser.BADGE])
            page.faults.clear()
    for text in problems:
        print(text)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
