"""The same panels in Jupyter Notebook 7 and in Voilà, whose pages are not JupyterLab's: a slider, a
hand and a prediction do there what they do in the lab, everything reads, and nothing goes wrong."""

import pytest

import lab_browser as browser
from helpers.browser import check_contrast

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
TEXT, LAYER = ".moeviz-route_text", ".moeviz-inside_layer"
QUESTION = browser.notebook(
    "from moeviz import panels",
    "panels.RouteText()",
    'panels.Predict("02.sum")',
    "panels.InsideLayer()",
    'panels.Outcome("02.sum")',
)


# Each host's own, before it knows of us: Notebook 7 asks too early for the shortcuts' settings and
# for a command of the lab's file browser, and Voilà's page for icons and formulas in the network.
KNOWN = {
    "notebooks": [
        "page error: Cannot read properties of undefined (reading 'schema')",
        "page error: Command 'filebrowser:open-path' not registered.",
    ],
    "voila/render": ["https://cdn", "Failed to load resource: net::"],
}


@pytest.mark.parametrize("host", KNOWN)
def test_panels_answer_in_another_host(labs, host):
    with labs.page(height=1300, known=KNOWN[host]) as page:
        page.lab.put("a.ipynb", QUESTION)
        if host == "notebooks":
            browser.open_notebook(page, page.lab, "a.ipynb", host)
            assert browser.run_all(page) == []
        else:  # Voilà runs the cells itself, before it shows a page
            page.goto(f"{page.lab.url}/{host}/a.ipynb?token={page.lab.token}")
        page.locator(f"{LAYER} .mv[data-state]").wait_for()

        before = browser.picture(page, TEXT)
        browser.press_slider(page, f"{TEXT} .moeviz-layer", "ArrowLeft")
        browser.wait_for_change(page, before, TEXT)
        page.locator(f"{TEXT} .mv .k").first.hover()
        page.locator(".mv-tip", has_text="token 0").wait_for()
        assert page.locator(f"{TEXT} .mv.lit .hot").count() > 0

        page.locator(f"{LAYER} .mv [data-press='stage=softmax']").click()
        browser.wait_state(page, LAYER, "stage=softmax&")
        page.locator(f"{LAYER} button.moeviz-take-away[aria-expanded=false]").click()
        page.locator(f"{LAYER} .moeviz-files a").wait_for()

        page.get_by_role("button", name="less than 1", pressed=False).click()
        page.locator("button.moeviz-lock:enabled").click()
        page.locator(".moeviz-outcome [role=status]", has_text="You said").wait_for()

        page.mouse.move(0, 0)
        for panel in (TEXT, LAYER):
            check_contrast(page, panel, 5)
