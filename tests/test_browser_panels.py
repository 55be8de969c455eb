"""The panels of 03 to 05, 08, 09 and 12 in a real JupyterLab and Chromium, in whole notebooks where
they fit, in the dark: moved by mouse and keyboard, pictures must change and read well."""

import re

import pytest

import lab_browser as browser
from helpers.browser import (
    check_contrast,
    check_quick,
    check_readable,
    check_tab_reaches_every_control,
    seconds_to_move,
    wait_count,
)

ROUTERS, COLLAPSE, SLOTS = ".moeviz-compare_routers", ".moeviz-collapse", ".moeviz-slots"
HARDWARE = {
    ".moeviz-memory_fit": (".moeviz-batch", ".moeviz-device-name"),
    ".moeviz-decode_batch": (".moeviz-batch", ".moeviz-model-name"),
    ".moeviz-exchange": (".moeviz-step", ".moeviz-copies"),
    ".moeviz-offloading": (".moeviz-hit", ".moeviz-link"),
}
FIT = ("MemoryFit()", "DecodeBatch()", "Exchange()", "Offloading()")
FRONTIER = {"model_anatomy": 40, "model_map": 40, "claims": 50, "cache_ladder": 30,
            "training_cost": 40}  # fmt: skip
ANATOMY, MAP, CLAIMS, LADDER, COST = (f".moeviz-{kind}" for kind in FRONTIER)
MEASURED, OWN = ".moeviz-measured_exchange", ".moeviz-own_expert"
DISPATCH, WASTE, WALK, ROOF, CONTENDERS = (
    f".moeviz-{kind}" for kind in ("dispatch", "tile_waste", "tile_walk", "roofline", "contenders")
)

# No run ends before it is paused, however slow the page is.
LONG_RUNS = """\
from moeviz.experiments import collapse

collapse.build_collapse.__defaults__ = 9000, *collapse.build_collapse.__defaults__[1:]"""
# Of the words beside each slider: pixels to its handle, were it at the end, and to their own edge.
BESIDE_SLIDERS = """() => [...document.querySelectorAll('.widget-slider')].flatMap(slider => {
    const track = slider.querySelector('.noUi-target')?.getBoundingClientRect();
    if (!track?.width) return [];
    const readout = slider.querySelector('.widget-readout'), words = document.createRange();
    words.selectNodeContents(readout);
    const { left, right } = words.getBoundingClientRect();
    const handle = slider.querySelector('.noUi-handle').getBoundingClientRect();
    return [[left - track.right - handle.width / 2, readout.getBoundingClientRect().right - right]];
})"""

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def alone(*panels):
    """A notebook of these panels and nothing else."""
    return browser.notebook("from moeviz import panels", *(f"panels.{panel}" for panel in panels))


def check_text_is_no_markup(page, css):
    """Tags that are typed into a panel's text stay text; the state of before is set again."""
    kept = browser.state_string(page, css)
    browser.write(page, f"{css} .moeviz-text", "<script>alert(1)</script> <b>&amp;")
    text = "text=%3Cscript%3Ealert(1)%3C/script%3E %3Cb%3E%26amp;&"
    browser.wait_state(page, css, re.escape(text))
    assert page.locator(f"{css} svg :is(script, b)").count() == 0
    browser.paste(page, css, kept)
    browser.wait_state(page, css, "^" + re.escape(kept) + "$")


