"""Every panel in JupyterLab at the widths of a projector, a laptop and half a screen, in both
themes: no text is small, nothing is cut off, nothing lies over something else."""

import pytest

import lab_browser as browser
from helpers.browser import put_and_open
from helpers.panels import MOVES

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
# 700 is also what a window of 1400 has at 200 % zoom.
WIDTHS = (1400, 1000, 700)
ALL = browser.notebook("from moeviz import panels", *(f"panels.{name}()" for name in MOVES))
# Of each panel what is wrong, in words.
AUDIT = """() => [...document.querySelectorAll('.moeviz-panel')].flatMap(panel => {
    const name = [...panel.classList].find(c => /^moeviz-(?!panel)/.test(c));
    const shown = e => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
    const box = e => e.getBoundingClientRect(), frame = box(panel), wrong = [];
    const says = e => (e.textContent.trim() || e.className.baseVal || e.className).slice(0, 40);
    for (const part of panel.querySelectorAll('.mv svg'))
        if (Math.abs(box(part).width - part.viewBox.baseVal.width) > 1)
            wrong.push('a part is scaled');
    for (const picture of panel.querySelectorAll('.mv'))
        if (box(picture).right > frame.right + 1) wrong.push('the picture is wider than the panel');
    for (const text of panel.querySelectorAll('text, label, button, input, [role=status], td, th'))
        if (shown(text) && parseFloat(getComputedStyle(text).fontSize) < 12)
            wrong.push(`${says(text)}: small`);
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
            && getComputedStyle(e).overflow !== 'visible') wrong.push(`${says(e)}: cut off`);
    controls.forEach((e, i) => controls.slice(i + 1).forEach(other => {
        const a = box(e), b = box(other);
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
            wrong.push(`${says(e)} lies over ${says(other)}`); }));
    return wrong.map(words => `${name}: ${words}`) })"""


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_every_panel_reads_at_every_width(labs, theme):
    with labs.page(theme) as page:
        put_and_open(page, ALL)
        assert browser.run_all(page, timeout=180) == []
        assert page.locator(".moeviz-panel .mv").count() == len(MOVES)
        wrong = []
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(500)
            wrong += [f"{width} px, {words}" for words in page.evaluate(AUDIT)]
        assert wrong == []
