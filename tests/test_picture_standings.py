"""The table of all routers says what was recorded, no more."""

from xml.etree import ElementTree

import pytest

from moeviz.pictures.static import png
from moeviz.pictures.training.standings import COLUMNS, standings

SVG = "{http://www.w3.org/2000/svg}"


def figure(*values):
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)) ** 0.5
    return {"mean": mean, "sd": spread if len(values) > 1 else None, "values": list(values)}


def arm(*minus_dense, causal=True, substitute="", rate=5.0, **figures):
    return {
        "validation_loss": figure(*(3 + v for v in minus_dense)),
        "loss_minus_dense": figure(*minus_dense),
        "max_violation": figures.get("load", figure(0.5, 0.7)),
        "dead_experts": figure(1, 2),
        "drop_rate": figure(0.1, 0.3),
        "steps_per_second": rate,
        "causal": causal,
        "substitute": substitute,
        "experts": 16,
    }


def recorded(**arms):
    dense = {k: v for k, v in arm(0.0, 0.0, rate=10.0).items() if k not in ("causal", "experts")}
    return {
        "provenance": {"device": "2 <cores>", "date": "2026-01-01"},
        "steps": 7,
        "arms": {"dense": dense, **arms},
    }


def texts(picture):
    return [t.text for t in ElementTree.fromstring(picture.svg).iter(f"{SVG}text")]


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
    shown = texts(picture)
    assert "4.0×" in shown and "20.0 %" in shown and "1.5/16" in shown
    assert shown.count("always") == 1 and shown.count("train") == 1
    assert "2 seeds · 7 steps · 2 <cores> · 2026-01-01" in shown
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
    ElementTree.fromstring(picture.svg)