def test_03b_compares_routers(labs):
    """In the notebook itself."""
    with labs.opened("03b_who_else_chooses.ipynb", "Dark") as page:
        page.locator(f"{ROUTERS} .mv[data-state]").first.wait_for()

        # Families and routers, by mouse and by keyboard; of five routers the oldest goes.
        buttons = page.locator(f"{ROUTERS} .moeviz-routers").first
        families = page.locator(f"{ROUTERS} .moeviz-family").first
        assert not buttons.get_by_role("button", name="Sinkhorn", exact=True).is_visible()
        families.get_by_role("button", name="assignment", exact=True).click()
        browser.wait_state(page, ROUTERS, "routers=token_choice,base,sinkhorn&")
        browser.press(buttons.get_by_role("button", name="Top-K", exact=True), "Space")
        browser.wait_state(page, ROUTERS, "routers=base,sinkhorn&")
        families.get_by_role("button", name="all", exact=True).click()
        for router in ("Hash", "Switch", "Expert choice"):
            buttons.get_by_role("button", name=router, exact=True).click()
        browser.wait_state(page, ROUTERS, "routers=sinkhorn,hash,switch,expert_choice&")

        # Sliders: anything but the recording needs the model, which a cell has loaded by now.
        more = page.locator(f"{ROUTERS} .moeviz-more").first
        assert not page.locator(f"{ROUTERS} .moeviz-noise").first.is_visible()
        more.click()
        for slider, state in (("top-k", "top_k=2&"), ("noise", "noise=0.1&")):
            before = browser.picture(page, ROUTERS)
            browser.press_slider(page, f"{ROUTERS} .moeviz-{slider}")
            browser.wait_state(page, ROUTERS, state)
            assert browser.picture(page, ROUTERS) != before
        # Every move arrives, the last value at last.
        browser.press_slider(page, f"{ROUTERS} .moeviz-noise", times=7)
        browser.wait_state(page, ROUTERS, "noise=0.8&")
        check_readable(page, ROUTERS, 30)
        browser.drag_slider(page, f"{ROUTERS} .moeviz-capacity", 1.0)
        browser.wait_state(page, ROUTERS, "capacity=2&")
        panel = page.locator(ROUTERS).first
        panel.get_by_role("button", name="outside training").click()
        browser.wait_state(page, ROUTERS, "mode=outside&")
        panel.get_by_role("button", name="synthetic tokens").click()
        browser.wait_state(page, ROUTERS, "source=synthetic&")
        panel.locator(".moeviz-text :is(input, textarea):disabled").wait_for(state="attached")
        browser.press_slider(page, f"{ROUTERS} .moeviz-skew", "End")
        browser.wait_state(page, ROUTERS, "skew=2.0&")

        # The state string follows the picture.
        browser.wait_state(page, ROUTERS, "skew=2.0&")
        found = browser.state_string(page, ROUTERS)
        browser.paste(page, ROUTERS, "compare_routers?routers=hash")
        panel.locator(".moeviz-status", has_text="At least 2 routers").wait_for()
        assert browser.state_string(page, ROUTERS) == found


def switch(page, name, nth, *, keyboard=False):
    button = page.locator(f"{COLLAPSE} .moeviz-{name} button").nth(nth)
    if keyboard:
        browser.press(button, "Space")
    else:
        button.click()


def pressed(page, name):
    """Which of a switch's buttons is pressed, as the page shows it."""
    buttons = page.locator(f"{COLLAPSE} .moeviz-{name} button")
    return buttons.evaluate_all("all => all.findIndex(b => b.classList.contains('mod-active'))")


@pytest.mark.parametrize(("level", "theme"), [("widgets8", "Dark"), ("widgets7", "Light")])
def test_04_shows_recorded_runs_and_trains(labs, level, theme):
    with labs.opened(alone("Collapse()"), theme, level) as page:
        check_every_switch_shows_a_recorded_run_and_what_excludes_each_other_is_refused(page)
        browser.click(page, f"{COLLAPSE} .moeviz-take-away")
        browser.click(page, f"{COLLAPSE} .moeviz-opening")
        browser.wait_state(page, COLLAPSE, "bias=none")
        if level == "widgets7":  # with widgets 8 models train in test_browser.py
            check_a_run_trains_loses_an_expert_and_goes_on(page)


