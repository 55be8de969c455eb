"""What pictures of kernels say, draw and list is what was computed or measured."""

import json
import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from helpers.panels import figures
from helpers.picture_cases import (
    CPU,
    GPU,
    LAYER,
    REACHED,
    TRACES,
    dispatch_by_hand,
    evil_case,
    recorded_json,
)
from helpers.pictures import corners, extent, marks, parse, presses, texts, things, tips
from moeviz.costs import distinct_experts
from moeviz.experiments import recorded
from moeviz.pictures.kernels.contenders import DENSE, contenders
from moeviz.pictures.kernels.dispatch import dispatch
from moeviz.pictures.kernels.layer_work import ALL_EXPERTS, TOKENS, Reached, all_experts, works
from moeviz.pictures.kernels.roofline import LABELS, roofline
from moeviz.pictures.kernels.tile_pieces import column_blocks, lanes, moments, order
from moeviz.pictures.kernels.tile_walk import tile_walk
from moeviz.pictures.kernels.tile_waste import (
    BLOCKS,
    SKEWS,
    expected_waste,
    padding_rows,
    tile_waste,
    waste_curves,
    zipf_load,
)
from moeviz.pictures.svg import INK, si
from moeviz.records.dispatch import STAGES
from moeviz_kernels.tiles import grouped_order

# Dispatch.


@pytest.mark.parametrize("name", TRACES)
def test_every_step_says_something_else_at_the_same_height(name):
    trace = TRACES[name]
    drawn = [dispatch(trace, step) for step in range(trace.steps)]
    assert len({tuple(part.get("viewBox") for part in parse(picture)) for picture in drawn}) == 1
    assert max(len(picture.summary) for picture in drawn) < 125, "one line above the picture"
    assert max(len(each) for picture in drawn for each in figures(picture.summary)) <= 3
    if name == "dispatch":
        assert len({picture.summary for picture in drawn}) == trace.steps
        bare = {re.sub("aria-label=.*?data", "", picture.svg) for picture in drawn}
        assert len(bare) == trace.steps


def test_by_hand_each_stage_has_its_numbers():
    trace = dispatch_by_hand()
    assert trace.steps == 1 + 2 + 2 + 2 + 1 + 3 + 3
    for stage, program, words in (
        ("top-k", 0, "3 tokens ask for 1 expert each: 3 assignments, in token order."),
        ("histogram", 0, "counts 2 assignments; expert 0 is asked for 1 time, and none more."),
        ("scan", 1, "adds up the column of expert 1; it will have 2 rows."),
        ("scatter", 0, "sends assignments 0 to 1 to their rows."),
        ("tiles", 0, "2 tiles of 4 rows hold 3 rows. 5 of 8 computed rows are padding."),
        ("tiles", 0, "1 of the GEMM's 3 programs find no tile."),
        ("GEMM", 1, "2 rows of expert 1, 2 padding."),
        ("GEMM", 2, "no tile is left, it returns at once."),
        ("combine", 2, "y differs by 2e-07 of its length."),
    ):
        picture = dispatch(trace, trace.step_at(stage, program))
        assert words in picture.summary
    assert picture.rows[2] == (2, "2 " + "x" * 50, 1, "0.250", 1, 2, 1, 1)
    drawn = texts(dispatch(trace, trace.step_at("GEMM")))
    assert "drawn in tiles of 4; this GPU computed in tiles of 16" in drawn


def test_the_scatters_arithmetic_is_written_out():
    trace = TRACES["dispatch"]
    for program in range(len(trace.count)):
        text = dispatch(trace, trace.step_at("scatter", program)).svg
        sums = re.findall(r"row = (\d+) \+ (\d+) \+ (\d+) = (\d+)", text)
        assert len(sums) == trace.sort_block
        assert all(int(a) + int(b) + int(c) == int(d) for a, b, c, d in sums)


@pytest.mark.parametrize("name", TRACES)
def test_an_assignment_is_lit_in_every_lane_and_list_with_its_token_and_its_expert(name):
    trace = TRACES[name]
    picture = dispatch(trace, trace.step_at("GEMM", 0))
    for index, row in enumerate(trace.rank):
        t, e = index // trace.top_k, int(trace.expert.reshape(-1)[index])
        kin = things(picture, f"a{index}")
        moves = row in trace.tile_rows(0)
        assert len(kin) == (4 if moves else 2), "both lanes; the arrow between, the row below"
        assert {thing.get("data-kin") for thing in kin} == {kin[0].get("data-kin")}
        tile = next(g for g in range(len(trace.tile_expert)) if row in trace.tile_rows(g))
        assert {f"t{t}", f"e{e}", f"g{tile}"} < {*kin[0].get("data-kin").split()}
        tip = kin[0].findtext("{*}title")
        assert tip.startswith(f"token {t} '{trace.tokens[t]}' → expert {e}, weight 0.")
        assert f"; row {row}" in tip


