"""The panels of 09_frontier_models in a real JupyterLab and Chromium: moved by mouse and keyboard,
in both themes; pictures must change and read well, and nothing may go wrong."""

import re

import pytest

import lab_browser as browser
from helpers.browser import check_readable

NAME = "09_frontier_models.ipynb"
KINDS = {"model_anatomy": 40, "model_map": 40, "claims": 60, "cache_ladder": 30,
         "training_cost": 40}  # fmt: skip
ANATOMY, MAP, CLAIMS, LADDER, COST = (f".moeviz-{kind}" for kind in KINDS)
ALONE = browser.notebook(
    "from moeviz import panels",
    "panels.ModelAnatomy('DeepSeek-V4-Pro', 'Switch-C 1.6T')",
    "panels.ModelMap()",
    "panels.Claims('gpt4_sizes')",
    "panels.CacheLadder()",
    "panels.TrainingCost()",
)

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def test_the_notebook(labs):
    """The whole notebook, live, and its panels by mouse and keyboard."""
    with labs.opened(NAME, timeout=200) as page:
        for css in (ANATOMY, MAP, CLAIMS, LADDER, COST):
            page.locator(f"{css} svg[data-state]").first.wait_for()
        assert page.locator(".moeviz-predict").count() == 3

        before = page.locator(f"{LADDER} .moeviz-picture").first.screenshot()
        browser.press_slider(page, f"{LADDER} .moeviz-context", "ArrowRight", times=2)
        browser.wait_state(page, LADDER, r"context=524288&")
        assert page.locator(f"{LADDER} .moeviz-picture").first.screenshot() != before
        page.locator(f"{LADDER} .moeviz-bits button", has_text="8 bits").first.click()
        browser.wait_state(page, LADDER, r"bits=8$")

        page.locator(f"{ANATOMY} .moeviz-model button", has_text="GPT-3").first.click()
        browser.wait_state(page, ANATOMY, r"model=GPT-3")
        page.locator(f"{ANATOMY} .moeviz-config textarea").first.focus()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text('{"model_type": "<script>alert(1)</script>"}')
        page.locator(f"{ANATOMY} .moeviz-status", has_text="is not known; known are").wait_for()
        assert page.locator(f"{ANATOMY} :is(svg, .moeviz-status) script").count() == 0

        browser.press_slider(page, f"{MAP} .moeviz-model", "ArrowRight")
        browser.wait_state(page, MAP, r"model=(?!DeepSeek-V3\+%2F)")
        browser.press_slider(page, f"{MAP} .moeviz-until", "ArrowLeft", times=3)
        browser.wait_state(page, MAP, r"until=2023&")

        browser.press_slider(page, f"{CLAIMS} .moeviz-first", "ArrowLeft", times=4)
        page.locator(f"{CLAIMS} .moeviz-status", has_text=": off; ").wait_for()
        kept = page.locator(f"{CLAIMS} .moeviz-state input").first.input_value()
        browser.press_slider(page, f"{CLAIMS} .moeviz-claim", "ArrowRight")
        browser.wait_state(page, CLAIMS, "claim=v3_cost&")
        browser.type_text(page, f"{CLAIMS} .moeviz-state", kept)
        browser.wait_state(page, CLAIMS, "^" + re.escape(kept) + "$")
        page.locator(f"{CLAIMS} button.moeviz-reset").first.click()
        page.locator(f"{CLAIMS} .moeviz-status", has_text=": holds; ").wait_for()

        browser.press_slider(page, f"{COST} .moeviz-price", "ArrowRight")
        browser.wait_state(page, COST, r"price=2.1&")
        page.locator(f"{COST} .moeviz-device button", has_text="B200").first.click()
        browser.wait_state(page, COST, r"device=B200")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_reads_well(labs, theme, tmp_path):
    with labs.opened(ALONE, theme) as page:
        for kind, least in KINDS.items():
            css = f".moeviz-{kind}"
            page.locator(f"{css} svg[data-state]").first.wait_for()
            check_readable(page, css, least)
            browser.screenshot(page, tmp_path / f"{theme}-{kind}.png", css)
        # The ledger's longest texts, and the ladder where nothing is as large as a GPU.
        for claim in ("routing_bottleneck", "qwen25_max_sizes", "dense_baseline"):
            browser.type_text(page, f"{CLAIMS} .moeviz-state", f"claims?claim={claim}")
            browser.wait_state(page, CLAIMS, f"claim={claim}&")
            check_readable(page, CLAIMS, 60)
        browser.press_slider(page, f"{LADDER} .moeviz-context", "ArrowLeft", times=7)
        browser.wait_state(page, LADDER, "context=1024&")
        check_readable(page, LADDER, 30)