def check_every_switch_shows_a_recorded_run_and_what_excludes_each_other_is_refused(page):
    """And Tab reaches them all."""
    assert not page.locator(f"{COLLAPSE} .moeviz-noise").is_visible(), "a first look needs few"
    browser.click(page, ".moeviz-more")
    page.locator(f"{COLLAPSE} .moeviz-noise").wait_for()
    check_tab_reaches_every_control(page, COLLAPSE)
    for name, nth, shown in (
        ("aux", 2, "aux=0.1&"), ("scope", 1, "scope=sequence"), ("aux", 0, "aux=0.0"),
        ("noise", 2, "noise=1.0"), ("noise", 0, "noise=0.0"), ("learning", 2, "rerandomised"),
        ("learning", 0, "learning=learned"), ("layer", 0, "layer=0"), ("layer", 1, "layer=1"),
        ("bias", 1, "bias=sign"),
    ):  # fmt: skip
        switch(page, name, nth, keyboard=nth % 2 == 0)
        browser.wait_state(page, COLLAPSE, shown)
    for name in ("z", "shared"):
        browser.press(page.locator(f"{COLLAPSE} .moeviz-{name} input"), "Space")
        browser.wait_state(page, COLLAPSE, f"{name}=True")
    switch(page, "router", 3)
    browser.wait_status(page, COLLAPSE, "The hash router balances in its own way")
    page.wait_for_function(
        "css => document.querySelectorAll(css)[0].classList.contains('mod-active')",
        arg=f"{COLLAPSE} .moeviz-router button",
    )
    state = browser.state(page, COLLAPSE)
    assert pressed(page, "router") == 0 and state["router"] == "token_choice"
    assert state["bias"] == "sign" and state["z"] == "True"
    check_contrast(page, COLLAPSE, 30)


def check_a_run_trains_loses_an_expert_and_goes_on(page):
    browser.click(page, ".moeviz-kill-busiest")
    browser.wait_status(page, COLLAPSE, "Nothing trains yet")
    browser.run_in_kernel(page, LONG_RUNS)
    browser.click(page, ".moeviz-play")
    live = page.locator(f"{COLLAPSE} svg text", has_text=re.compile("^live"))
    live.wait_for()
    browser.press_slider(page, f"{COLLAPSE} .moeviz-timeline", "ArrowLeft")
    browser.wait_state(page, COLLAPSE, "timeline=99&")
    browser.press_slider(page, f"{COLLAPSE} .moeviz-timeline", "End")
    browser.wait_state(page, COLLAPSE, "timeline=100&step=[1-9]")
    browser.click(page, ".moeviz-kill-busiest")
    browser.wait_status(page, COLLAPSE, re.compile(r"Killed: expert \d+ \(layer 1, step \d+\)"))
    page.locator(f"{COLLAPSE} svg text", has_text="✕ expert").wait_for()
    browser.click(page, ".moeviz-pause")
    browser.wait_status(page, COLLAPSE, "Paused.")
    stood = int(browser.state(page, COLLAPSE)["step"])
    page.wait_for_timeout(700)
    assert int(browser.state(page, COLLAPSE)["step"]) == stood
    browser.click(page, ".moeviz-step")
    browser.wait_status(page, COLLAPSE, "One step done.")
    assert int(browser.state(page, COLLAPSE)["step"]) == stood + 1
    switch(page, "bias", 2)  # a new run, beside the one before
    browser.wait_state(page, COLLAPSE, "bias=quantile")
    browser.click(page, ".moeviz-step")
    browser.wait_status(page, COLLAPSE, "One step done.")
    # The legend breaks a long name into lines.
    dashed = rf"dashed: no balancing, seed 1, expert\s*\d+\s*killed:\s*step {stood + 1} of 9,000"
    page.locator(f"{COLLAPSE} svg g.k", has_text=re.compile(dashed)).wait_for()