def test_what_is_pressed_in_a_dispatch_goes_to_a_step_of_it():
    trace = dispatch_by_hand()
    for step in range(trace.steps):
        pressed = [sets for _, sets in presses(dispatch(trace, step))]
        assert {key for sets in pressed for key in sets} == {"step"}
        steps = [int(sets["step"]) for sets in pressed]
        assert steps[:7] == [trace.step_at(stage) for stage in STAGES]
        assert all(0 <= step < trace.steps for step in steps)
        stage, program = trace.at(step)
        if stage not in ("top-k", "tiles") and (stage != "GEMM" or trace.tile_rows(program)):
            assert step in steps[7:], "the step's own program among those of its stage"


# Tile waste.


def test_padding_by_hand():
    assert padding_rows(np.array([70, 3, 0, 129, 16]), 16) == 38
    assert padding_rows(np.array([16, 32]), 16) == 0 and padding_rows(np.array([0, 0]), 64) == 0


def test_what_is_said_of_tile_waste():
    few, some, many = (waste_curves(8 * tokens, 64, 0) for tokens in (64, 1024, 4096))
    assert (few > some).all() and (some > many).all(), "fewer: worse"
    assert (np.diff(some, axis=0) > 0).all(), "larger tiles: worse"
    # The rule of thumb holds where experts have many rows.
    rule = [expected_waste(64 * 4096, 64, block) for block in BLOCKS]
    assert waste_curves(64 * 4096, 64, 0)[:, 0] == pytest.approx(rule, rel=0.25)
    # The notebook's prediction: "about 20 %".
    said = tile_waste(tokens=1024, experts=64, top_k=8, skew=0.0, block=64).summary
    assert 15 < float(re.search(r"are padding, ([\d.]+) %", said)[1]) < 25


def test_loads_are_drawn_once_for_each_seed():
    load_E = zipf_load(1000, 16, 1.0, 3)
    assert load_E.sum() == 1000 and load_E[0] > load_E[-1]
    assert (load_E != zipf_load(1000, 16, 1.0, 4)).any()


