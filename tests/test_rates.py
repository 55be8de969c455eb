"""Learning rates: a grid that goes on where its best rate is an end of it."""

import math

import pytest

from moeviz.experiments import rates

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
