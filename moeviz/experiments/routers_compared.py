"""What trained routers show together: rates chosen, verdicts, ranks, multipliers.

Numbers in, numbers out: no training. The names are those of runs/routers.json, which
routers_trained describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moeviz.experiments.recording import differences, figures_over, judged, mean_sd
from moeviz.experiments.router_arms import (
    DENSE,
    DENSE_ALL,
    FAIR,
    FAMILIES,
    LONG,
    SETTINGS,
    WRITTEN,
    Setting,
)
from moeviz.records.compare import Spent, multipliers

DRAWS = 2000  # of seeds, with replacement

Figures = dict[str, Any]
# By stage, arm (or steps of the dense twin) and seed; None where training diverged.
Results = dict[str, dict[str, list[Figures | None]]]


def best_rate(losses: Mapping[float, Sequence[float | None]]) -> Figures:
    """The grid of rates, the losses of each (means over seeds; None where a seed diverged), the
    rate chosen, which has the lowest, and whether it is an end of the grid, beyond which a better
    one may lie. ValueError where every rate diverged."""
    grid = list(losses)
    means = [
        None if None in seeds else round(float(np.mean([s for s in seeds if s is not None])), 4)
        for seeds in losses.values()
    ]
    known = {place: loss for place, loss in enumerate(means) if loss is not None}
    if not known:
        raise ValueError(f"Training diverged at every rate of {grid}; give a grid of lower ones.")
    best = min(known, key=known.__getitem__)
    at_edge = best in (0, len(grid) - 1)
    return {"grid": grid, "losses": means, "chosen": grid[best], "at_edge": at_edge}


def best_rates(losses: Mapping[str, Sequence[float | None]]) -> Figures:
    """By scale and family ("rate, scale, family, rate" of each label) its arm, and what best_rate
    says."""
    tried: dict[str, dict[str, dict[float, Sequence[float | None]]]] = {}
    for label, seeds in losses.items():
        _, scale, family, rate = label.split(", ")
        tried.setdefault(scale, {}).setdefault(family, {})[float(rate)] = seeds
    return {
        scale: {name: {"arm": FAMILIES[name]} | best_rate(grid) for name, grid in families.items()}
        for scale, families in tried.items()
    }


def compared(results: Results, rates: Figures, facts: Figures, timing: Figures | None) -> Figures:
    """All of runs/routers.json but its provenance, of the whole seeds that there are; a stage
    without any is left out."""
    there = {stage: runs for stage, runs in results.items() if all(runs.values())}
    tables = {
        name: setting_table(SETTINGS[name], there[name]) for name in SETTINGS if name in there
    }
    figures: Figures = {"rates": rates, "arms": facts, "settings": tables}
    figures["dense_by_steps"] = _dense_by_steps(there)
    if FAIR in tables and WRITTEN in tables:
        figures["changes"] = _changes(tables[FAIR]["arms"], tables[WRITTEN]["arms"])
    if FAIR in tables and LONG in tables:
        figures["order"] = _order(tables[FAIR]["arms"], tables[LONG]["arms"])
    return with_multipliers(figures, timing)


# Tables.


def setting_table(setting: Setting, runs: dict[str, list[Figures | None]]) -> Figures:
    """One setting's table, as the head of routers_trained lists it, but for its multipliers."""
    whole = {arm: [run for run in seeds if run] for arm, seeds in runs.items() if all(seeds)}
    gaps = differences({arm: [run["loss"] for run in seeds] for arm, seeds in whole.items()}, DENSE)
    arms: Figures = {}
    for arm, seeds in whole.items():
        arms[arm] = {name: over([run[name] for run in seeds]) for name in seeds[0]}
        arms[arm]["loss"] = mean_sd([run["loss"] for run in seeds])
        if arm != DENSE:
            arms[arm]["minus_dense"] = _without_seeds(gaps[arm])
    return {
        "steps": setting.steps,
        "scale": setting.scale,
        "seeds": list(range(len(runs[DENSE]))),
        "diverged": [arm for arm in runs if arm not in whole],
        "curve_steps": setting.curve_steps,
        "arms": arms,
    }


def over(values: list[Any]) -> Any:
    """A figure over seeds: mean and spread of a number, the means of a list, and of each pool
    what it is of a number, by seed."""
    if isinstance(values[0], dict):
        return figures_over(values)
    if isinstance(values[0], list):
        return [round(float(mean), 4) for mean in np.mean(values, axis=0)]
    return _without_seeds(mean_sd(values))


