"""The collapse panel in a real JupyterLab and Chromium, with ipywidgets 8 and 7: every switch by
mouse or keyboard, refusals, a killed expert, both themes."""

import re
from functools import partial

import pytest

import lab_browser as browser
from helpers.browser import check_contrast, check_tab_reaches_every_control

PANEL = ".moeviz-collapse"
NOTEBOOK = browser.notebook("from moeviz import panels", "panels.Collapse()")

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
wait_status = partial(browser.wait_status, timeout=90)


@pytest.fixture(params=["widgets8 Light", "widgets7 Light", "widgets8 Dark"])
def page(request, labs):
    """The panel on a fresh page."""
    level, theme = request.param.split()
    with labs.opened(NOTEBOOK, theme, level) as window:
        yield window


def switch(page, name, nth, *, keyboard=False):
    button = page.locator(f"{PANEL} .moeviz-{name} button").nth(nth)
    if keyboard:
        button.focus()
        page.keyboard.press("Space")
    else:
        button.click()


def pressed(page, name):
    """Which of a switch's buttons is pressed, as the page shows it."""
    buttons = page.locator(f"{PANEL} .moeviz-{name} button")
    return buttons.evaluate_all("all => all.findIndex(b => b.classList.contains('mod-active'))")


def test_every_switch_shows_a_recorded_run_and_what_excludes_each_other_is_refused(page):
    for name, nth, shown in (
        ("aux", 2, "aux=0.1&"), ("scope", 1, "scope=sequence"), ("aux", 0, "aux=0.0"),
        ("noise", 2, "noise=1.0"), ("noise", 0, "noise=0.0"), ("learning", 2, "rerandomised"),
        ("learning", 0, "learning=learned"), ("layer", 0, "layer=0"), ("layer", 1, "layer=1"),
        ("bias", 1, "bias=sign"),
    ):  # fmt: skip
        switch(page, name, nth, keyboard=nth % 2 == 0)
        browser.wait_state(page, PANEL, shown)
    for name in ("z", "shared"):
        page.locator(f"{PANEL} .moeviz-{name} input").focus()
        page.keyboard.press("Space")
        browser.wait_state(page, PANEL, f"{name}=True")
    switch(page, "router", 3)
    wait_status(page, PANEL, "The hash router balances in its own way")
    page.wait_for_function(
        "css => document.querySelectorAll(css)[0].classList.contains('mod-active')",
        arg=f"{PANEL} .moeviz-router button",
    )
    state = browser.state(page, PANEL)
    assert pressed(page, "router") == 0 and state["router"] == "token_choice"
    assert state["bias"] == "sign" and state["z"] == "True"
    check_contrast(page, PANEL, 30)


def test_tab_reaches_every_control(page):
    check_tab_reaches_every_control(page, PANEL)


def test_a_run_trains_loses_an_expert_and_goes_on(page):
    browser.click(page, ".moeviz-kill-busiest")
    wait_status(page, PANEL, "Nothing trains yet")
    browser.click(page, ".moeviz-play")
    live = page.locator(f"{PANEL} svg text", has_text=re.compile("^live"))
    live.wait_for(timeout=120_000)
    browser.press_slider(page, f"{PANEL} .moeviz-timeline", "ArrowLeft")
    browser.wait_state(page, PANEL, "timeline=99&")
    browser.press_slider(page, f"{PANEL} .moeviz-timeline", "End")
    browser.wait_state(page, PANEL, "timeline=100&step=[1-9]")
    browser.click(page, ".moeviz-kill-busiest")
    wait_status(page, PANEL, re.compile(r"Killed: expert \d+ \(layer 1, step \d+\)"))
    page.locator(f"{PANEL} svg text", has_text="✕ expert").wait_for()
    browser.click(page, ".moeviz-pause")
    wait_status(page, PANEL, "Paused.")
    stood = int(browser.state(page, PANEL)["step"])
    page.wait_for_timeout(700)
    assert int(browser.state(page, PANEL)["step"]) == stood
    browser.click(page, ".moeviz-step")
    wait_status(page, PANEL, "One step done.")
    assert int(browser.state(page, PANEL)["step"]) == stood + 1
    switch(page, "bias", 2)  # a new run, beside the one before
    browser.wait_state(page, PANEL, "bias=quantile")
    browser.click(page, ".moeviz-step")
    wait_status(page, PANEL, "One step done.")
    dashed = re.compile(rf"dashed: nothing, seed 0, expert \d+ killed: step {stood + 1} of 300")
    page.locator(f"{PANEL} svg text", has_text=dashed).wait_for()
