"""What the browser tests share: a notebook in a lab of its own, and audits of what a page shows."""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

import lab_browser as browser

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
WIDGETS7 = ROOT / ".venv-widgets7" / "bin" / "python"
# JupyterLab resolves the badge's address while the page already loads it by the unresolved one.
BADGE = "/lab/tree/img/colab.svg"
# ipywidgets 7 asks for MathJax 2, JupyterLab 4 brings 3; our labels hold no formula.
MATHJAX = "page error: Cannot read properties of undefined (reading 'Queue')"


def python_with(level):
    """The Python whose lab has "widgets8" or "widgets7"; without it CI fails, others skip."""
    python = WIDGETS7 if level == "widgets7" else Path(sys.executable)
    if not python.is_file():
        missing = "no second environment with ipywidgets 7: 'make test' makes it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(python)


class Labs(contextlib.ExitStack):
    """One window and, of each level that is asked for, one lab with all shipped notebooks; they
    last as long as the tests do, and every test gets them as if they were new."""

    def __init__(self, home):
        super().__init__()
        self.home, self.labs = home, {}
        self.window = self.enter_context(browser.open_browser())
        self.window.dialogs = []
        self.window.on("dialog", self._accept)

    def _accept(self, dialog):
        self.window.dialogs.append(f"{dialog.type}: {dialog.message}")
        dialog.accept()

    def lab(self, level):
        if level not in self.labs:
            home = self.home / level
            # A restarted kernel's debugger warns of Python's frozen modules unless told not to.
            env = {"MOEVIZ_HOME": str(home), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
            server = browser.LabServer(
                sorted(NOTEBOOKS.glob("*.ipynb")), python=python_with(level), env=env
            )
            lab = self.enter_context(server)
            # The badge is a file beside the notebooks; without it the page logs a 404.
            shutil.copytree(NOTEBOOKS / "img", lab.root / "img")
            lab.moeviz_home, self.labs[level] = home, lab
        return self.labs[level]

    @contextlib.contextmanager
    def page(self, theme="Light", level="widgets8", height=1000, known=()):
        """The window, with its .lab, where nothing has happened yet; afterwards nothing may have
        gone wrong but what holds a `known` text, and no kernel is left."""
        lab, window = self.lab(level), self.window
        window.lab = lab
        shutil.rmtree(lab.moeviz_home, ignore_errors=True)
        lab.set("themes", {"theme": f"JupyterLab {theme}"})
        window.set_viewport_size({"width": 1400, "height": height})
        window.context.clear_cookies()  # another server's: cookies do not tell ports apart
        window.faults.clear()
        window.dialogs.clear()
        try:
            yield window
            dark = window.evaluate("() => document.body.dataset.jpThemeLight") == "false"
            assert dark == (theme == "Dark")
            usual = [BADGE, MATHJAX] if level == "widgets7" else [BADGE]
            found = browser.problems(window, ignore=[*usual, *known])
            found += [dialog for dialog in window.dialogs if "beforeunload" not in dialog]
            assert found == []
        finally:
            window.goto("about:blank")  # a page would ask for the kernels that end now
            lab.end_kernels()

    @contextlib.contextmanager
    def opened(self, notebook, theme="Light", level="widgets8"):
        """A page with a notebook, by its file name or as a dict, that has run from start to end."""
        with self.page(theme, level, height=1300) as window:
            start(window, notebook)
            yield window


def put_and_open(page, notebook):
    """Open a notebook, by its file name or as a dict, in the page's lab."""
    name = notebook if isinstance(notebook, str) else "a.ipynb"
    if name != notebook:
        page.lab.put(name, notebook)
    browser.open_notebook(page, page.lab, name)


def start(page, notebook):
    """Open a notebook, as `put_and_open` does, and run it from start to end."""
    put_and_open(page, notebook)
    assert browser.run_all(page) == []


def wait_count(found, count):
    """Until the locator finds so many."""
    end = time.monotonic() + browser.PATIENCE
    while found.count() != count:
        assert time.monotonic() < end, f"{found.count()} found, not {count}"
        found.page.wait_for_timeout(50)


# Texts.

# How an audit begins: colours as the page resolves them, and their contrast (WCAG 2).
_COLOURS = """async css => {
    const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1})
        .getContext('2d', {willReadFrequently: true});
    // 'none' is no colour and leaves what stood there.
    const rgba = c => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = 'transparent';
        pen.fillStyle = c; pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data] };
    const light = v => v.slice(0, 3).map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92
        : ((x + 0.055) / 1.055) ** 2.4).reduce((s, x, i) => s + x * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (one, other) => { const a = light(one), b = light(other);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };"""
# By what lies below a text on the screen, however it is turned; slow, for each is scrolled to.
_ON_SCREEN = (
    _COLOURS
    + """
    const over = (top, under) => [0, 1, 2].map(i =>
        top[i] * top[3] / 255 + under[i] * (1 - top[3] / 255));
    // Of a heat image the pixel: an image has no fill.
    const pixel = async (image, x, y) => {
        const data = Object.assign(new Image(), {src: image.getAttribute('href')});
        await data.decode();
        const box = image.getBoundingClientRect(), pen = Object.assign(
            document.createElement('canvas'), {width: data.width, height: data.height})
            .getContext('2d', {willReadFrequently: true});
        pen.drawImage(data, 0, 0);
        return [...pen.getImageData((x - box.x) / box.width * data.width,
            (y - box.y) / box.height * data.height, 1, 1).data] };
    const found = [];
    for (const text of document.querySelectorAll(`${css} svg text`)) {
        text.scrollIntoView({block: 'center'});
        const box = text.getBoundingClientRect(), x = box.x + box.width / 2,
            y = box.y + box.height / 2;
        const below = document.elementsFromPoint(x, y)
            .filter(e => e !== text && e.tagName !== 'line' && e.tagName !== 'polyline');
        let ground = [255, 255, 255];
        for (const e of below) {
            const style = getComputedStyle(e);
            const paint = e instanceof SVGImageElement ? await pixel(e, x, y)
                : rgba(e instanceof SVGRectElement ? style.fill : style.backgroundColor);
            if (paint[3] === 255) { ground = paint.slice(0, 3); break } }
        found.push([text.textContent,
            contrast(over(rgba(getComputedStyle(text).fill), ground), ground)]) }
    return found }"""
)
# By the picture's own geometry: to the filled box right under a text, or to the page.
_IN_PICTURE = (
    _COLOURS
    + """
    const page = rgba(getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor);
    const picture = document.querySelector(css + ' .mv[data-state]');
    const solid = e => { const s = getComputedStyle(e); return s.fill !== 'none'
        && !s.fill.startsWith('url') && +s.opacity === 1 && rgba(s.fill)[3] === 255 };
    const holds = (r, x, y) => { const b = r.getBBox();
        return b.x <= x && x <= b.x + b.width && b.y <= y && y <= b.y + b.height };
    return [...picture.querySelectorAll('svg')].map(part => {
        const boxes = [...part.querySelectorAll('rect, circle, polygon')].filter(solid);
        const texts = [...part.querySelectorAll('text')].map(t => {
            const b = t.getBBox(), middle = [b.x + b.width / 2, b.y + b.height / 2];
            const turned = t.hasAttribute('transform');
            const by = turned && t.transform.baseVal.consolidate().matrix;
            const at = new DOMPoint(...middle).matrixTransform(by || undefined);
            const under = boxes.filter(r => holds(r, at.x, at.y));
            const ground = under.length ? rgba(getComputedStyle(under.at(-1)).fill) : page;
            return {text: t.textContent, ratio: contrast(rgba(getComputedStyle(t).fill), ground),
                size: parseFloat(getComputedStyle(t).fontSize), turned,
                box: [b.x, b.y + 2, b.x + b.width, b.y + b.height - 2]} });
        return {texts, width: part.viewBox.baseVal.width, shown: part.getBoundingClientRect().width}
    }) }"""
)


def check_contrast(page, css, least):
    """More than `least` texts in all pictures of `css`, each of them easy to see."""
    page.locator(f"{css} .mv[data-state]").first.wait_for()
    found = page.evaluate(_ON_SCREEN, css)
    assert len(found) > least
    assert [f"{text}: {ratio:.2f}" for text, ratio in found if ratio < 4.5] == []


def check_readable(page, css, least):
    """More than `least` texts in the first picture of `css`: easy to see, large, none cut off by
    the edge of its part and none over another."""
    page.locator(f"{css} .mv[data-state]").first.wait_for()
    parts = page.evaluate(_IN_PICTURE, css)
    assert sum(len(part["texts"]) for part in parts) > least
    for part in parts:
        found = part["texts"]
        assert [f"{t['text']}: {t['ratio']:.2f}" for t in found if t["ratio"] < 4.5] == []
        assert min([t["size"] for t in found], default=12) >= 12
        assert abs(part["shown"] - part["width"]) < 1, "scaled down, texts would be smaller"
        flat = [t for t in found if not t["turned"]]
        outside = [t for t in flat if t["box"][2] > part["width"] + 2 or t["box"][0] < -1]
        assert not outside, "runs out of the picture"
        for i, t in enumerate(flat):
            for other in flat[i + 1 :]:
                a, b = t["box"], other["box"]
                apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                assert apart, f"{t['text']!r} runs into {other['text']!r}"


# Keys.

# The handle of a slider that is off has no property `disabled` of its own.
FOCUSABLE = (
    ":is(input, textarea, select, button, .noUi-handle, .ui-slider-handle)"
    ":not(:disabled, [disabled] *)"
)


# JupyterLab puts the parts of a box in one by one, each in the place of an empty element.
WHOLE = """css => { const panel = document.querySelector(css);
    return panel && !panel.querySelector('.widget-box > :not([class*=widget-])') }"""


def check_tab_reaches_every_control(page, css):
    """From the first control of the first panel `css` on, by the Tab key alone."""
    page.wait_for_function(WHOLE, arg=css)
    controls = page.locator(css).first.locator(FOCUSABLE).filter(visible=True)
    wanted = controls.evaluate_all("all => all.map((e, i) => { e.dataset.tab = i; return i })")
    assert wanted
    controls.first.focus()
    reached = set()
    for _ in range(3 * len(wanted)):
        at = page.evaluate("() => document.activeElement.dataset.tab ?? null")
        reached |= {int(at)} if at is not None else set()
        page.keyboard.press("Tab")
    assert reached == set(wanted), f"{css}: of {len(wanted)} controls"
    page.evaluate(
        "() => document.querySelectorAll('[data-tab]').forEach(e => e.removeAttribute('data-tab'))"
    )


def seconds_to_move(page, panel, slider, key="ArrowRight"):
    """From a key pressed on a slider of a panel to the panel's new picture."""
    before = browser.picture(page, panel)
    begun = time.monotonic()
    browser.press_slider(page, f"{panel} {slider}", key)
    browser.wait_for_change(page, before, panel)
    return time.monotonic() - begun


def check_quick(seconds):
    """A generous bound on the middle one: the target is 100 ms; test machines are shared."""
    seconds = sorted(seconds)
    print(f"from a key to the new picture, ms: {[round(1e3 * s) for s in seconds]}")
    assert seconds[len(seconds) // 2] < 5
