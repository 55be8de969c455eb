"""The panel of 03_routing in a real JupyterLab and Chromium: moved by mouse and keyboard, in both
themes; its picture must change, and nothing may go wrong in kernel, page or panel."""

import pytest

import lab_browser as browser
import latency
from helpers.browser import check_readable

NAME = "03_routing.ipynb"
PANEL = ".moeviz-compare_routers"
ALONE = browser.notebook("from moeviz import panels", "panels.CompareRouters()")

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def test_routers_are_compared(labs, tmp_path):
    """In the notebook itself, in the light theme."""
    with labs.opened(NAME) as page:
        page.locator(f"{PANEL} svg[data-state]").first.wait_for()
        browser.screenshot(page, tmp_path / "light.png", PANEL)

        # Buttons, by mouse and by keyboard; a fifth and a last but one are refused.
        buttons = page.locator(f"{PANEL} .moeviz-routers").first
        buttons.get_by_role("button", name="BASE", exact=True).click()
        page.locator(f"{PANEL} .moeviz-status", has_text="At most 4 routers fit").wait_for()
        buttons.get_by_role("button", name="Hash", exact=True).focus()
        page.keyboard.press("Space")
        browser.wait_state(page, PANEL, "routers=token_choice%2Cswitch%2Cexpert_choice&")
        buttons.get_by_role("button", name="BASE", exact=True).click()
        browser.wait_state(page, PANEL, "routers=token_choice%2Cswitch%2Cexpert_choice%2Cbase&")

        # Sliders: anything but the recording needs the model, which a cell has loaded by now.
        for slider, state in (("top-k", "top_k=2&"), ("noise", "noise=0.1&")):
            before = browser.picture(page, PANEL)
            browser.press_slider(page, f"{PANEL} .moeviz-{slider}")
            browser.wait_state(page, PANEL, state)
            assert browser.picture(page, PANEL) != before
        browser.drag_slider(page, f"{PANEL} .moeviz-capacity", 1.0)
        browser.wait_state(page, PANEL, "capacity=2&")
        panel = page.locator(PANEL).first
        panel.get_by_role("button", name="outside training").click()
        browser.wait_state(page, PANEL, "mode=outside&")
        panel.get_by_role("button", name="synthetic tokens").click()
        browser.wait_state(page, PANEL, "source=synthetic&")
        panel.locator(".moeviz-text").wait_for(state="hidden")
        browser.press_slider(page, f"{PANEL} .moeviz-skew", "End")
        browser.wait_state(page, PANEL, "skew=2.0&")

        # The state string follows the picture.
        box = panel.locator(".moeviz-state input")
        page.wait_for_function("e => e.value.includes('skew=2.0&')", arg=box.element_handle())
        found = box.input_value()
        browser.type_text(page, f"{PANEL} .moeviz-state", "compare_routers?routers=hash")
        panel.locator(".moeviz-status", has_text="At least 2 routers").wait_for()
        assert panel.locator(".moeviz-state input").input_value() == found


def test_it_reads_well_in_the_dark_theme(labs, tmp_path):
    """And a slider's every move arrives, the last value at last."""
    with labs.opened(ALONE, "Dark") as page:
        page.locator(f"{PANEL} svg[data-state]").first.wait_for()
        browser.press_slider(page, f"{PANEL} .moeviz-top-k")
        browser.wait_state(page, PANEL, "top_k=2&")
        key = browser.slider_handle(page, f"{PANEL} .moeviz-noise").evaluate(latency.AWAY)
        browser.press_slider(page, f"{PANEL} .moeviz-noise", key or "ArrowRight", times=8)
        browser.wait_state(page, PANEL, "noise=0.8&")
        browser.screenshot(page, tmp_path / "dark.png", PANEL)
        check_readable(page, PANEL, 30)