def test_every_expert_tells_its_rows_and_all_have_one_colour():
    setting = dict(tokens=64, experts=64, top_k=8, skew=1.0, block=16)
    picture, load_E = tile_waste(**setting), zipf_load(512, 64, 1.0, 0)
    for e, load in enumerate(load_E):
        (bar,) = things(picture, f"e{e}")
        tip = f"expert {e}: {load} rows, {-load % 16} of padding"
        assert bar.findtext("{*}title") == tip
        real = [m for m in bar.iter() if "fill:#0072b2" in m.get("style", "")]
        assert len(real) == -(-load // 16), "tile by tile"


def test_of_tile_waste_the_skew_is_dragged_and_the_blocks_are_pressed():
    picture = tile_waste(tokens=64, experts=8, top_k=1, skew=0.3 + 1e-9, block=16)
    pressed = [sets for _, sets in presses(picture)]
    assert pressed[: len(SKEWS)] == [{"skew": str(skew)} for skew in SKEWS]
    assert sorted(int(sets["block"]) for sets in pressed[len(SKEWS) :]) == [*BLOCKS]


# Tile walk.


@triton.jit
def order_kernel(out_ptr, num_tiles, num_columns, GROUP: tl.constexpr):
    tile, column = grouped_order(tl.program_id(0), num_tiles, num_columns, GROUP)
    tl.store(out_ptr + 2 * tl.program_id(0), tile)
    tl.store(out_ptr + 2 * tl.program_id(0) + 1, column)


@pytest.mark.parametrize(("tiles", "columns", "group"), [(7, 3, 2), (5, 1, 8), (9, 4, 1)])
def test_the_walk_drawn_is_the_kernels(tiles, columns, group):
    out = torch.empty(tiles * columns, 2, dtype=torch.int32)
    order_kernel[(tiles * columns,)](out, tiles, columns, GROUP=group)
    assert order(tiles, columns, group) == list(map(tuple, out.tolist()))


def test_the_walk_by_hand():
    """Three rows, of expert 0 one and of expert 1 two; x of 2 numbers, hidden of 3: one column."""
    trace = dispatch_by_hand()
    (first, second) = lanes(trace, columns=1, group=8, programs=2)
    assert [(p.tile, p.expert, p.rows) for p in first + second] == [(0, 0, 1), (1, 1, 2)]
    weights, row = 64 * 2 * 2, 2 * 2
    assert moments([first, second], d_model=2) == [
        (2, 2 * weights + 3 * row, 2 * weights + 3 * row)
    ]
    # Two columns of the same tile read its rows once.
    ((pair,), (other,)) = lanes(trace, columns=2, group=1, programs=4)[:2]
    assert (pair.tile, other.tile) == (0, 0)
    assert moments([[pair], [other]], 2) == [(2, 2 * weights + 2 * row, 2 * weights + row)]


WALK = dict(programs=6, group=2, step=3, follow="tile 4")


def moments_of(picture, group=2):
    """(moment, pieces) of one GROUP in the table."""
    return [row[1:3] for row in picture.rows if row[0] == group]


def test_a_persistent_walk_starts_as_many_programs_as_run_at_a_time():
    trace = TRACES["dispatch"]
    one, persistent = (
        tile_walk(trace, **WALK, view="programs", walk=w) for w in ("one", "persistent")
    )
    pieces = sum(count for _, count in moments_of(one))
    started, empty = map(int, re.search(r"(\d+) programs start, (\d+)", one.summary).groups())
    assert started == pieces + empty
    assert f"6 persistent programs start, and {started - 6} starts" in persistent.summary
    bars = [len(marks(picture, "rect", INK)) for picture in (one, persistent)]
    assert bars[0] - bars[1] == 2 * (pieces - 6), "over the moments, and in the line of starts"
    idle = [m for m in marks(one, "title") if m.text.endswith("has nothing left to do")]
    assert len(idle) == 6 - moments_of(one)[-1][1] > 0
    assert f"In the last moment {len(idle)} of 6 programs are idle." in one.summary
    assert len(idle) == 2, "12 says so"
    eight = tile_walk(trace, **WALK | {"programs": 8}, view="programs", walk="persistent")
    assert "idle" not in eight.summary, "12 says so"
    program = tile_walk(
        trace, **WALK | {"follow": "program 5", "group": 4}, view="programs", walk="one"
    )
    assert program.summary.endswith("Program 5 computes 6 pieces for 6 starts.")
    nobody = tile_walk(trace, **WALK | {"follow": "program 7"}, view="programs", walk="one")
    assert nobody.summary.endswith("Program 7 does not run.")


@pytest.mark.parametrize("view", ["orders", "programs"])
def test_a_moment_lights_its_pieces_and_a_tile_the_moments_that_read_it(view):
    picture = tile_walk(TRACES["dispatch"], **WALK, view=view, walk="persistent")
    for number, pieces in moments_of(picture):
        kin = things(picture, f"m{number - 1}")
        lit = [m for m in kin if m.get("data-kin")[0] == "g"]
        assert len(lit) == pieces
        written = [m.findtext("{*}text") for m in lit]
        if view == "orders":
            (bar,) = [m for m in kin if m.get("data-kin").startswith(f"m{number - 1} ")]
            tiles = {name for name in bar.get("data-kin").split() if name[0] == "g"}
            assert {m.get("data-kin").split()[0] for m in lit} == tiles
            assert {*written} == {str(number)}
        else:
            told = [m.findtext("{*}title") for m in lit]
            at = [re.search(r"tile (\d+), .* column block (\d+)", words) for words in told]
            names = [" · ".join(found.groups()) for found in at]
            assert written == names or written == [name.split(" ")[0] for name in names]


def test_what_group_buys_is_told_and_every_group_is_pressed():
    """Of tiles of one expert, those that go together read its weights once."""
    trace, sizes = TRACES["dispatch"], {}
    orders = dict(programs=4, view="orders", walk="one")
    for group in (1, 2, 4, 8):
        picture = tile_walk(trace, **WALK | orders | {"group": group})
        walk = lanes(trace, column_blocks(trace), group, 4)
        sizes[group] = sum(different for *_, different in moments(walk, trace.x.shape[1]))
        assert si(sizes[group], "B") in texts(picture)
        assert {sets["group"] for _, sets in presses(picture) if "group" in sets} == {*"1248"}
    saved = round(100 * (1 - sizes[2] / sizes[1]))
    for group in (1, 2):  # whichever is chosen, both are compared
        picture = tile_walk(trace, **WALK | orders | {"group": group})
        words = f"GROUP 2 reads {si(sizes[2], 'B')} from memory, {saved} % less than GROUP 1."
        assert saved > 10 and words in texts(picture) and picture.summary.startswith(words)


def test_of_an_order_pieces_moments_and_tiles_are_pressed():
    picture = tile_walk(TRACES["dispatch"], **WALK, view="orders", walk="one")
    pressed = [sets for _, sets in presses(picture)]
    assert {"follow": "nothing"} in pressed, "what is followed is let go"
    assert {(sets["step"], sets["follow"]) for sets in pressed if len(sets) == 2} >= {
        ("3", "tile 4")
    }
    steps = [int(sets["step"]) for sets in pressed if sets.keys() == {"step"}]
    assert steps == [moment for moment, _ in moments_of(picture)]
    rows = "The rows of tile 4 are asked for 4 times and come from memory 2 times."
    assert rows in picture.summary


# Roofline.


def test_the_formulas_by_hand():
    # One token, four experts of 64: their weights once, x and y once.
    work = all_experts(1, LAYER, 4)
    assert work.flops == 6 * 4 * 512 * 256
    assert work.size == pytest.approx(4 * (4 * 3 * 512 * 256 + 2 * 512))
    assert distinct_experts(64, 4, 1).total == pytest.approx(4)
    assert distinct_experts(64, 4, 10**6).total == 64
    up, down = works(8, LAYER, 2)[2:4]
    assert up.flops == 2 * down.flops == pytest.approx(2 / 3 * all_experts(8, LAYER, 2).flops)


def test_what_is_said_of_the_roofline():
    """Half a FLOP per byte at T = 1 in float32; a dense FFN climbs sooner; combine never."""
    assert all_experts(1, LAYER, 4).intensity == pytest.approx(0.5, rel=0.01)
    for tokens in (16, 256, 4096):
        dense, experts, _, _, combine, top_k = works(tokens, LAYER, 4)
        assert dense.intensity > 2 * experts.intensity
        assert round(combine.intensity, 3) == 0.2 and top_k.intensity < 1
    assert "not measured yet" in roofline(None, LAYER, 1).summary
    for tokens, roof in ((1, "memory"), (4096, "arithmetic")):
        words = f"token{'s' * (tokens > 1)} the experts wait for {roof}."
        assert words in roofline(CPU, LAYER, tokens).summary
    words = {"waits for memory", "waits for arithmetic", "ridge: 181 FLOP a byte"}
    words |= {"memory: 4.3 TB/s", "arithmetic: 780 TFLOP/s"}
    assert words <= {*texts(roofline(GPU, LAYER, 64))}


@pytest.mark.parametrize("device", [CPU, GPU], ids=lambda device: device["name"])
@pytest.mark.parametrize("tokens", [1, 16, 4096])
def test_nothing_stands_above_the_roof_and_no_name_upon_another(device, tokens):
    picture = roofline(device, LAYER, tokens, REACHED)
    (memory,), (arithmetic,) = (
        [corners(line) for line in marks(picture, "polyline", colour)]
        for colour in ("#0072b2", "#d55e00")
    )
    xs, ys = np.concatenate([memory, arithmetic[1:]]).T
    names = []
    for work in works(tokens, LAYER, 4 if device is CPU else 2):
        (drawn,) = things(picture, work.name.replace(" ", "_"))
        dot = drawn.find("{*}circle")
        at, height = (float(dot.get(key)) for key in ("cx", "cy"))
        assert height == pytest.approx(np.interp(at, xs, ys), abs=0.02), "on the roof"
        assert drawn.findtext("{*}title").startswith(f"{work.name}: ")
        assert ("data-drag" in drawn.attrib) == (work.name == ALL_EXPERTS)
        written = drawn.findall("{*}text")
        assert len(written) == (work.name in LABELS), "the few that matter"
        for name in written:
            (left, right), y = extent(name), float(name.get("y"))
            assert y - 9 > np.interp(left, xs, ys), "below it"
            names.append((left, right, y))
    for (left, right, y), (start, end, other) in combinations(names, 2):
        assert abs(y - other) >= 12 or left >= end or start >= right, "two names touch"


def test_the_batch_is_dragged_below_the_axis():
    picture = roofline(GPU, LAYER, 64, REACHED)
    stops = [int(sets["tokens"]) for _, sets in presses(picture)]
    assert stops.pop() == 64, "and by its dot on the roof"
    near = {2, 4}  # so near to 1 that no hand hits them apart
    assert stops == [tokens for tokens in TOKENS if tokens not in near]


def test_a_measurement_stands_at_its_speed_with_its_numbers():
    """As on an H200: dots that stand close above and beside each other."""
    peak = GPU["matmul_tflops"] * 1e12
    close = [(1090, 0.16), (1020, 0.38), (1900, 0.8), (1670, 0.64)]
    reached = [Reached("x", at, share * peak, by="y") for at, share in close]
    picture = roofline(GPU, LAYER, 1, reached)
    (roof,) = marks(picture, "polyline", "#d55e00")
    decade = (406 - 88) / (4.5 + math.log10(4))
    for i, (at, share) in enumerate(close):
        (dot,) = things(picture, f"measured_{i}")
        height = float(dot.find("{*}circle").get("cy")) - corners(roof)[0, 1]
        assert height == pytest.approx(-decade * math.log10(share), abs=0.02)
        tip = f"x (y): {at:,} FLOP per byte, {si(share * peak, 'FLOP/s')} measured"
        assert dot.findtext("{*}title") == tip
    listed = [row[0] for row in picture.rows][-len(close) :]
    assert listed == ["x, y"] * len(close), "the table has all names"


def test_where_nothing_is_measured_there_is_a_frame_and_no_roof():
    picture = roofline(None, LAYER, 1)
    drawn = texts(picture)
    assert {"FLOP/s", "1 T", "100 M", "10 k", "waits for memory"} - {*drawn} == {"waits for memory"}
    assert not marks(picture, "polyline") and not marks(picture, "polygon", "#0072b2")


# Contenders.


def contest_of(case, where="here", **options):
    return contenders({"one": case}, "one", where=where, **options)


def test_of_many_layers_each_is_pressed_and_has_its_fastest_that_routes():
    cases = {f"case {i}": case for i, case in enumerate(recorded_json("kernels")["cases"])}
    picture = contenders({**cases, "later": None}, "case 1", where="here")
    titles = [sets["case"] for _, sets in presses(picture) if "case" in sets]
    assert titles == [*cases, "later"]
    pressed = [m for m in marks(picture, "g") if "case=" in m.get("data-press", "")]
    assert not any(m.get("data-kin") for m in pressed), "a row under the hand pales no chart"
    listed = [tip for tip in tips(picture) if tip.startswith(("case ", "later"))]
    assert listed[-1] == "later: not measured yet"
    for tip, case in zip(listed, cases.values(), strict=False):
        times = {n: c["both_ms"]["median"] for n, c in case["contenders"].items() if "both_ms" in c}
        assert min(times, key=times.get) in tip
    alone = presses(contest_of(cases["case 1"]))
    assert not [sets for _, sets in alone if "case" in sets], "one layer is no choice"


def test_contenders_that_are_left_out_for_one_reason_are_told_in_one_sentence():
    case = evil_case()
    late = {"not_run": "55% of the budget of 194.122 s was used up"}
    case["contenders"] |= {"one": late, "two": late}
    words = "one, two: not timed, for the time to measure was over before their turn"
    assert words in texts(contest_of(case))
    case["contenders"]["one"] = {"not_run": "would copy 2,473.9 GB of weights"}
    assert "one: not run, would copy 2.47 terabytes of weights" in texts(contest_of(case))


def test_contenders_are_drawn_and_left_out_ones_named():
    case = evil_case()
    picture = contest_of(case, where="here <i>")
    assert "<evil>: not run, <b>why</b>" in texts(picture)
    assert len(picture.rows) == len(case["contenders"])
    empty = contest_of(None)
    assert empty.summary == "Nothing is measured on here yet." and empty.rows == ()
    case["contenders"] = {"slow": {"forward_ms": {"median": 2150.0, "q1": 2077.5, "q3": 12345.0}}}
    assert "2.15 s = 1×" in texts(contest_of(case, timed="forward_ms"))
    assert "slow: timed forward only" in texts(contest_of(case))


def test_a_contender_tells_how_far_it_is_behind():
    def spread(median):
        return {"median": median, "q1": median, "q3": median}

    case = evil_case()
    case["contenders"] = {
        "quick": {"forward_ms": spread(2.0), "both_ms": spread(8.0)},
        "slow <b>": {"forward_ms": spread(5.0)},
    }
    picture = contest_of(case, timed="forward_ms")
    assert [t for t in tips(picture) if "fastest" in t] == [
        "quick: forward 2 ms, the fastest; forward + backward 8 ms, the fastest",
        "slow <b>: forward 5 ms, 2.50 times the fastest",
    ]


def test_the_fastest_that_routes_is_named_and_others_are_compared_with_what_is_pressed():
    case, (spread, *_) = evil_case(), [{"median": 2.0, "q1": 2.0, "q3": 2.0}]
    times = {"dense, small": 1.0, "quick": 2.0, "slow": 5.0}
    case["contenders"] = {
        name: {kind: {**spread, "median": ms} for kind in ("forward_ms", "both_ms")}
        for name, ms in times.items()
    }
    picture = contest_of(case)
    assert "the fastest that routes is quick, 2 ms. slow takes 2.5 times" in picture.summary
    assert {"1 ms · 0.5×", "2 ms = 1×", "5 ms · 2.5×"} <= {*texts(picture)}
    asked = contenders({"one": case}, "one", where="here", against="slow")
    assert {"1 ms · 0.2×", "2 ms · 0.4×", "5 ms = 1×"} <= {*texts(asked)}
    assert [sets["against"] for _, sets in presses(asked)] == [*times], "the fastest first"
    assert contenders({"one": case}, "one", where="here", against="absent") == picture


def test_a_bar_begins_at_the_line_of_its_base_and_its_middle_half_lies_on_its_end():
    case = evil_case()
    case["contenders"] = {
        name: dict.fromkeys(
            ("both_ms", "forward_ms"), {"median": ms, "q1": 0.9 * ms, "q3": 1.2 * ms}
        )
        for name, ms in {"quick": 1.0, DENSE: 2.0, "slow": 8.0}.items()
    }
    picture = contest_of(case)
    assert f"{DENSE} = 1×" in texts(picture), "what experts are compared with"
    assert {"◀ faster", "slower ▶"} <= {*texts(picture)}
    (line,) = {float(m.get("x1")) for m in marks(picture, "line", "stroke-width:2")} & {
        float(m.get("x")) for m in marks(picture, "rect", "#d55e00")
    }
    (quick,), (slow,) = (marks(picture, "rect", colour) for colour in ("#009e73", "#d55e00"))
    left, right = float(quick.get("width")), float(slow.get("width"))
    assert float(quick.get("x")) + left == pytest.approx(line, abs=0.02)
    assert right == pytest.approx(2 * left, abs=0.05), "half as long, and four times as long"
    spread = things(picture, "slow")[0].findall("{*}line")[0]
    assert float(spread.get("x1")) < line + right < float(spread.get("x2"))


def test_what_is_said_of_the_recorded_contest():
    """Forward the loops are alike; backward W[e] costs more the more experts there are, and no
    interpreter was timed."""
    run = recorded_json("kernels")
    assert run["provenance"]["command"].startswith("python -m moeviz experiment kernels")
    ratios = []
    for case in run["cases"]:
        naive, unbound, grouped, triton = (
            case["contenders"][name]
            for name in ("loop over W[e]", "loop over W.unbind()", "grouped_mm", "Triton")
        )
        assert 0.5 < naive["forward_ms"]["median"] / unbound["forward_ms"]["median"] < 2
        ratios.append(naive["both_ms"]["median"] / unbound["both_ms"]["median"])
        assert grouped["both_ms"]["median"] < unbound["both_ms"]["median"]
        assert run["device"]["kind"] == "cuda" or "not_run" in triton
    assert ratios == sorted(ratios) and ratios[-1] > 5


def test_recorded_machines_are_found_and_a_damaged_file_is_none(tmp_path, monkeypatch):
    run = recorded_json("kernels")
    gpu = {**run, "device": {**run["device"], "kind": "cuda", "name": "A GPU"}}
    for name, text in {"layer_gpu": json.dumps(gpu), "kernels": json.dumps(run),
                       "layer_bad": "{", "layer_other": "[1]"}.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_text(text)
    monkeypatch.setattr(recorded, "data_path", lambda *parts: tmp_path)
    names = [name.split(",")[0] for name in recorded.recorded_machines()]
    assert names == ["A GPU", run["device"]["name"].split(",")[0]]
