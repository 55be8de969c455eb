"""What a picture does under a hand, in a page without a kernel: hover text, kin, press, drag."""

from urllib.parse import parse_qs

import pytest

import lab_browser as browser
from moeviz.pictures.hand import HAND
from moeviz.pictures.svg import Svg

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

# The panel's part: each state that is pasted is heard, and the picture drawn anew.
HEARS = """() => {
    window.heard = [], window.drawnAnew = 0;
    const box = document.querySelector('.moeviz-state input');
    const picture = document.querySelector('.moeviz-picture');
    box.addEventListener('change', () => {
        heard.push(box.value);
        setTimeout(() => { picture.innerHTML = picture.innerHTML; drawnAnew++ }, 20);
    });
}"""


def tokens_and_experts():
    """Two tokens in one part, their experts in another, and three values to drag over."""
    svg = Svg(300, 120, "t", "d.")
    for token, expert in enumerate((0, 1)):
        with svg.thing(f"t{token}", f"e{expert}", tip=f"token {token}", press={"token": token}):
            svg.rect(40 * token, 0, 30, 30, "#e69f00")
    for value in range(3):
        with svg.thing(tip=f"C = {value}", press={"limit": value}, drag=True):
            svg.rect(40 * value, 60, 40, 30, "#56b4e9")
    side = svg.beside(100, 40)
    for expert in (0, 1):
        with side.thing(f"e{expert}", tip=f"expert {expert}"):
            side.rect(40 * expert, 0, 30, 30, "#009e73")
    return svg.picture((), ()).at("slots?token=0")


@pytest.fixture
def hand(labs):
    page = labs.window
    page.goto("about:blank")
    page.mouse.move(700, 600)
    # Twice, as by two panels.
    page.set_content(
        f"<div class='moeviz-panel'>{HAND}{HAND}"
        f"<div class='moeviz-picture'>{tokens_and_experts().svg}</div>"
        "<div class='moeviz-state'><input></div></div>"
    )
    page.wait_for_selector(".mv-tip", state="attached")
    page.evaluate(HEARS)
    return page


def lit(page):
    return page.eval_on_selector_all(".hot", "marks => marks.map(m => m.dataset.kin)")


def heard(page):
    states = page.evaluate("heard")
    assert all(state.startswith("slots?") for state in states)
    return [parse_qs(state.partition("?")[2]) for state in states]


def centre(page, mark):
    box = page.locator(mark).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_mark_says_what_it_is_and_lights_its_kin(hand):
    hand.mouse.move(*centre(hand, "[data-kin='e1']"))
    assert lit(hand) == ["t1 e1", "e1"], "the token that goes there too"
    assert hand.inner_text(".mv-tip") == "expert 1"
    faded = hand.locator("[data-kin='t0 e0']")
    hand.wait_for_function(
        "mark => getComputedStyle(mark).opacity === '0.2'", arg=faded.element_handle()
    )
    hand.mouse.move(*centre(hand, "[data-kin='t1 e1']"))
    assert lit(hand) == ["t1 e1"], "the first name is its own"
    hand.keyboard.press("Escape")
    assert lit(hand) == [] and not hand.is_visible(".mv-tip")
    hand.mouse.move(290, 110)
    assert lit(hand) == [] and hand.locator("title").count() < 7, "native hover text came with it"


def test_a_press_pastes_what_it_sets_once(hand):
    hand.mouse.click(*centre(hand, "[data-kin='t1 e1']"))
    assert heard(hand) == [{"token": ["1"]}]


def test_a_press_holds_where_the_picture_is_drawn_anew_meanwhile(hand):
    """As it is at each step while a panel plays."""
    hand.mouse.move(*centre(hand, "[data-kin='t1 e1']"))
    hand.mouse.down()
    redraw = "picture => { picture.innerHTML = picture.innerHTML }"
    hand.eval_on_selector(".moeviz-picture", redraw)
    hand.mouse.up()
    assert heard(hand) == [{"token": ["1"]}]


