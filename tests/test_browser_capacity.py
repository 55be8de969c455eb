"""The panel of 05_capacity in a real JupyterLab and Chromium: moved by mouse and keyboard, in both
themes; its picture must change, and nothing may go wrong in kernel, page or panel."""

import re
import shutil
import time
from pathlib import Path

import pytest

import lab_browser as browser

ROOT = Path(__file__).resolve().parents[1]
NAME = "05_capacity.ipynb"
PANEL = ".moeviz-seats"
ALONE = browser.notebook("from moeviz import panels", "panels.Seats()", "panels.Seats('text')")

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]
# JupyterLab resolves the badge's address while the page already loads it by the unresolved one.
KNOWN = ["/lab/tree/img/colab.svg"]


def wait_state(page, pattern, timeout=30):
    page.wait_for_function(
        "([css, wanted]) => RegExp(wanted).test("
        "document.querySelector(css + ' svg[data-state]')?.dataset.state ?? '')",
        arg=[PANEL, pattern],
        timeout=timeout * 1000,
    )


def contrast(page):
    """Every text of the picture with its contrast (WCAG 2) to what lies right under it."""
    return page.evaluate(
        """css => {
        const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1})
            .getContext('2d', {willReadFrequently: true});
        const rgb = c => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = c; pen.fillRect(0, 0, 1, 1);
            return [...pen.getImageData(0, 0, 1, 1).data] };
        const light = v => v.slice(0, 3).map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92
            : ((x + 0.055) / 1.055) ** 2.4)
            .reduce((s, x, i) => s + x * [0.2126, 0.7152, 0.0722][i], 0);
        const page = rgb(getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor);
        const svg = document.querySelector(css + ' svg[data-state]');
        const boxes = [...svg.querySelectorAll('rect')].filter(
            r => !(r.getAttribute('fill') ?? '').startsWith('url'));
        return [...svg.querySelectorAll('text')].map(t => {
            const b = t.getBBox(), x = b.x + b.width / 2, y = b.y + b.height / 2;
            const turned = t.hasAttribute('transform');
            const under = turned ? [] : boxes.filter(r => +r.getAttribute('x') <= x
                && x <= +r.getAttribute('x') + +r.getAttribute('width')
                && +r.getAttribute('y') <= y
                && y <= +r.getAttribute('y') + +r.getAttribute('height'));
            const ground = under.length ? rgb(getComputedStyle(under.at(-1)).fill) : page;
            const a = light(rgb(getComputedStyle(t).fill)), g = light(ground);
            return [t.textContent, (Math.max(a, g) + 0.05) / (Math.min(a, g) + 0.05),
                parseFloat(getComputedStyle(t).fontSize), b.x + b.width] }) }""",
        PANEL,
    )


def check_readable(page):
    found = contrast(page)
    assert len(found) > 30
    assert [f"{text}: {ratio:.2f}" for text, ratio, _, _ in found if ratio < 4.5] == []
    assert min(size for _, _, size, _ in found) >= 12
    assert [text for text, _, _, end in found if end > 902] == [], "runs out of the picture"
    box = page.locator(f"{PANEL} svg[data-state]").first.bounding_box()
    assert box["width"] > 850, "scaled down, texts would be smaller than 12 px"


