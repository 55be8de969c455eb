"""The panel of 05_capacity in a real JupyterLab and Chromium: moved by mouse and keyboard, in both
themes; its picture must change, and nothing may go wrong in kernel, page or panel."""

import re

import pytest

import lab_browser as browser
from helpers.browser import (
    check_quick,
    check_readable,
    check_tab_reaches_every_control,
    seconds_to_move,
)

NAME = "05_capacity.ipynb"
PANEL = ".moeviz-slots"
ALONE = browser.notebook("from moeviz import panels", "panels.Slots()", "panels.Slots('text')")

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def test_the_notebook(labs):
    """The whole notebook, live, and its first panel by mouse and keyboard."""
    with labs.opened(NAME, timeout=400) as page:
        page.locator(f"{PANEL} svg[data-state]").first.wait_for()
        assert page.locator(f"{PANEL} svg[data-state]").count() == 2
        assert page.locator(".moeviz-predict").count() == 2

        browser.press_slider(page, f"{PANEL} .moeviz-factor", "ArrowRight")
        browser.wait_state(page, PANEL, r"factor=1.3&")
        for group, label, state in (
            ("top-k", "2", "top_k=2&"),
            ("priority", "batch", "priority=batch&"),
            ("pool", "each sequence", "pool=sequence&"),
            ("overflow", "pad", "overflow=pad&"),
            ("overflow", "drop", "overflow=drop&"),
        ):
            panel = page.locator(PANEL).first
            panel.locator(f".moeviz-{group} button", has_text=label).first.focus()
            page.keyboard.press("Space")
            browser.wait_state(page, PANEL, state)
        browser.drag_slider(page, f"{PANEL} .moeviz-skew", 0.0)
        browser.wait_state(page, PANEL, "skew=0.0&")
        browser.press_slider(page, f"{PANEL} .moeviz-tokens", "ArrowRight")
        browser.wait_state(page, PANEL, "tokens=48&")
        page.locator(f"{PANEL} .moeviz-seed input").first.focus()
        page.keyboard.press("ArrowUp")
        browser.wait_state(page, PANEL, "seed=8$")
        page.locator(f"{PANEL} .moeviz-source button", has_text="your text").first.click()
        browser.wait_state(page, PANEL, "source=text&")
        kept = page.locator(f"{PANEL} .moeviz-state input").first.input_value()
        browser.write(page, f"{PANEL} .moeviz-text", "<script>alert(1)</script> <b>&amp;")
        browser.wait_state(
            page, PANEL, "text=%3Cscript%3Ealert%281%29%3C%2Fscript%3E\\+%3Cb%3E%26amp%3B&"
        )
        assert page.locator(f"{PANEL} svg :is(script, b)").count() == 0
        browser.type_text(page, f"{PANEL} .moeviz-state", kept)
        browser.wait_state(page, PANEL, "^" + re.escape(kept) + "$")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_reads_well_and_by_keyboard_alone(labs, theme, tmp_path):
    with labs.opened(ALONE, theme) as page:
        page.locator(f"{PANEL} svg[data-state]").nth(1).wait_for()
        check_readable(page, PANEL, 30)
        for n in (0, 1):
            page.locator(PANEL).nth(n).screenshot(path=str(tmp_path / f"{theme}-{n}.png"))
        check_tab_reaches_every_control(page, PANEL)

        browser.press_slider(page, f"{PANEL} .moeviz-factor", "ArrowLeft", times=6)
        browser.wait_state(page, PANEL, "factor=0.95&")
        took = []
        for i in range(20):
            key = "ArrowRight" if i < 10 else "ArrowLeft"
            took.append(seconds_to_move(page, PANEL, ".moeviz-factor", key))
        check_quick(took, theme)
        page.locator(PANEL).first.locator(".moeviz-top-k button").nth(1).click()
        browser.wait_state(page, PANEL, "top_k=2&")
        page.locator(PANEL).first.locator(".moeviz-pool button").nth(1).click()
        browser.wait_state(page, PANEL, "pool=sequence&")
        check_readable(page, PANEL, 30)
        browser.screenshot(page, tmp_path / f"{theme}-2.png", PANEL)