def test_the_keyboard_enters_once_walks_by_arrows_and_stays_where_it_pressed(hand):
    focus = "document.activeElement.getAttribute('aria-label')"
    browser.press(hand.locator(".mv"), "Tab")
    assert hand.evaluate(focus) == "token 0" and lit(hand) == ["t0 e0"]
    hand.keyboard.press("ArrowRight")
    assert hand.evaluate(focus) == "token 1" and heard(hand) == []
    hand.keyboard.press("Enter")
    assert heard(hand) == [{"token": ["1"]}]
    hand.wait_for_function("() => drawnAnew === 1")
    assert hand.evaluate(focus) == "token 1", "in the new picture"
    hand.keyboard.press("ArrowRight")
    assert hand.evaluate(focus) == "C = 0" and heard(hand)[1:] == [{"limit": ["0"]}], "as a slider"
    hand.keyboard.press("Tab")
    assert hand.evaluate(focus) is None


def test_the_keyboard_enters_at_what_the_panel_shows(hand):
    hand.eval_on_selector(".mv", "view => { view.dataset.state = 'slots?limit=1&token=7' }")
    browser.press(hand.locator(".mv"), "Tab")
    focus = "document.activeElement.getAttribute('aria-label')"
    assert hand.evaluate(focus) == "C = 1"
    hand.keyboard.press("ArrowRight")
    assert hand.evaluate(focus) == "C = 2" and heard(hand) == [{"limit": ["2"]}]


def test_what_is_dragged_over_is_set_on_the_way(hand):
    places = [centre(hand, f"[data-press='limit={value}']") for value in range(3)]
    hand.mouse.move(*places[0])
    assert heard(hand) == []
    hand.mouse.down()
    hand.mouse.move(*places[1])
    hand.mouse.move(*places[2])
    hand.mouse.up()
    hand.mouse.move(*places[0])
    assert [h["limit"] for h in heard(hand)] == [["0"], ["1"], ["2"]]


def test_a_picture_that_is_scaled_down_is_pressed_and_dragged_where_it_is_seen(hand):
    """In a narrower place; in one that is too narrow even for that it scrolls."""
    place, view = hand.locator(".moeviz-picture"), hand.locator(".mv")
    scrolls = "e => e.scrollWidth > e.clientWidth"
    for room, scale in ((300, 1), (240, 0.8), (200, 0.75)):
        place.evaluate("(e, room) => { e.style.width = `${room}px`; heard.length = 0 }", room)
        left, top, width, height = (view.locator("svg").first.bounding_box()[k] for k in
                                    ("x", "y", "width", "height"))  # fmt: skip
        assert (width, height) == (300 * scale, 120 * scale)
        assert view.evaluate(scrolls) == (room < width)
        hand.mouse.click(left + 55 * scale, top + 15 * scale)  # the second token
        hand.mouse.move(left + 20 * scale, top + 75 * scale)
        hand.mouse.down()
        hand.mouse.move(left + 100 * scale, top + 75 * scale)
        hand.mouse.up()
        assert heard(hand) == [{"token": ["1"]}, {"limit": ["0"]}, {"limit": ["2"]}]
        hand.mouse.move(left + 55 * scale, top + 15 * scale)
        assert lit(hand) == ["t1 e1"] and hand.inner_text(".mv-tip") == "token 1"


def test_a_knob_that_lies_over_other_stops_does_not_hold_the_hand(hand):
    wide = "stop => { stop.setAttribute('x', -60); stop.setAttribute('width', 180) }"
    hand.eval_on_selector("[data-press='limit=0'] rect", wide)
    start, y = centre(hand, "[data-press='limit=0']")
    end, _ = centre(hand, "[data-press='limit=2']")
    hand.mouse.move(start - 20, y)
    hand.mouse.down()
    hand.mouse.move(end, y)
    hand.mouse.up()
    assert [h["limit"] for h in heard(hand)] == [["0"], ["2"]]
