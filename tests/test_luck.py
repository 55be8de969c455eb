"""Luck along a race: of the seeds' losses at the steps that both learners have reached there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeviz.records.compare import band_of_luck
from moeviz.records.luck import SeedsOfRace, luck_at
from moeviz.records.runs import Curve

STEPS = np.array([25, 50, 75, 100])


def seeds_of_race(seeds=4):
    rng = np.random.default_rng(0)
    return SeedsOfRace(STEPS, *rng.normal(3, 0.1, (2, seeds, len(STEPS))))


def curve(seconds, steps=60):
    """A learner that has come so far, at so many seconds a step."""
    step = np.arange(1.0, steps + 1)
    unknown = np.full(steps, np.nan)
    return Curve(step, seconds * step, 5 * step, unknown, np.zeros((steps, 0, 0)), unknown)


def test_at_equal_steps_luck_is_that_of_the_evaluations():
    seeds = seeds_of_race()
    places, band = zip(*seeds.luck(curve(1.0), curve(1.5), "step"), strict=True)
    assert [*places] == [*STEPS]
    assert [*band] == pytest.approx(band_of_luck(seeds.first_RP - seeds.second_RP))


@given(st.floats(0.3, 3), st.integers(1, 60))
def test_at_equal_seconds_each_learner_is_where_its_pace_takes_it(pace, steps):
    seeds, paces = seeds_of_race(), (1.0, pace)
    luck = seeds.luck(curve(1.0, steps), curve(pace, steps), "seconds")
    gaps = {}
    for place in STEPS * min(paces):  # up to where the faster one ends
        reached = [place / each for each in paces]
        if min(reached) >= STEPS[0] - 1e-9:  # the slower one was evaluated
            gaps[place] = [
                np.interp(reached[0], STEPS, first) - np.interp(reached[1], STEPS, second)
                for first, second in zip(seeds.first_RP, seeds.second_RP, strict=True)
            ]
    assert [place for place, _ in luck] == pytest.approx([*gaps])
    wanted = band_of_luck(np.array([*gaps.values()]).T)
    assert [reach for _, reach in luck] == pytest.approx(wanted)


def test_the_unit_of_an_axis_says_nothing_of_luck():
    """Seconds of a machine that is twice as slow, and FLOPs, of which both need as many."""
    seeds = seeds_of_race()
    fast = seeds.luck(curve(1.0), curve(1.2), "seconds")
    slow = seeds.luck(curve(2.0), curve(2.4), "seconds")
    assert [(2 * place, reach) for place, reach in fast] == pytest.approx(slow)
    by_flops = seeds.luck(curve(1.0), curve(1.2), "flops")
    by_step = seeds.luck(curve(1.0), curve(1.2), "step")
    assert [(place / 5, reach) for place, reach in by_flops] == pytest.approx(by_step)


@pytest.mark.parametrize("second", [curve(1.0, steps=0), curve(99.0)])
def test_without_a_pace_or_an_evaluation_in_reach_nothing_is_known_of_luck(second):
    assert seeds_of_race().luck(curve(1.0), second, "seconds") == []


def test_luck_is_known_from_its_first_place_on():
    luck = [(25.0, 0.4), (75.0, 0.2)]
    assert luck_at(luck, 50) == pytest.approx(0.3)
    assert luck_at(luck, 75) == luck_at(luck, 75.1) == 0.2
    assert np.isnan([luck_at(luck, 24), luck_at([], 24)]).all()
