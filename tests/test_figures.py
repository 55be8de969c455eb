"""Figures for print: they hold the recorded numbers, and grey paper and any press can take them."""

import io
from functools import partial

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

from helpers.comparisons import made_capacity, made_collapse
from helpers.picture_cases import CURED, SWEEP, make_gpu_run, seeds
from helpers.recorded_routers import PROVENANCE, routers, routers_longer, scale
from moeviz import figures
from moeviz.experiments.router_arms import FAIR, LONG, WRITTEN, arms
from moeviz.host import data_path
from moeviz.pictures.over_seeds import VERDICTS
from moeviz.pictures.printed import comparisons, speed, training
from moeviz.pictures.routing.limits import POOLS
from moeviz.records.runs import load_snapshots

GAPS = {name: 0.1 * (i % 7 - 3) for i, name in enumerate(arms())}
DOUBLE = {name: 2 * gap for name, gap in GAPS.items()}
ROUTERS = routers({FAIR: GAPS, WRITTEN: DOUBLE, LONG: GAPS}, noise=0.02)
COLLAPSE = made_collapse(5, losses={"sign bias": -0.3}, violations={"noise 1": 9.0})
CAPACITY = made_capacity(3, costs={("factor 1", "domain"): 0.25})


def contest():
    """Two numbers of tokens of one layer, the larger first; one contender did not run in it."""
    cases = []
    for tokens in (8192, 1024):
        times = {
            name: {
                kind: {"median": ms * tokens, "q1": 0.5 * ms * tokens, "q3": 2 * ms * tokens}
                for kind, ms in (("forward_ms", 1e-3 * (i + 1)), ("both_ms", 3e-3 * (i + 1)))
            }
            for i, name in enumerate(("triton", "dense", "loop"))
        }
        shape = {"name": f"A-{tokens}", "tokens": tokens, "d_model": 64, "d_expert": 32,
                 "num_experts": 8, "top_k": 2}  # fmt: skip
        cases.append({"shape": shape, "routing": "uniform", "contenders": times})
    cases[0]["contenders"]["loop"] = {"not_run": "too slow"}
    device = {"name": "A GPU", "dtype": "bfloat16"}
    return {"provenance": PROVENANCE, "device": device, "cases": cases}


MADE = {
    "routers": partial(comparisons.routers, ROUTERS),
    "routers of one seed": partial(comparisons.routers, routers(GAPS, seeds=1)),
    "routers of which one diverged": partial(
        comparisons.routers, routers(GAPS, settings=(FAIR,), diverged=("Switch",))
    ),
    "fair and as written": partial(comparisons.fair_and_written, ROUTERS),
    "lengths": partial(comparisons.lengths, ROUTERS, routers_longer(GAPS)),
    "lengths of one seed": partial(
        comparisons.lengths, routers(GAPS, seeds=1), routers_longer(GAPS, seeds=1)
    ),
    "output scale": partial(comparisons.output_scale, scale()),
    "output scale of two seeds": partial(comparisons.output_scale, scale(seeds=2)),
    "output scale of one seed": partial(comparisons.output_scale, scale(seeds=1)),
    "collapse": partial(training.collapse, COLLAPSE),
    "collapse of one seed": partial(training.collapse, made_collapse(1)),
    "capacity": partial(training.capacity, CAPACITY),
    "capacity of one seed": partial(training.capacity, made_capacity(1)),
    "race": partial(training.race, seeds(), PROVENANCE),
    "kernels": partial(speed.kernels, contest()),
    "a race on a GPU": partial(training.at_scale, "gpu_race", make_gpu_run(("dense", "MoE"))),
    "more experts": partial(training.at_scale, "gpu_experts", make_gpu_run(SWEEP, seeds=1)),
    "cures on a GPU": partial(training.at_scale, "gpu_collapse", make_gpu_run(CURED, seeds=1)),
}
SHIPPED = {
    "routers": figures.routers, "collapse": figures.collapse, "capacity": figures.capacity,
    "routers_longer": figures.lengths, "race": figures.race,
    "layer_h200": figures.kernels, "scale": figures.output_scale,
    **{name: partial(figures.at_scale, name) for name in ("gpu_race", "gpu_experts")},
    "gpu_collapse": partial(figures.at_scale, "gpu_collapse"),
}  # fmt: skip
SHIPPED = {n: draw for n, draw in SHIPPED.items() if (data_path("runs") / f"{n}.json").exists()}
EVERY = MADE | {f"{name}, recorded": draw for name, draw in SHIPPED.items()}


def rows(axes):
    """The marks of rows from top to bottom: y, x, the ends of the bar (none: no bar), the mark."""
    found = []
    for mark, _, bars in axes.containers:
        ends = bars[0].get_segments()[0][:, 0].tolist() if bars else []
        face = mark.get_markerfacecolor()
        found.append((mark.get_ydata()[0], mark.get_xdata()[0], ends, mark.get_marker(), face))
    return sorted(found, key=lambda row: row[0])