def test_05(labs):
    """The whole notebook, live, and its first panel by mouse and keyboard."""
    with labs.opened("05_capacity.ipynb", "Dark") as page:
        page.locator(f"{SLOTS} .mv[data-state]").first.wait_for()
        wait_count(page.locator(f"{SLOTS} .mv[data-state]"), 2)
        wait_count(page.locator(".moeviz-predict"), 4)
        check_readable(page, SLOTS, 30)
        check_tab_reaches_every_control(page, SLOTS)
        keys = ["ArrowRight"] * 10 + ["ArrowLeft"] * 10
        check_quick([seconds_to_move(page, SLOTS, ".moeviz-factor", key) for key in keys])

        browser.press_slider(page, f"{SLOTS} .moeviz-factor", "ArrowRight")
        browser.wait_state(page, SLOTS, r"factor=1.3&")
        page.locator(f"{SLOTS} .moeviz-more").first.click()
        for group, label, state in (
            ("top-k", "2", "top_k=2&"),
            ("priority", "batch", "priority=batch&"),
            ("pool", "each sequence", "pool=sequence&"),
            ("overflow", "pad", "overflow=pad&"),
            ("overflow", "drop", "overflow=drop&"),
        ):
            panel = page.locator(SLOTS).first
            browser.press(panel.locator(f".moeviz-{group} button", has_text=label).first, "Space")
            browser.wait_state(page, SLOTS, state)
        check_readable(page, SLOTS, 30)
        browser.drag_slider(page, f"{SLOTS} .moeviz-skew", 0.0)
        browser.wait_state(page, SLOTS, "skew=0.0&")
        browser.press_slider(page, f"{SLOTS} .moeviz-tokens", "ArrowRight")
        browser.wait_state(page, SLOTS, "tokens=48&")
        browser.press(page.locator(f"{SLOTS} .moeviz-seed input").first, "ArrowUp")
        browser.wait_state(page, SLOTS, "seed=8$")
        page.locator(f"{SLOTS} .moeviz-source button", has_text="your text").first.click()
        browser.wait_state(page, SLOTS, "source=text&")
        check_text_is_no_markup(page, SLOTS)


def test_08_moves_by_sliders_and_buttons_and_reads_well(labs):
    with labs.opened(alone(*FIT), "Dark") as page:
        took = []
        for css, (slider, buttons) in HARDWARE.items():
            picture = page.locator(f"{css} .mv[data-state]").first
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
        check_quick(took)


def test_09(labs):
    """The whole notebook, live, and its panels by mouse and keyboard."""
    with labs.opened("09_frontier_models.ipynb", "Dark") as page:
        browser.paste(page, ANATOMY, "model_anatomy?model=DeepSeek-V4-Pro&beside=Switch-C 1.6T")
        browser.wait_state(page, ANATOMY, "beside=Switch")
        for kind, least in FRONTIER.items():
            css = f".moeviz-{kind}"
            page.locator(f"{css} .mv[data-state]").first.wait_for()
            check_readable(page, css, least)
        wait_count(page.locator(".moeviz-predict"), 4)

        for css in (LADDER, ANATOMY, MAP):
            page.locator(f"{css} .moeviz-more").first.click()
        before = page.locator(f"{LADDER} .moeviz-picture").first.screenshot()
        browser.press_slider(page, f"{LADDER} .moeviz-context", "ArrowRight", times=2)
        browser.wait_state(page, LADDER, r"context=524288&")
        assert page.locator(f"{LADDER} .moeviz-picture").first.screenshot() != before
        page.locator(f"{LADDER} .moeviz-bits button", has_text="8 bits").first.click()
        browser.wait_state(page, LADDER, r"bits=8&")

        browser.press_slider(page, f"{ANATOMY} .moeviz-model", "Home")
        browser.wait_state(page, ANATOMY, r"model=GPT-3")
        browser.press_slider(page, f"{ANATOMY} .moeviz-beside", "End")
        page.locator(f"{ANATOMY} .moeviz-config textarea").first.click()  # when it is shown
        page.keyboard.press("Control+A")
        page.keyboard.insert_text('{"model_type": "<script>alert(1)</script>"}')
        page.locator(f"{ANATOMY} .moeviz-status", has_text="is not known; known are").wait_for()
        assert page.locator(f"{ANATOMY} :is(svg, .moeviz-status) script").count() == 0

        browser.press_slider(page, f"{MAP} .moeviz-model", "ArrowRight")
        browser.wait_state(page, MAP, r"model=(?!DeepSeek-V3 /)")
        browser.press_slider(page, f"{MAP} .moeviz-until", "ArrowLeft")
        browser.wait_state(page, MAP, r"until=2023&")

        page.locator(f"{CLAIMS} .moeviz-more").first.click()
        browser.press_slider(page, f"{CLAIMS} .moeviz-first", "Home")
        page.locator(f"{CLAIMS} .moeviz-status", has_text=": holds; ").wait_for()
        kept = browser.state_string(page, CLAIMS)
        browser.press_slider(page, f"{CLAIMS} .moeviz-claim", "ArrowRight")
        browser.wait_state(page, CLAIMS, "claim=few_percent_active&")
        browser.paste(page, CLAIMS, kept)
        browser.wait_state(page, CLAIMS, "^" + re.escape(kept) + "$")
        page.locator(f"{CLAIMS} button.moeviz-reset").first.click()
        page.locator(f"{CLAIMS} .moeviz-status", has_text=": inaccurate; ").wait_for()

        page.locator(f"{COST} .moeviz-more").first.click()
        browser.press_slider(page, f"{COST} .moeviz-price", "ArrowRight")
        browser.wait_state(page, COST, r"price=2.1&")
        page.locator(f"{COST} .moeviz-device button", has_text="B200").first.click()
        browser.wait_state(page, COST, r"device=B200")

        # The ledger's longest texts, and the ladder where nothing is as large as a GPU.
        for claim in ("routing_bottleneck", "qwen25_max_sizes", "dense_baseline"):
            browser.paste(page, CLAIMS, f"claims?claim={claim}")
            browser.wait_state(page, CLAIMS, f"claim={claim}&")
            check_readable(page, CLAIMS, 50)
        browser.press_slider(page, f"{LADDER} .moeviz-context", "Home")
        browser.wait_state(page, LADDER, "context=1024&")
        check_readable(page, LADDER, 30)


