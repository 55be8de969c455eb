"""The panels of 08_hardware in a real JupyterLab and Chromium, in both themes: moved by mouse and
keyboard, pictures must change and be readable; nothing may go wrong in kernel, page or panel."""

import pytest

import lab_browser as browser
from helpers.browser import check_quick, check_readable, seconds_to_move

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

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_sliders_and_buttons_move_the_pictures(labs, theme, tmp_path):
    with labs.opened(ALONE, theme) as page:
        took = []
        for css, (slider, buttons) in PANELS.items():
            picture = page.locator(f"{css} svg[data-state]").first
            picture.wait_for()
            check_readable(page, css, 15)
            picture.scroll_into_view_if_needed()
            pixels = picture.screenshot()
            for _ in range(4):
                took.append(seconds_to_move(page, css, slider))
            assert picture.screenshot() != pixels
            before = browser.picture(page, css)
            page.locator(f"{css} {buttons} button").last.click()
            browser.wait_for_change(page, before, css)
            check_readable(page, css, 15)
            browser.screenshot(page, tmp_path / f"{theme}{css}.png", css)
        check_quick(took, theme)
