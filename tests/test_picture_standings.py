"""The table of all routers says what was recorded, no more."""

import pytest

from helpers.picture_cases import arm
from helpers.picture_cases import trained_routers as recorded
from helpers.pictures import parse
from helpers.pictures import texts as texts_of
from moeviz.pictures.static import png
from moeviz.pictures.training.standings import COLUMNS, standings


def test_best_first_with_every_figure_in_the_table():
    picture = standings(
        recorded(
            slow=arm(0.1, 0.3, rate=2.5),
            peeks=arm(-0.4, -0.2, causal=False),
            learns=arm(-0.2, -0.1, causal=False, substitute="greedy outside"),
            plain=arm(-0.15, -0.05),
        )
    )
    assert [row[0] for row in picture.rows] == ["peeks", "learns", "plain", "dense", "slow"]
    assert all(len(row) == len(COLUMNS) for row in picture.rows)
    row = dict(zip(COLUMNS, picture.rows[-1], strict=True))
    assert row["minus dense"] == "0.200 ± 0.141" and row["MaxVio"] == "0.60 ± 0.14"
    assert row["step time / dense"] == "4.00" and row["causal"] == "yes" and row["of"] == 16
    assert [row[-1] for row in picture.rows] == ["no", "outside training", "yes", "yes", "yes"]
    shown = texts_of(parse(picture))
    assert "4.0×" in shown and "20.0 %" in shown and "1.5/16" in shown
    assert shown.count("always") == 1 and shown.count("train") == 1
    assert '2 seeds · 7 steps · 8 <cores> & "more" · 2026-01-01' in shown
    assert png(picture.svg).startswith(b"\x89PNG")


def test_the_summary_counts_seeds_and_passes_over_those_who_see_the_future():
    summary = standings(
        recorded(
            peeks=arm(-0.4, -0.2, causal=False),
            plain=arm(-0.15, -0.05),
            mixed=arm(-0.1, 0.1),
            slow=arm(0.1, 0.3),
        )
    ).summary
    assert "2 of 4 routers beat the dense twin with every seed, and 1 lose" in summary
    assert "is plain, with -0.100 ± 0.071 nats" in summary


@pytest.mark.parametrize("values", [(0.0,), (0.5,), (-1e-9,)])
def test_one_seed_has_no_spread(values):
    picture = standings(recorded(one=arm(*values)))
    assert "±" not in picture.rows[0][2] or picture.rows[0][0] == "dense"