def test_12(labs):
    """The whole notebook, live, and its panels by mouse and keyboard."""
    with labs.opened("12_kernels.ipynb", "Dark") as page:
        for css, least in ((DISPATCH, 100), (WASTE, 20), (WALK, 50), (ROOF, 20), (CONTENDERS, 15)):
            page.locator(f"{css} .mv[data-state]").first.wait_for()
            check_readable(page, css, least)
        wait_count(page.locator(".moeviz-predict"), 3)
        gaps = page.evaluate(BESIDE_SLIDERS)
        assert len(gaps) >= 4
        assert min(left for left, _ in gaps) > 4, "a handle at the end touches the words beside it"
        assert min(right for _, right in gaps) > -1, "words beside a slider are cut off"
        check_tab_reaches_every_control(page, DISPATCH)

        browser.press_slider(page, f"{DISPATCH} .moeviz-step", "Home")
        browser.wait_state(page, DISPATCH, r"step=0&")
        took, step = [], 0
        for stage in (2, 8, 15, 17, 22, 40):  # a step of each stage
            browser.press_slider(page, f"{DISPATCH} .moeviz-step", times=stage - step - 1)
            browser.wait_state(page, DISPATCH, f"step={stage - 1}&")
            took.append(seconds_to_move(page, DISPATCH, ".moeviz-step"))
            check_readable(page, DISPATCH, 80)
            step = stage
        check_quick(took)
        browser.press_slider(page, f"{DISPATCH} .moeviz-step", "Home")
        browser.wait_state(page, DISPATCH, r"step=0&")

        page.locator(f"{DISPATCH} button.moeviz-next").first.click()
        browser.wait_state(page, DISPATCH, r"step=1&")
        browser.press_slider(page, f"{DISPATCH} .moeviz-step", "ArrowRight")
        browser.wait_state(page, DISPATCH, r"step=2&")
        page.locator(f"{DISPATCH} svg [data-press]", has_text="scatter").first.click()
        browser.wait_state(page, DISPATCH, r"step=13&")
        page.locator(f"{DISPATCH} button.moeviz-play").first.click()
        browser.wait_state(page, DISPATCH, r"step=(1[5-9]|[234]\d)&")
        page.locator(f"{DISPATCH} button.moeviz-play.mod-active").first.click()
        page.locator(f"{DISPATCH} button.moeviz-play:not(.mod-active)").first.wait_for()
        # The kernels run here, in the interpreter where there is no GPU.
        page.locator(f"{DISPATCH} .moeviz-tile-block button", has_text="8").first.click()
        browser.wait_state(page, DISPATCH, r"tile_block=8&")
        page.locator(f"{DISPATCH} button.moeviz-more").first.click()
        page.locator(f"{DISPATCH} .moeviz-source button", has_text="synthetic").first.click()
        browser.wait_state(page, DISPATCH, r"source=synthetic&")
        browser.press_slider(page, f"{DISPATCH} .moeviz-tokens", "ArrowRight")
        browser.wait_state(page, DISPATCH, r"tokens=17&")
        page.locator(f"{DISPATCH} .moeviz-source button", has_text="your text").first.click()
        browser.wait_state(page, DISPATCH, r"source=text&")
        check_text_is_no_markup(page, DISPATCH)

        browser.press_slider(page, f"{WASTE} .moeviz-skew", "ArrowRight")
        browser.wait_state(page, WASTE, "skew=0.1&")
        browser.press_slider(page, f"{ROOF} .moeviz-tokens", "ArrowLeft", times=3)
        browser.wait_state(page, ROOF, "tokens=512$")
        page.locator(f"{ROOF} button.moeviz-run").first.click()
        browser.wait_state(page, ROOF, "machine=this")
        page.locator(f"{ROOF} .mv", has_text="a large copy").wait_for()
        page.locator(f"{CONTENDERS} button.moeviz-run").first.click()
        page.locator(f"{CONTENDERS} .mv", has_text="this machine, ").wait_for()
        page.locator(f"{CONTENDERS} .mv", has_text="grouped_mm").wait_for()


