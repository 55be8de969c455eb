"""What a panel gives to those who have little room, do not see it, have no kernel or take it along:
in a real JupyterLab and Chromium, by axe-core too."""

import importlib.resources

import pytest

import lab_browser as browser
from helpers.browser import start, wait_count
from moeviz import panels
from moeviz.app.lab import SETTINGS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
IMPORT = "from moeviz import panels"
SLOTS, LAYER = ".moeviz-slots", ".moeviz-inside_layer"
QUESTION = 'panels.Predict("02.sum")', 'panels.Outcome("02.sum")'
ALL = browser.notebook(
    IMPORT, *(f"panels.{name}()" for name in panels.__all__ if name not in ("Outcome", "Predict")),
    *QUESTION,
)  # fmt: skip
OURS = ".moeviz-panel, .moeviz-predict, .moeviz-outcome"
# Width and zoom: of a laptop, of a projector at 200 % or half a screen, at 150 %, and at 100 %,
# each beside the file browser. A page at 200 % has half the pixels, each of them twice as large.
SIZES = ((1000, 1), (700, 2), (933, 1.5), (1400, 1))
# Of each panel what is wrong, in words.
AUDIT = """() => [...document.querySelectorAll('.moeviz-panel')].flatMap(panel => {
    const name = [...panel.classList].find(c => /^moeviz-(?!panel)/.test(c));
    const shown = e => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
    const box = e => e.getBoundingClientRect(), frame = box(panel), wrong = [];
    const says = e => (e.textContent.trim() || e.className.baseVal || e.className).slice(0, 40);
    for (const picture of panel.querySelectorAll('.mv')) {
        const room = picture.clientWidth, { scrollWidth } = picture;
        if (box(picture).right > frame.right + 1) wrong.push('the picture is wider than the panel');
        if (room >= 420 && scrollWidth > room) wrong.push(`${scrollWidth} px in ${room}: scrolls`);
        // As large as its place allows, up to its own size; of 12 pixels of text 9 are kept.
        for (const part of picture.querySelectorAll('svg')) {
            const { width } = part.viewBox.baseVal, scale = box(part).width / width;
            if (Math.abs(scale - Math.min(Math.max(room / width, 9 / 12), 1)) > 0.005)
                wrong.push(`a part of ${width} px, in ${room}, is scaled by ${scale}`);
            if (Math.abs(box(part).height / part.viewBox.baseVal.height - scale) > 0.005)
                wrong.push('a part is distorted'); } }
    for (const text of panel.querySelectorAll('text, label, button, input, [role=status], td, th'))
        if (shown(text) && parseFloat(getComputedStyle(text).fontSize) < 12)
            wrong.push(`${says(text)}: small`);
    for (const e of panel.querySelectorAll('.moeviz-status:has([data-unseen])'))
        if (box(e).height > 80) wrong.push('a sentence that the picture says is high');
    // Controls, as far as one is not part of another: none beyond the panel, none over another.
    const whole = '.widget-text, .widget-hslider, .widget-toggle-buttons, .widget-checkbox, '
        + '.widget-button, .widget-toggle-button, .moeviz-status, .moeviz-picture';
    const controls = [...panel.querySelectorAll(whole)].filter(
        e => shown(e) && !e.parentElement.closest(whole));
    for (const e of controls)
        if (box(e).right > frame.right + 1 || box(e).left < frame.left - 1)
            wrong.push(`${says(e)}: beyond the panel`);
    for (const e of panel.querySelectorAll('button, .widget-label, .widget-readout'))
        if (shown(e) && e.scrollWidth > e.clientWidth + 1
            && getComputedStyle(e).overflow !== 'visible' || box(e).right > frame.right + 1)
            wrong.push(`${says(e)}: cut off`);
    controls.forEach((e, i) => controls.slice(i + 1).forEach(other => {
        const a = box(e), b = box(other);
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
            wrong.push(`${says(e)} lies over ${says(other)}`); }));
    return wrong.map(words => `${name}: ${words}`) })"""
