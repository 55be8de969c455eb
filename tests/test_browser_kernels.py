"""The panels of 12_kernels in a real JupyterLab and Chromium: moved by mouse and keyboard, in both
themes; pictures must change, and nothing may go wrong in kernel, page or panel."""

import re

import pytest

import lab_browser as browser
from helpers.browser import (
    check_quick,
    check_readable,
    check_tab_reaches_every_control,
    seconds_to_move,
)

NAME = "12_kernels.ipynb"
PANEL, WASTE, ROOF, RACE = (
    f".moeviz-{kind}" for kind in ("dispatch", "tile_waste", "roofline", "contenders")
)
ALONE = browser.notebook(
    "from moeviz import panels",
    "panels.Dispatch()",
    "panels.TileWaste()",
    "panels.Roofline()",
    "panels.Contenders()",
)

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def test_the_notebook(labs):
    """The whole notebook, live, and its panels by mouse and keyboard."""
    with labs.opened(NAME, timeout=400) as page:
        for css in (PANEL, WASTE, ROOF, RACE):
            page.locator(f"{css} svg[data-state]").first.wait_for()
        assert page.locator(".moeviz-predict").count() == 2

        page.locator(f"{PANEL} button.moeviz-next").first.click()
        browser.wait_state(page, PANEL, r"step=1&")
        browser.press_slider(page, f"{PANEL} .moeviz-step", "ArrowRight")
        browser.wait_state(page, PANEL, r"step=2&")
        page.locator(f"{PANEL} .moeviz-stage button", has_text="scatter").first.click()
        browser.wait_state(page, PANEL, r"step=13&")
        page.locator(f"{PANEL} button.moeviz-play").first.click()
        browser.wait_state(page, PANEL, r"step=15&")
        page.locator(f"{PANEL} button.moeviz-pause").first.click()
        # The kernels run here, in the interpreter where there is no GPU.
        page.locator(f"{PANEL} .moeviz-tile-block button", has_text="8").first.click()
        browser.wait_state(page, PANEL, r"tile_block=8&")
        page.locator(f"{PANEL} .moeviz-source button", has_text="synthetic").first.click()
        browser.wait_state(page, PANEL, r"source=synthetic&")
        browser.press_slider(page, f"{PANEL} .moeviz-tokens", "ArrowRight")
        browser.wait_state(page, PANEL, r"tokens=17&")
        page.locator(f"{PANEL} .moeviz-source button", has_text="your text").first.click()
        browser.wait_state(page, PANEL, r"source=text&")
        kept = page.locator(f"{PANEL} .moeviz-state input").first.input_value()
        browser.write(page, f"{PANEL} .moeviz-text", "<script>alert(1)</script> <b>&amp;")
        browser.wait_state(
            page, PANEL, "text=%3Cscript%3Ealert%281%29%3C%2Fscript%3E\\+%3Cb%3E%26amp%3B$"
        )
        assert page.locator(f"{PANEL} svg :is(script, b)").count() == 0
        browser.type_text(page, f"{PANEL} .moeviz-state", kept)
        browser.wait_state(page, PANEL, "^" + re.escape(kept) + "$")

        browser.press_slider(page, f"{WASTE} .moeviz-skew", "ArrowRight")
        browser.wait_state(page, WASTE, "skew=0.1&")
        browser.press_slider(page, f"{ROOF} .moeviz-tokens", "ArrowRight", times=3)
        browser.wait_state(page, ROOF, "tokens=8$")
        page.locator(f"{ROOF} button.moeviz-run").first.click()
        browser.wait_state(page, ROOF, "machine=this")
        page.locator(f"{ROOF} svg", has_text="memory: a large copy").wait_for(timeout=90_000)
        page.locator(f"{RACE} button.moeviz-run").first.click()
        page.locator(f"{RACE} svg", has_text="this machine: ").wait_for(timeout=60_000)
        page.locator(f"{RACE} svg", has_text="grouped_mm").wait_for(timeout=120_000)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_reads_well_and_by_keyboard_alone(labs, theme, tmp_path):
    with labs.opened(ALONE, theme) as page:
        for css, least in ((PANEL, 100), (WASTE, 20), (ROOF, 30), (RACE, 15)):
            page.locator(f"{css} svg[data-state]").first.wait_for()
            check_readable(page, css, least)
            browser.screenshot(page, tmp_path / f"{theme}{css}.png", css)
        check_tab_reaches_every_control(page, PANEL)

        took = []
        for step in range(1, 48):
            took.append(seconds_to_move(page, PANEL, ".moeviz-step"))
            if step in (2, 8, 15, 17, 22, 40):  # one of each stage
                check_readable(page, PANEL, 80)
                browser.screenshot(page, tmp_path / f"{theme}-{step}.png", PANEL)
        check_quick(took, theme)