def test_14_an_expert_learns_ones_own_text_and_is_taken_out_again(labs):
    """The text is pasted; what is learnt is seen, and that nothing is left without it."""
    with labs.opened(alone("OwnExpert()"), "Dark") as page:
        check_readable(page, OWN, 60)
        panel = page.locator(OWN).first
        panel.locator(".moeviz-text button", has_text="your own").click()
        browser.wait_status(page, OWN, "An expert for mine (whole, 120 steps) is not trained yet.")
        browser.click(page, f"{OWN} .moeviz-more")
        for name in ("steps", "replay"):  # the quickest of them
            browser.press(panel.locator(f".moeviz-{name} button").first, "Space")
        browser.type_text(page, f"{OWN} .moeviz-own", "The cherry is as big as an egg. " * 30)
        browser.wait_state(page, OWN, "text=yours&own=The cherry.*steps=60&replay=0")
        browser.click(page, f"{OWN} button.moeviz-run")
        browser.wait_status(page, OWN, "After 60 steps the loss of mine falls from")
        for words in ("live: replay 0", "Training: step 60 of 60"):
            panel.locator("svg text", has_text=words).wait_for()
        check_readable(page, OWN, 60)
        browser.click(page, f"{OWN} button.moeviz-unplug")
        browser.wait_status(page, OWN, "the model is bit for bit the model that ships")
        panel.locator("svg text", has_text="now: the same, bit for bit").wait_for()


def test_08b_processes_start_are_measured_and_end(labs):
    """With real processes: the picture is of this machine then, and none is left over."""
    with labs.opened(alone("MeasuredExchange()"), "Dark") as page:
        check_readable(page, MEASURED, 30)
        check_contrast(page, MEASURED, 20)
        page.locator(f"{MEASURED} [data-press='exchange=6']").first.click()
        browser.wait_state(page, MEASURED, "exchange=6$")
        page.locator(f"{MEASURED} svg text", has_text="Layer 2 combine: ").first.wait_for()
        page.locator(f"{MEASURED} [data-press='exchange=0']").first.click()
        browser.wait_state(page, MEASURED, "exchange=0$")
        before = browser.picture(page, MEASURED)
        browser.click(page, f"{MEASURED} button.moeviz-run")
        browser.wait_status(page, MEASURED, "so far…")
        page.locator(f"{MEASURED} svg text", has_text="measured here, in 2").first.wait_for()
        assert browser.picture(page, MEASURED) != before
        page.locator(f"{MEASURED} .moeviz-skew button").nth(2).click()
        page.locator(f"{MEASURED} svg text", has_text="skew 2, expert 0").first.wait_for()
        check_readable(page, MEASURED, 30)
        browser.click(page, f"{MEASURED} button.moeviz-stop")
        browser.wait_status(page, MEASURED, "The processes have ended.")
        count = "import os, subprocess; print(subprocess.run(['pgrep', '-P', str(os.getpid()), "
        count += "'-f', 'exchange_rank'], capture_output=True, text=True).stdout)"
        assert browser.run_in_kernel(page, count).strip() == ""
        assert browser.problems(page) == []