# JupyterLab fits itself into its window some time after that has changed.
AS_WIDE = """([width, zoom]) => innerWidth === width && devicePixelRatio === zoom
    && document.querySelector('.jp-LabShell').getBoundingClientRect().width === width"""
VIOLATIONS = """async ([css, rules]) => (await axe.run(
    document.querySelectorAll(css), rules.length ? {runOnly: rules} : {}
)).violations.flatMap(
    fault => fault.nodes.map(node => `${fault.id}: ${node.html.slice(0, 200)}`))"""


@pytest.mark.parametrize(("theme", "sizes", "rules"), [
    ("Light", SIZES, []), ("Dark", [], ["color-contrast"]),  # what else there is has no colour
], ids=["Light", "Dark"])  # fmt: skip
def test_every_panel_reads_at_every_width_and_axe_finds_no_fault(labs, theme, sizes, rules):
    """No text is small, nothing is cut off, nothing lies over something else; by axe too with all
    that a button hides in sight."""
    source = importlib.resources.files("axe_playwright_python") / "axe.min.js"
    with labs.opened(ALL, theme) as page:
        wait_count(page.locator(".moeviz-panel .mv"), len(panels.__all__) - 2)
        wrong, devtools = [], page.context.new_cdp_session(page)
        for width, zoom in sizes:
            size = dict(width=width, height=1300 // zoom, deviceScaleFactor=zoom, mobile=False)
            devtools.send("Emulation.setDeviceMetricsOverride", size)
            page.wait_for_function(AS_WIDE, arg=[width, zoom])
            page.wait_for_timeout(500)
            wrong += [f"{width} px, {words}" for words in page.evaluate(AUDIT)]
        devtools.detach()
        assert wrong == []

        shows = page.locator("button:is(.moeviz-more, .moeviz-take-away)")
        for button in shows.all():
            button.click()
        opened = "all => all.map(e => [e.ariaExpanded, e.ariaPressed])"
        assert {*map(tuple, shows.evaluate_all(opened))} == {("true", None)}
        for box in page.locator(".moeviz-show-table input").all():
            box.check()
        page.locator(".moeviz-files a").nth(len(panels.__all__) - 3).wait_for()
        page.evaluate(source.read_text(encoding="utf-8"))
        assert page.evaluate(VIOLATIONS, [OURS, rules]) == []


def check_what_is_pressed_is_seen_and_so_is_the_focus(page):
    """A line in the button's own ink, which reads on it, and a ring in the page's."""
    shown = "e => [getComputedStyle(e).color, getComputedStyle(e).boxShadow]"
    ink, line = page.locator(f"{SLOTS} .moeviz-top-k button.mod-active").evaluate(shown)
    assert line == f"{ink} 0px -3px 0px 0px inset"
    other = page.locator(f"{SLOTS} .moeviz-top-k button:not(.mod-active)").first
    assert ink not in other.evaluate(shown)[1]
    browser.press(page.locator(f"{SLOTS} button.moeviz-play"), "Shift+Tab")
    ring = page.evaluate("() => getComputedStyle(document.activeElement).outline")
    assert ring.endswith("solid 2px")


@pytest.mark.parametrize(("level", "theme"), [("widgets8", "Dark"), ("widgets7", "Light")])
def test_a_screen_reader_hears_names_values_what_is_pressed_and_each_new_sentence(
    labs, level, theme
):
    cells = IMPORT, "panels.Slots()", *QUESTION
    with labs.opened(browser.notebook(*cells), theme, level) as page:
        check_what_is_pressed_is_seen_and_so_is_the_focus(page)
        factor = browser.slider_handle(page, f"{SLOTS} .moeviz-factor")
        page.locator(f"{SLOTS} .moeviz-factor [aria-label=Factor]").wait_for()
        assert factor.get_attribute("aria-valuetext") == "1.25"
        region = page.locator(f"{SLOTS} .moeviz-status [role=status]")
        before = region.inner_text()
        region.evaluate("region => { region.kept = true }")
        browser.press_slider(page, f"{SLOTS} .moeviz-factor", times=5)
        page.locator(f"{SLOTS} .moeviz-factor [aria-valuetext='1.5']").wait_for()
        page.locator(f"{SLOTS} .moeviz-status", has_not_text=before).wait_for()
        assert region.evaluate("region => region.kept && region.ariaLive") == "polite"

        choices = page.get_by_role("group", name="K", exact=True)
        choices.get_by_role("button", name="2", pressed=False).click()
        choices.get_by_role("button", name="2", pressed=True).wait_for()
        choices.get_by_role("button", name="1", pressed=False).wait_for()
        assert page.locator(f"{SLOTS} [title=null]").count() == 0

        answers = page.locator(":is(.moeviz-predict, .moeviz-outcome) [role=status]")
        wait_count(answers, 2)
        answers.evaluate_all("all => all.forEach(region => { region.kept = true })")
        page.get_by_role("button", name="less than 1", pressed=False).click()
        page.get_by_role("button", name="less than 1", pressed=True).wait_for()
        page.locator("button.moeviz-lock").click()
        for answer in answers.all():
            answer.filter(has_text="You said").wait_for()
        assert answers.evaluate_all("all => all.map(region => region.kept)") == [True, True]


def test_a_picture_and_its_state_are_taken_away(labs):
    with labs.opened(browser.notebook(IMPORT, "panels.InsideLayer()")) as page:
        browser.click(page, ".moeviz-next")
        browser.wait_state(page, LAYER, "stage=softmax&")
        assert page.locator(f"{LAYER} .moeviz-files a").count() == 0
        page.locator(f"{LAYER} button.moeviz-take-away").click()
        browser.click(page, ".moeviz-next")
        browser.wait_state(page, LAYER, "stage=top-k&")
        for name, start_of_file, holds in (
            ("SVG", b"<svg", b"</svg>"), ("PNG", b"\x89PNG", b"IEND"),
        ):  # fmt: skip
            with page.expect_download() as download:
                page.get_by_text(f"Download {name}", exact=True).click()
            assert download.value.suggested_filename == f"inside_layer.{name.lower()}"
            with open(download.value.path(), "rb") as file:
                content = file.read()
            assert content.startswith(start_of_file) and holds in content
        assert "stage=top-k&" in browser.state_string(page, LAYER)
        page.get_by_role("button", name="Copy state").click()
        browser.press(page.locator(f"{LAYER} .moeviz-text input"), "Control+A")
        page.keyboard.press("Control+V")
        pasted = page.locator(f"{LAYER} .moeviz-text input").input_value()
        assert pasted.startswith("inside_layer?text=") and "stage=top-k&" in pasted
        browser.click(page, ".moeviz-opening")
        browser.wait_state(page, LAYER, "stage=logits&")
        page.get_by_role("button", name="Rows in the order of experts").click()
        browser.wait_state(page, LAYER, "stage=dispatch&")


def test_a_notebook_that_is_opened_again_shows_its_picture_and_how_to_wake_it(labs):
    with labs.page() as page:
        package, _, name = (plugin := "@jupyter-widgets/jupyterlab-manager:plugin").partition(":")
        page.lab.set(name, SETTINGS[plugin], package)
        start(page, browser.notebook(IMPORT, "panels.InsideLayer()"))
        browser.click(page, ".moeviz-next")
        browser.wait_state(page, LAYER, "stage=softmax&")
        told = "css => getComputedStyle(document.querySelector(css), '::after').content"
        assert page.evaluate(told, LAYER) == "none"
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        browser.leave(page)
        page.lab.end_kernels()
        browser.open_notebook(page, page.lab, "a.ipynb")
        browser.wait_state(page, LAYER, "stage=softmax&")
        assert "Shift+Enter" in page.evaluate(told, LAYER)
        assert browser.run_all(page) == []
        browser.wait_state(page, LAYER, "stage=logits&")
        assert page.evaluate(told, LAYER) == "none"
