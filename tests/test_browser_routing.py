"""The panel of 03_routing in a real JupyterLab and Chromium: moved by mouse and keyboard, in both
themes; its picture must change, and nothing may go wrong in kernel, page or panel."""

import re
import shutil
from pathlib import Path

import pytest

import lab_browser as browser
import latency

ROOT = Path(__file__).resolve().parents[1]
NAME = "03_routing.ipynb"
PANEL = ".moeviz-compare_routers"
ALONE = browser.notebook("from moeviz import panels", "panels.CompareRouters()")

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]
# JupyterLab resolves the badge's address while the page already loads it by the unresolved one.
KNOWN = ["/lab/tree/img/colab.svg"]


def wait_state(page, pattern, timeout=20):
    page.wait_for_function(
        "([css, wanted]) => RegExp(wanted).test("
        "document.querySelector(css + ' svg[data-state]')?.dataset.state ?? '')",
        arg=[PANEL, pattern],
        timeout=timeout * 1000,
    )


def start(page, lab, name):
    browser.open_notebook(page, lab, name)
    assert browser.run_all(page) == []
    page.locator(f"{PANEL} svg[data-state]").first.wait_for()


def test_routers_are_compared(tmp_path):
    """In the notebook itself, in the light theme."""
    files = {NAME: ROOT / "notebooks" / NAME}
    with (
        browser.LabServer(files, env={"MOEVIZ_HOME": str(tmp_path)}) as lab,
        browser.open_browser(height=1300) as page,
    ):
        shutil.copytree(ROOT / "notebooks" / "img", lab.home / "root" / "img")
        start(page, lab, NAME)
        browser.screenshot(page, tmp_path / "light.png", PANEL)

        # Buttons, by mouse and by keyboard; a fifth and a last but one are refused.
        buttons = page.locator(f"{PANEL} .moeviz-routers").first
        buttons.get_by_role("button", name="BASE", exact=True).click()
        page.locator(f"{PANEL} .moeviz-status", has_text="At most 4 routers fit").wait_for()
        buttons.get_by_role("button", name="Hash", exact=True).focus()
        page.keyboard.press("Space")
        wait_state(page, "routers=token_choice%2Cswitch%2Cexpert_choice&")
        buttons.get_by_role("button", name="BASE", exact=True).click()
        wait_state(page, "routers=token_choice%2Cswitch%2Cexpert_choice%2Cbase&")

        # Sliders: anything but the recording needs the model, which a cell has loaded by now.
        for slider, state in (("top-k", "top_k=2&"), ("noise", "noise=0.1&")):
            before = browser.picture(page, PANEL)
            browser.press_slider(page, f"{PANEL} .moeviz-{slider}")
            wait_state(page, state, timeout=60)
            assert browser.picture(page, PANEL) != before
        browser.drag_slider(page, f"{PANEL} .moeviz-capacity", 1.0)
        wait_state(page, "capacity=2&")
        panel = page.locator(PANEL).first
        panel.get_by_role("button", name="outside training").click()
        wait_state(page, "mode=outside&")
        panel.get_by_role("button", name="synthetic tokens").click()
        wait_state(page, "source=synthetic&")
        panel.locator(".moeviz-text").wait_for(state="hidden")
        browser.press_slider(page, f"{PANEL} .moeviz-skew", "End")
        wait_state(page, "skew=2.0&")

        # The state string follows the picture.
        box = panel.locator(".moeviz-state input")
        page.wait_for_function("e => e.value.includes('skew=2.0&')", arg=box.element_handle())
        found = box.input_value()
        browser.type_text(page, f"{PANEL} .moeviz-state", "compare_routers?routers=hash")
        panel.locator(".moeviz-status", has_text="At least 2 routers").wait_for()
        assert panel.locator(".moeviz-state input").input_value() == found
        assert browser.problems(page, ignore=KNOWN) == []
        page.goto("about:blank")


def test_it_reads_well_in_the_dark_theme(tmp_path):
    """And a slider's every move arrives, the last value at last."""
    with (
        browser.LabServer(
            {"a.ipynb": ALONE}, env={"MOEVIZ_HOME": str(tmp_path)}, theme="Dark"
        ) as lab,
        browser.open_browser(height=1300) as page,
    ):
        start(page, lab, "a.ipynb")
        browser.press_slider(page, f"{PANEL} .moeviz-top-k")
        wait_state(page, "top_k=2&", timeout=60)
        key = browser.slider_handle(page, f"{PANEL} .moeviz-noise").evaluate(latency.AWAY)
        browser.press_slider(page, f"{PANEL} .moeviz-noise", key or "ArrowRight", times=8)
        wait_state(page, "noise=0.8&")
        browser.screenshot(page, tmp_path / "dark.png", PANEL)
        width = page.locator(f"{PANEL} svg[data-state]").evaluate(
            "e => e.getBoundingClientRect().width"
        )
        assert width > 850, "scaled down, texts would be smaller than 12 px"
        texts = page.locator(f"{PANEL} svg text").evaluate_all(
            "all => all.map(e => getComputedStyle(e).fontSize)"
        )
        assert min(float(re.sub("px", "", size)) for size in texts) >= 12
        assert browser.problems(page) == []
        page.goto("about:blank")