def _without_seeds(figure: Figures) -> Figures:
    return {name: value for name, value in figure.items() if name != "values"}


def _values(arms: Figures) -> dict[str, list[float]]:
    return {arm: figures["loss"]["values"] for arm, figures in arms.items()}


def _changes(fair: Figures, written: Figures) -> Figures:
    """By arm the loss at fair scale minus that as written, seed by seed, judged as one table."""
    first, second = _values(fair), _values(written)
    pairs = {}
    for arm in first:
        if arm in second:
            seeds = min(len(first[arm]), len(second[arm]))
            pairs[arm] = first[arm][:seeds], second[arm][:seeds]
    return {arm: _without_seeds(gap) for arm, gap in judged(pairs).items()}


# Orders.


def rank_correlation(first_AN: np.ndarray, second_AN: np.ndarray) -> Figures:
    """Spearman's rank correlation of the arms' mean losses in two tables, and the 95 % interval
    over draws of the seeds, the same in both. One seed leaves no interval."""
    seeds = first_AN.shape[1]
    rho = float(_spearman(first_AN.mean(1, keepdims=True), second_AN.mean(1, keepdims=True))[0])
    low = high = None
    if seeds > 1:
        drawn_RN = np.random.default_rng(0).integers(seeds, size=(DRAWS, seeds))
        rhos_R = _spearman(first_AN[:, drawn_RN].mean(-1), second_AN[:, drawn_RN].mean(-1))
        low, high = (round(float(q), 3) for q in np.quantile(rhos_R, (0.025, 0.975)))
    return {"rho": round(rho, 3), "low": low, "high": high, "arms": len(first_AN)}


def _spearman(first_AR: np.ndarray, second_AR: np.ndarray) -> np.ndarray:
    """Of each column: the correlation of ranks [R]."""
    ranks = (values.argsort(0).argsort(0).astype(float) for values in (first_AR, second_AR))
    first, second = (rank_AR - rank_AR.mean(0) for rank_AR in ranks)
    return (first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0))


def _order(short: Figures, long: Figures) -> Figures:
    first, second = _values(short), _values(long)
    names = [arm for arm in first if arm in second and arm != DENSE_ALL]
    seeds = min(len(first[DENSE]), len(second[DENSE]))
    first_AN, second_AN = (
        np.array([values[arm][:seeds] for arm in names]) for values in (first, second)
    )
    upper = np.argsort(first_AN.mean(1))[: -(-len(names) // 2)]
    return {
        "all": rank_correlation(first_AN, second_AN),
        "upper_half": rank_correlation(first_AN[upper], second_AN[upper]),
    }


# Multipliers.


def _dense_by_steps(results: Results) -> Figures:
    """The dense twin at the end of each length at fair scale, shortest first."""
    runs = dict(results.get("dense by steps", {}))
    for name in (FAIR, LONG):
        if name in results:
            runs[str(SETTINGS[name].steps)] = results[name][DENSE]
    points: Figures = {}
    for steps in sorted(runs, key=int):
        whole = [run for run in runs[steps] if run]
        points[steps] = {
            "loss": mean_sd([run["loss"] for run in whole]),
            "gigaflops_per_step": round(float(whole[0]["gigaflops_per_step"]), 4),
        }
    return points


def with_multipliers(figures: Figures, timing: Figures | None) -> Figures:
    """The figures with the multipliers of every arm in every setting; of the clock where the steps
    have been timed."""
    seconds = timing["seconds"] if timing else {}
    step = seconds.get(DENSE, 1.0)
    twin = [
        Spent(p["loss"]["mean"], int(n) * p["gigaflops_per_step"], int(n) * step)
        for n, p in figures["dense_by_steps"].items()
    ]
    for table in figures["settings"].values():
        own = table["arms"][DENSE]["loss"]["mean"]
        for arm, of_arm in table["arms"].items():
            if arm == DENSE:
                continue
            cost = table["steps"] * np.array(
                [of_arm["gigaflops_per_step"]["mean"], seconds.get(arm, 1.0)]
            )
            gap = of_arm["minus_dense"]
            at, *ends = (
                None if gap[name] is None else multipliers(twin, Spent(own + gap[name], *cost))
                for name in ("mean", "high", "low")
            )
            assert at is not None
            of_arm["multipliers"] = {
                "compute": _rounded(at.compute),
                "interval": [_rounded(None if end is None else end.compute) for end in ends],
                "wall_clock": _rounded(at.time) if arm in seconds else None,
                "why": at.why,
            }
    return figures | ({"timing": timing} if timing else {})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
