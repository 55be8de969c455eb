"""The collapse panel in a real JupyterLab and Chromium, with ipywidgets 8 and 7: every switch by
mouse or keyboard, refusals, a killed expert, both themes."""

import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

import lab_browser as browser

TESTS = Path(__file__).resolve().parent
WIDGETS7 = TESTS.parent / ".venv-widgets7" / "bin" / "python"
SHARED = runpy.run_path(str(TESTS / "test_browser.py"))
PANEL = ".moeviz-collapse"
NOTEBOOK = {"collapse.ipynb": browser.notebook("from moeviz import panels", "panels.Collapse()")}
# JupyterLab asks for its badge by an unresolved address, and ipywidgets 7 for MathJax 2.
KNOWN = ["page error: Cannot read properties of undefined (reading 'Queue')"]

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def window():
    with browser.open_browser() as page:
        page.on("dialog", lambda dialog: dialog.accept())
        yield page


@pytest.fixture(params=["widgets8", "widgets7", "widgets8 dark"])
def page(request, window, tmp_path):
    """The panel on a fresh page; afterwards nothing may have gone wrong."""
    kind, _, theme = request.param.partition(" ")
    python = sys.executable if kind == "widgets8" else str(WIDGETS7)
    if not Path(python).is_file():
        missing = "no second environment with ipywidgets 7: 'make test' makes it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    env = {"MOEVIZ_HOME": str(tmp_path), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    theme = theme.capitalize() or "Light"
    with browser.LabServer(NOTEBOOK, python=python, env=env, theme=theme) as lab:
        window.context.clear_cookies()
        window.faults.clear()
        browser.open_notebook(window, lab, "collapse.ipynb")
        assert browser.run_all(window) == []
        window.theme = theme
        yield window
        found = browser.problems(window, ignore=KNOWN if kind == "widgets7" else [])
        window.goto("about:blank")
        assert found == []
        shutil.rmtree(tmp_path, ignore_errors=True)


def state(page):
    text = page.locator(f"{PANEL} svg[data-state]").first.get_attribute("data-state")
    return dict(part.partition("=")[::2] for part in text.partition("?")[2].split("&"))


def wait_state(page, pattern, timeout=30):
    page.wait_for_function(
        "([css, wanted]) => RegExp(wanted).test("
        "document.querySelector(css + ' svg[data-state]')?.dataset.state ?? '')",
        arg=[PANEL, pattern],
        timeout=timeout * 1000,
    )


def wait_status(page, words, timeout=90):
    page.locator(f"{PANEL} .moeviz-status", has_text=words).wait_for(timeout=timeout * 1000)


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
        wait_state(page, shown)
    for name in ("z", "shared"):
        page.locator(f"{PANEL} .moeviz-{name} input").focus()
        page.keyboard.press("Space")
        wait_state(page, f"{name}=True")
    switch(page, "router", 3)
    wait_status(page, "The hash router balances in its own way")
    page.wait_for_function(
        "css => document.querySelectorAll(css)[0].classList.contains('mod-active')",
        arg=f"{PANEL} .moeviz-router button",
    )
    assert pressed(page, "router") == 0 and state(page)["router"] == "token_choice"
    assert state(page)["bias"] == "sign" and state(page)["z"] == "True"
    contrast = page.evaluate(SHARED["CONTRAST"], PANEL)
    assert len(contrast) > 30
    assert [f"{text}: {ratio:.2f}" for text, ratio in contrast if ratio < 4.5] == []
    dark = page.evaluate("() => document.body.dataset.jpThemeLight") == "false"
    assert dark == (page.theme == "Dark")


def test_tab_reaches_every_control(page):
    controls = page.locator(f"{PANEL} {SHARED['FOCUSABLE']}")
    wanted = controls.evaluate_all("all => all.map((e, i) => { e.dataset.tab = i; return i })")
    controls.first.focus()
    reached = set()
    for _ in range(3 * len(wanted)):
        at = page.evaluate("() => document.activeElement.dataset.tab ?? null")
        reached |= {int(at)} if at is not None else set()
        page.keyboard.press("Tab")
    assert reached == set(wanted)


def test_a_run_trains_loses_an_expert_and_goes_on(page):
    browser.click(page, ".moeviz-kill-busiest")
    wait_status(page, "Nothing trains yet")
    browser.click(page, ".moeviz-play")
    live = page.locator(f"{PANEL} svg text", has_text=re.compile("^live"))
    live.wait_for(timeout=120_000)
    browser.press_slider(page, f"{PANEL} .moeviz-timeline", "ArrowLeft")
    wait_state(page, "timeline=99&")
    browser.press_slider(page, f"{PANEL} .moeviz-timeline", "End")
    wait_state(page, "timeline=100&step=[1-9]", timeout=60)
    browser.click(page, ".moeviz-kill-busiest")
    wait_status(page, re.compile(r"Killed: expert \d+ \(layer 1, step \d+\)"))
    page.locator(f"{PANEL} svg text", has_text="✕ expert").wait_for()
    browser.click(page, ".moeviz-pause")
    wait_status(page, "Paused.")
    stood = int(state(page)["step"])
    page.wait_for_timeout(700)
    assert int(state(page)["step"]) == stood
    browser.click(page, ".moeviz-step")
    wait_status(page, "One step done.")
    assert int(state(page)["step"]) == stood + 1
    switch(page, "bias", 2)  # a new run, beside the one before
    wait_state(page, "bias=quantile")
    browser.click(page, ".moeviz-step")
    wait_status(page, "One step done.")
    dashed = re.compile(rf"dashed: nothing, seed 0, expert \d+ killed: step {stood + 1} of 300")
    page.locator(f"{PANEL} svg text", has_text=dashed).wait_for()
