"""Learning rates: a grid that goes on where its best rate is an end of it."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from moeviz.experiments import rates, recording
from moeviz.training.trainer import NonFiniteLossError

BEST = {"as it is": 15e-3, "lower": 2e-3, "higher": 64e-3, "far away": 1e-5}
GRID = (8e-3, 16e-3, 32e-3)


def far(name, rate):
    return abs(math.log2(rate / BEST[name]))


def settled(losses):
    """The rates that are found, and what was tried for them, turn by turn."""
    turns = []

    def collected(runs):
        turns.append({label: run(0) for label, run in runs.items()})
        return {label: [loss, loss] for label, loss in turns[-1].items()}

    return rates.settled_rates(losses, lambda n, rate: lambda seed: far(n, rate), collected), turns


def test_a_rate_that_is_an_end_of_its_grid_is_looked_for_further_out():
    losses = {rates.label(name, rate): [far(name, rate)] * 2 for name in BEST for rate in GRID}
    found, turns = settled(losses)
    assert {name: rate["chosen"] for name, rate in found.items()} == {
        "as it is": 16e-3, "lower": 2e-3, "higher": 64e-3, "far away": 1e-3,
    }  # fmt: skip
    assert found["lower"]["grid"] == [1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3]
    assert found["higher"]["grid"] == [*GRID, 64e-3, 128e-3]
    assert found["as it is"]["grid"] == [*GRID]
    # It does not go on for ever, and says that it did not come to an end.
    assert len(turns) == rates.FURTHER
    assert [name for name, rate in found.items() if rate["at_edge"]] == ["far away"]


@pytest.mark.parametrize("seeds", [[None, 1.0], [None, None]])
def test_a_rate_at_which_a_seed_diverged_is_not_chosen(seeds):
    losses = {"one at 0.008": [2.0, 2.0], "one at 0.016": [1.9, 2.0], "one at 0.032": seeds}
    found, turns = settled(losses)
    assert found["one"]["chosen"] == 16e-3 and found["one"]["losses"] == [2.0, 1.95, None]
    assert not turns


def test_a_loss_of_zero_is_a_loss():
    found = rates.chosen_rates({"one at 0.008": [0.5], "one at 0.016": [0.0], "one at 1": [0.1]})
    assert found["one"]["losses"] == [0.5, 0.0, 0.1] and found["one"]["chosen"] == 16e-3


def test_what_is_tried_is_told_and_kept_and_a_rate_that_diverges_is_no_choice(
    tmp_path, monkeypatch
):
    """By name: the best rate lies below the grid, and no rate above it leads to a number."""
    monkeypatch.setattr(recording, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    ran, told = [], []

    def tried(name, rate, seed):
        ran.append((name, rate, seed))
        if name == "diverges" and rate > 16e-3:
            raise NonFiniteLossError("the loss is no number")
        if name == "no number" and rate > 16e-3:
            return math.nan
        return far("lower" if name == "lower" else "higher", rate)

    def looked_for():
        names = ("lower", "diverges", "no number")
        return rates.looked_for(
            tmp_path / "some.part", {"code": "", "versions": {}}, dict.fromkeys(names, GRID),
            lambda name, rate: partial(tried, name, rate), 2, lambda *at: told.append(at),
        )  # fmt: skip

    found = looked_for()
    assert found["lower"]["grid"] == [1e-3, 2e-3, 4e-3, *GRID] and found["lower"]["chosen"] == 2e-3
    for name in ("diverges", "no number"):
        assert found[name]["losses"] == [3.0, 2.0, None] and found[name]["chosen"] == 16e-3
    assert told[-1] == (18, 18), "two seeds, three names, three rates"
    assert len(ran) == len({*ran}) == 18 + 3 * 2
    assert looked_for() == found and len(ran) == 24, "nothing is trained twice"
