"""The panels of 08_hardware in a real JupyterLab and Chromium, in both themes: moved by mouse and
keyboard, pictures must change and be readable; nothing may go wrong in kernel, page or panel."""

import time

import pytest

import lab_browser as browser

PANELS = {
    ".moeviz-memory_fit": (".moeviz-batch", ".moeviz-plan"),
    ".moeviz-decode_batch": (".moeviz-batch", ".moeviz-plan"),
    ".moeviz-exchange": (".moeviz-skew", ".moeviz-copies"),
    ".moeviz-offloading": (".moeviz-hit", ".moeviz-link"),
}
ALONE = browser.notebook(
    "from moeviz import panels",
    "panels.MemoryFit()",
    "panels.DecodeBatch()",
    "panels.Exchange()",
    "panels.Offloading()",
)
# Every text of a picture: its words, its contrast (WCAG 2) to the page, its size and its box.
TEXTS = """css => {
    const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1})
        .getContext('2d', {willReadFrequently: true});
    const rgb = c => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = c; pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data] };
    const light = v => v.slice(0, 3).map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92
        : ((x + 0.055) / 1.055) ** 2.4).reduce((s, x, i) => s + x * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = light(rgb(getComputedStyle(
        document.querySelector('.jp-Notebook')).backgroundColor));
    return [...document.querySelectorAll(css + ' svg[data-state] text')]
        .filter(t => !t.hasAttribute('transform')).map(t => {
        const b = t.getBBox(), a = light(rgb(getComputedStyle(t).fill));
        return {text: t.textContent, size: parseFloat(getComputedStyle(t).fontSize),
            ratio: (Math.max(a, ground) + 0.05) / (Math.min(a, ground) + 0.05),
            box: [b.x, b.y + 2, b.x + b.width, b.y + b.height - 2]} }) }"""

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


def check_readable(page, css):
    found = page.evaluate(TEXTS, css)
    assert len(found) > 15 and min(t["size"] for t in found) >= 12
    assert not [f"{t['text']}: {t['ratio']:.2f}" for t in found if t["ratio"] < 4.5]
    assert not [t["text"] for t in found if t["box"][0] < -1 or t["box"][2] > 902]
    for i, t in enumerate(found):
        for other in found[i + 1 :]:
            a, b = t["box"], other["box"]
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{t['text']!r} runs into {other['text']!r}"
    box = page.locator(f"{css} svg[data-state]").first.bounding_box()
    assert box["width"] > 850, "scaled down, texts would be smaller than 12 px"


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_sliders_and_buttons_move_the_pictures(theme, tmp_path):
    files, env = {"a.ipynb": ALONE}, {"MOEVIZ_HOME": str(tmp_path)}
    with (
        browser.LabServer(files, env=env, theme=theme) as lab,
        browser.open_browser(height=1300) as page,
    ):
        browser.open_notebook(page, lab, "a.ipynb")
        assert browser.run_all(page) == []
        took = []
        for css, (slider, buttons) in PANELS.items():
            picture = page.locator(f"{css} svg[data-state]").first
            picture.wait_for()
            check_readable(page, css)
            picture.scroll_into_view_if_needed()
            pixels = picture.screenshot()
            for _ in range(4):
                before = browser.picture(page, css)
                begun = time.monotonic()
                browser.press_slider(page, f"{css} {slider}", "ArrowRight")
                browser.wait_for_change(page, before, css)
                took.append(time.monotonic() - begun)
            assert picture.screenshot() != pixels
            before = browser.picture(page, css)
            page.locator(f"{css} {buttons} button").last.click()
            browser.wait_for_change(page, before, css)
            check_readable(page, css)
            page.locator(css).first.screenshot(path=str(tmp_path / f"{theme}{css}.png"))
        took.sort()
        print(f"{theme}: from a key to the new picture, ms: {[round(1e3 * t) for t in took]}")
        assert took[len(took) // 2] < 5  # the target is 100 ms; test machines are shared
        assert browser.problems(page) == []
        page.goto("about:blank")
