"""The panels of 09_frontier_models in a real JupyterLab and Chromium: moved by mouse and keyboard,
in both themes; pictures must change and read well, and nothing may go wrong."""

import re
import shutil
from pathlib import Path

import pytest

import lab_browser as browser

ROOT = Path(__file__).resolve().parents[1]
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

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]
# JupyterLab resolves the badge's address while the page already loads it by the unresolved one.
KNOWN = ["/lab/tree/img/colab.svg"]


def wait_state(page, css, pattern, timeout=30):
    page.wait_for_function(
        "([css, wanted]) => RegExp(wanted).test("
        "document.querySelector(css + ' svg[data-state]')?.dataset.state ?? '')",
        arg=[css, pattern],
        timeout=timeout * 1000,
    )


def texts(page, css):
    """Every text of a picture: its words, its contrast (WCAG 2) to the filled box right under it or
    to the page, its size and where it lies."""
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
        const solid = e => { const f = getComputedStyle(e).fill;
            return f !== 'none' && !f.startsWith('url') && rgb(f)[3] === 255 };
        const boxes = [...svg.querySelectorAll('rect, circle, polygon')].filter(solid);
        const holds = (r, x, y) => { const b = r.getBBox();
            return b.x <= x && x <= b.x + b.width && b.y <= y && y <= b.y + b.height };
        return [...svg.querySelectorAll('text')].map(t => {
            const b = t.getBBox(), x = b.x + b.width / 2, y = b.y + b.height / 2;
            const turned = t.hasAttribute('transform');
            const under = turned ? [] : boxes.filter(r => holds(r, x, y));
            const ground = under.length ? rgb(getComputedStyle(under.at(-1)).fill) : page;
            const a = light(rgb(getComputedStyle(t).fill)), g = light(ground);
            return {text: t.textContent, ratio: (Math.max(a, g) + 0.05) / (Math.min(a, g) + 0.05),
                size: parseFloat(getComputedStyle(t).fontSize), turned,
                box: [b.x, b.y + 2, b.x + b.width, b.y + b.height - 2]} }) }""",
        css,
    )


def check_readable(page, css, least):
    found = texts(page, css)
    assert len(found) > least
    assert [f"{t['text']}: {t['ratio']:.2f}" for t in found if t["ratio"] < 4.5] == []
    assert min(t["size"] for t in found) >= 12
    flat = [t for t in found if not t["turned"]]
    outside = [t["text"] for t in flat if t["box"][2] > 902 or t["box"][0] < -1]
    assert not outside, "runs out of the picture"
    for i, t in enumerate(flat):
        for other in flat[i + 1 :]:
            a, b = t["box"], other["box"]
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{t['text']!r} runs into {other['text']!r}"
    box = page.locator(f"{css} svg[data-state]").first.bounding_box()
    assert box["width"] > 850, "scaled down, texts would be smaller than 12 px"


def test_the_notebook(tmp_path):
    """The whole notebook, live, and its panels by mouse and keyboard."""
    files = {NAME: ROOT / "notebooks" / NAME}
    with (
        browser.LabServer(files, env={"MOEVIZ_HOME": str(tmp_path)}) as lab,
        browser.open_browser(height=1300) as page,
    ):
        shutil.copytree(ROOT / "notebooks" / "img", lab.home / "root" / "img")
        browser.open_notebook(page, lab, NAME)
        assert browser.run_all(page, timeout=200) == []
        for css in (ANATOMY, MAP, CLAIMS, LADDER, COST):
            page.locator(f"{css} svg[data-state]").first.wait_for()
        assert page.locator(".moeviz-predict").count() == 3

        before = page.locator(f"{LADDER} .moeviz-picture").first.screenshot()
        browser.press_slider(page, f"{LADDER} .moeviz-context", "ArrowRight", times=2)
        wait_state(page, LADDER, r"context=524288&")
        assert page.locator(f"{LADDER} .moeviz-picture").first.screenshot() != before
        page.locator(f"{LADDER} .moeviz-bits button", has_text="8 bits").first.click()
        wait_state(page, LADDER, r"bits=8$")

        page.locator(f"{ANATOMY} .moeviz-model button", has_text="GPT-3").first.click()
        wait_state(page, ANATOMY, r"model=GPT-3")
        page.locator(f"{ANATOMY} .moeviz-config textarea").first.focus()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text('{"model_type": "<script>alert(1)</script>"}')
        page.locator(f"{ANATOMY} .moeviz-status", has_text="is not known; known are").wait_for()
        assert page.locator(f"{ANATOMY} :is(svg, .moeviz-status) script").count() == 0

        browser.press_slider(page, f"{MAP} .moeviz-model", "ArrowRight")
        wait_state(page, MAP, r"model=(?!DeepSeek-V3\+%2F)")
        browser.press_slider(page, f"{MAP} .moeviz-until", "ArrowLeft", times=3)
        wait_state(page, MAP, r"until=2023&")

        browser.press_slider(page, f"{CLAIMS} .moeviz-first", "ArrowLeft", times=4)
        page.locator(f"{CLAIMS} .moeviz-status", has_text=": off; ").wait_for()
        kept = page.locator(f"{CLAIMS} .moeviz-state input").first.input_value()
        browser.press_slider(page, f"{CLAIMS} .moeviz-claim", "ArrowRight")
        wait_state(page, CLAIMS, "claim=v3_cost&")
        browser.type_text(page, f"{CLAIMS} .moeviz-state", kept)
        wait_state(page, CLAIMS, "^" + re.escape(kept) + "$")
        page.locator(f"{CLAIMS} button.moeviz-reset").first.click()
        page.locator(f"{CLAIMS} .moeviz-status", has_text=": holds; ").wait_for()

        browser.press_slider(page, f"{COST} .moeviz-price", "ArrowRight")
        wait_state(page, COST, r"price=2.1&")
        page.locator(f"{COST} .moeviz-device button", has_text="B200").first.click()
        wait_state(page, COST, r"device=B200")
        assert browser.problems(page, ignore=KNOWN) == []
        page.goto("about:blank")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_reads_well(theme, tmp_path):
    files, env = {"a.ipynb": ALONE}, {"MOEVIZ_HOME": str(tmp_path)}
    with (
        browser.LabServer(files, env=env, theme=theme) as lab,
        browser.open_browser(height=1300) as page,
    ):
        browser.open_notebook(page, lab, "a.ipynb")
        assert browser.run_all(page) == []
        for kind, least in KINDS.items():
            css = f".moeviz-{kind}"
            page.locator(f"{css} svg[data-state]").first.wait_for()
            check_readable(page, css, least)
            page.locator(css).first.screenshot(path=str(tmp_path / f"{theme}-{kind}.png"))
        # The ledger's longest texts, and the ladder where nothing is as large as a GPU.
        for claim in ("routing_bottleneck", "qwen25_max_sizes", "dense_baseline"):
            browser.type_text(page, f"{CLAIMS} .moeviz-state", f"claims?claim={claim}")
            wait_state(page, CLAIMS, f"claim={claim}&")
            check_readable(page, CLAIMS, 60)
        browser.press_slider(page, f"{LADDER} .moeviz-context", "ArrowLeft", times=7)
        wait_state(page, LADDER, "context=1024&")
        check_readable(page, LADDER, 30)
        assert browser.problems(page) == []
        page.goto("about:blank")