def test_the_notebook(tmp_path):
    """The whole notebook, live, and its first panel by mouse and keyboard."""
    files = {NAME: ROOT / "notebooks" / NAME}
    with (
        browser.LabServer(files, env={"MOEVIZ_HOME": str(tmp_path)}) as lab,
        browser.open_browser(height=1300) as page,
    ):
        shutil.copytree(ROOT / "notebooks" / "img", lab.home / "root" / "img")
        browser.open_notebook(page, lab, NAME)
        assert browser.run_all(page, timeout=400) == []
        page.locator(f"{PANEL} svg[data-state]").first.wait_for()
        assert page.locator(f"{PANEL} svg[data-state]").count() == 2
        assert page.locator(".moeviz-predict").count() == 2

        browser.press_slider(page, f"{PANEL} .moeviz-factor", "ArrowRight")
        wait_state(page, r"factor=1.3&")
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
            wait_state(page, state)
        browser.drag_slider(page, f"{PANEL} .moeviz-skew", 0.0)
        wait_state(page, "skew=0.0&")
        browser.press_slider(page, f"{PANEL} .moeviz-tokens", "ArrowRight")
        wait_state(page, "tokens=48&")
        page.locator(f"{PANEL} .moeviz-seed input").first.focus()
        page.keyboard.press("ArrowUp")
        wait_state(page, "seed=8$")
        page.locator(f"{PANEL} .moeviz-source button", has_text="your text").first.click()
        wait_state(page, "source=text&")
        kept = page.locator(f"{PANEL} .moeviz-state input").first.input_value()
        evil = "<script>alert(1)</script> <b>&amp;"
        page.locator(f"{PANEL} .moeviz-text textarea").first.focus()
        page.keyboard.press("Control+A")
        page.keyboard.type(evil)
        wait_state(page, "text=%3Cscript%3Ealert%281%29%3C%2Fscript%3E\\+%3Cb%3E%26amp%3B&")
        assert page.locator(f"{PANEL} svg :is(script, b)").count() == 0
        browser.type_text(page, f"{PANEL} .moeviz-state", kept)
        wait_state(page, "^" + re.escape(kept) + "$")
        assert browser.problems(page, ignore=KNOWN) == []
        page.goto("about:blank")


FOCUSABLE = ":is(input, textarea, button, .noUi-handle):not(:disabled, [disabled] *)"


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_reads_well_and_by_keyboard_alone(theme, tmp_path):
    files, env = {"a.ipynb": ALONE}, {"MOEVIZ_HOME": str(tmp_path)}
    with (
        browser.LabServer(files, env=env, theme=theme) as lab,
        browser.open_browser(height=1300) as page,
    ):
        browser.open_notebook(page, lab, "a.ipynb")
        assert browser.run_all(page) == []
        page.locator(f"{PANEL} svg[data-state]").nth(1).wait_for()
        check_readable(page)
        for n in (0, 1):
            page.locator(PANEL).nth(n).screenshot(path=str(tmp_path / f"{theme}-{n}.png"))
        controls = page.locator(PANEL).first.locator(FOCUSABLE)
        wanted = controls.evaluate_all("all => all.map((e, i) => { e.dataset.tab = i; return i })")
        controls.first.focus()
        reached = set()
        for _ in range(2 * len(wanted)):
            at = page.evaluate("() => document.activeElement.dataset.tab ?? null")
            reached |= {int(at)} if at is not None else set()
            page.keyboard.press("Tab")
        assert reached == set(wanted)

        browser.press_slider(page, f"{PANEL} .moeviz-factor", "ArrowLeft", times=6)
        wait_state(page, "factor=0.95&", timeout=60)
        took = []
        for i in range(20):
            key = "ArrowRight" if i < 10 else "ArrowLeft"
            before = browser.picture(page, PANEL)
            begun = time.monotonic()
            browser.press_slider(page, f"{PANEL} .moeviz-factor", key)
            browser.wait_for_change(page, before, PANEL)
            took.append(time.monotonic() - begun)
        print(f"{theme}: from a key to the new picture, ms: {sorted(round(1e3 * t) for t in took)}")
        assert sorted(took)[10] < 5  # the target is 100 ms; test machines are shared
        page.locator(PANEL).first.locator(".moeviz-top-k button").nth(1).click()
        wait_state(page, "top_k=2&")
        page.locator(PANEL).first.locator(".moeviz-pool button").nth(1).click()
        wait_state(page, "pool=sequence&")
        check_readable(page)
        page.locator(PANEL).first.screenshot(path=str(tmp_path / f"{theme}-2.png"))
        assert browser.problems(page) == []
        page.goto("about:blank")