def names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def ticks(axes):
    """The small marks of seeds, row by row."""
    return [line.get_xdata() for line in axes.get_lines() if line.get_marker() == "|"]


def look(line):
    """All that grey paper keeps of a line: its mark, whether it is hollow, its dashes."""
    return line.get_marker(), line.get_markerfacecolor() == "white", line._dash_pattern


def assert_gap(row, gap):
    _, mean, ends, *_ = row
    np.testing.assert_allclose([mean, *ends], [gap["mean"], gap["low"], gap["high"]], atol=2e-4)


# What all figures have in common.


def settings():
    """All of matplotlib's, as they stand: to ask rcParams for the backend would choose one."""
    return dict(dict.items(matplotlib.rcParams))


def check_pdf(figure):
    """Text stays text."""
    file = io.BytesIO()
    figure.savefig(file, format="pdf")
    assert b"/CIDFontType2" in file.getvalue() and b"/Type3" not in file.getvalue()


def check_no_words_meet_or_leave_the_sheet(figure):
    figure.draw_without_rendering()
    texts = set(figure.findobj(lambda one: isinstance(one, Text) and one.get_visible()))
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        places = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)  # shared
        texts -= {label for place, label in places if not low <= place <= high}
    boxes = [(t.get_text(), t.get_window_extent().padded(-1)) for t in texts if t.get_text()]
    whole = figure.bbox.padded(1)
    for i, (words, box) in enumerate(boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, words
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, words
        for other, there in boxes[i + 1 :]:
            assert not box.overlaps(there), (words, other)


def check_grey_paper_tells_all_series_apart(figure):
    (legend,) = figure.legends
    looks = [look(line) for line in legend.get_lines()]
    for i, one in enumerate(looks):
        assert one not in looks[i + 1 :]


def check_units_and_seeds(figure):
    for axes in figure.axes:
        words = axes.get_xlabel() + axes.get_ylabel()
        assert any(u in words for u in ("nats", "milliseconds", "MaxVio", "share")), words
    words = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "seed" in words or "quartiles" in words
    assert "recorded on" in words


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_can_be_printed_and_no_setting_of_the_reader_changes(name):
    before = settings()
    figure = EVERY[name]()
    assert settings() == before
    check_no_words_meet_or_leave_the_sheet(figure)
    check_grey_paper_tells_all_series_apart(figure)
    check_units_and_seeds(figure)
    if name in MADE:  # of recorded figures only the numbers are others
        check_pdf(figure)
        assert settings() == before


def test_what_is_not_recorded_is_told():
    with pytest.raises(FileNotFoundError, match='"runs/nothing.json" .* is missing'):
        figures.kernels("nothing")
    with pytest.raises(ValueError, match="'as written 300' is not recorded"):
        comparisons.fair_and_written(routers(GAPS, settings=(FAIR,)))


# What each shows.


def test_routers_stand_by_their_loss_with_interval_and_verdict():
    table = ROUTERS["settings"][FAIR]["arms"]
    (axes,) = comparisons.routers(ROUTERS).axes
    shown = [name.removesuffix(" †").removesuffix(" ‡") for name in names(axes)]
    assert sorted(shown) == sorted(set(table) - {"dense"})
    for i, (arm, row) in enumerate(zip(shown, rows(axes), strict=True)):
        gap = table[arm]["minus_dense"]
        assert_gap(row, gap)
        colour, mark = VERDICTS[gap["verdict"]]
        face = "white" if mark == "ring" else colour
        assert row[3:] == ("s" if mark == "square" else "o", face)
        base = table["dense"]["loss"]["values"]
        seeds = np.subtract(table[arm]["loss"]["values"], base)
        np.testing.assert_allclose(ticks(axes)[i], seeds, atol=2e-4)
    means = [row[1] for row in rows(axes)]
    assert means == sorted(means)
    assert {"expert choice †", "BASE ‡", "Switch"} <= set(names(axes))


def test_two_seeds_do_not_stretch_the_axis():
    (axes,) = comparisons.routers(routers(GAPS, seeds=2)).axes
    low, high = axes.get_xlim()
    assert min(ends[0] for _, _, ends, *_ in rows(axes)) < low < 0 < high < 1


def test_one_seed_has_a_mark_and_no_bar():
    (axes,) = comparisons.routers(routers(GAPS, seeds=1)).axes
    assert not any(ends for _, _, ends, *_ in rows(axes))


def test_what_diverged_is_named():
    figure = MADE["routers of which one diverged"]()
    assert "diverged: Switch" in figure._supxlabel.get_text()
    assert "Switch" not in names(figure.axes[0])


def test_each_router_stands_twice_as_written_above_fair():
    (axes,) = comparisons.fair_and_written(ROUTERS).axes
    found = rows(axes)
    for i, arm in enumerate(names(axes)):
        for row, setting in zip(found[2 * i : 2 * i + 2], (WRITTEN, FAIR), strict=True):
            assert_gap(row, ROUTERS["settings"][setting]["arms"][arm]["minus_dense"])
        assert found[2 * i][4] == "white" != found[2 * i + 1][4]
    changes = [float(t.get_text().split()[0]) for t in axes.texts if t.get_text()[0] in "+-"]
    assert changes == sorted(changes) and len(changes) == len(names(axes))


def test_the_output_scale_has_a_line_an_arm():
    recorded = scale()
    (axes,) = comparisons.output_scale(recorded).axes
    for (line, _, (bars,)), arm in zip(axes.containers, recorded["arms"].values(), strict=True):
        points = sorted(arm["points"], key=lambda point: point["scale"])
        gaps = [point["minus_dense"] for point in points]
        assert line.get_xdata().tolist() == [point["scale"] for point in points]
        assert line.get_ydata().tolist() == [gap["mean"] for gap in gaps]
        ends = [segment[:, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [[g["low"], g["high"]] for g in gaps], atol=2e-4)
    rings = [line for line in axes.get_lines() if line.get_markersize() == 10]
    written = [arm["as_written"]["scale"] for arm in recorded["arms"].values()]
    assert [ring.get_xdata()[0] for ring in rings] == written


def test_every_cure_has_its_balance_and_two_differences():
    balance, *losses = training.collapse(COLLAPSE).axes
    arms = [COLLAPSE["arms"][name] for name in names(balance)]
    layers = [figure for arm in arms[1:] for figure in arm["training"]["max_violation"]]
    for (_, mean, ends, *_), figure in zip(rows(balance), layers, strict=True):
        wanted = [figure["mean"] + sign * figure["sd"] for sign in (0, -1, 1)]
        np.testing.assert_allclose([mean, *ends], wanted)
    for axes, minus, base in zip(losses, ("dense", "nothing"), (0, 1), strict=True):
        found = {round(row[0]): row for row in rows(axes)}
        assert set(found) == set(range(len(arms))) - {base}
        for y, row in found.items():
            assert_gap(row, arms[y][f"loss_minus_{minus}"])


def test_a_limit_has_its_cost_by_pool_and_open_marks_are_empty():
    cost, alone = training.capacity(CAPACITY).axes
    limits = [CAPACITY["limits"][name] for name in names(cost)]
    assert "no limit" not in names(cost)
    gaps = [limit[f"cost_{pool}"] for limit in limits for pool in POOLS]
    assert {gap["verdict"] for gap in gaps} == {"open", "higher"}
    for row, gap in zip(rows(cost), gaps, strict=True):
        assert_gap(row, gap)
        assert (row[4] == "white") == (gap["verdict"] == "open")
    for row, limit in zip(rows(alone), limits, strict=True):
        assert_gap(row, limit["loss_minus_no_limit"])


@pytest.mark.parametrize("axis", ["step", "flops"])
def test_lines_of_a_race_are_the_means_over_seeds(axis):
    recorded = load_snapshots(data_path("runs", "race.safetensors"))[0]
    (axes,) = figures.race(axis).axes
    for label, line in zip(("dense", "MoE"), axes.get_lines(), strict=True):
        curves = [s.curve for s in recorded if s.label == label]
        measured = ~np.isnan(curves[0].validation)
        np.testing.assert_allclose(line.get_xdata(), getattr(curves[0], axis)[measured])
        mean = np.mean([c.validation[measured] for c in curves], axis=0)
        np.testing.assert_allclose(line.get_ydata(), mean)
    with pytest.raises(ValueError, match="axis must be 'step' or 'flops', got 'seconds'"):
        figures.race("seconds")


def test_times_stand_by_layer_and_tokens():
    panels = speed.kernels(contest()).axes
    assert [name.partition("\n")[0] for name in names(panels[0])] == [
        "A, 1,024 tokens", "A, 8,192 tokens",
    ]  # fmt: skip
    for axes, one in zip(panels, (1e-3, 3e-3), strict=True):
        medians = [one * n for n in (1024, 2048, 3072, 8192, 16384)]
        found = rows(axes)
        np.testing.assert_allclose([row[1] for row in found], medians)
        np.testing.assert_allclose([row[2] for row in found], [[m / 2, 2 * m] for m in medians])


def test_a_training_on_a_gpu_is_shown_from_its_later_part():
    recorded = make_gpu_run(("dense", "MoE"), seeds=3)
    loss, effect = training.at_scale("gpu_race", recorded).axes
    for arm, line in zip(recorded["arms"].values(), loss.get_lines(), strict=True):
        runs = np.array(arm["validation_curve"])
        late = runs[0, :, 0] >= 0.3 * recorded["steps"]
        np.testing.assert_allclose(line.get_xdata() * 1e6, runs[0, late, 0] * 32768)
        np.testing.assert_allclose(line.get_ydata(), runs.mean(0)[late, 1])
    (line,) = effect.get_lines()
    share = np.array(recorded["arms"]["MoE"]["effective_curve"])[0, :, 1] / 16
    np.testing.assert_allclose(line.get_ydata(), share)
