"""What is told of weights in fewer bits: of the parts of a model, and of its files."""

from __future__ import annotations

from collections.abc import Iterator

from moeviz.pictures.compression.names import AMOUNTS, Figures
from moeviz.pictures.over_seeds import mean_sd


def told_parts(figures: Figures) -> str:
    """What the bits of single components cost, from runs/quantised.json, weight for weight."""
    costs = {n: rise["loss"] for n, rise in figures["components"].items()}
    weights = figures["weights"]
    shown = ", ".join(
        f"{name.replace('_', ' ')} ({weights[name]:,} weights) {mean_sd(cost, 3, '+')}"
        for name, cost in costs.items()
    )
    each = {name: cost["mean"] / weights[name] for name, cost in costs.items()}
    tender, tough = (pick(each, key=lambda name: each[name]) for pick in (max, min))
    return (
        f"One component alone in {AMOUNTS[figures['probe']]}, nats per token: {shown}. Weight for "
        f"weight the {tender.replace('_', ' ')} suffers most and the {tough.replace('_', ' ')} "
        f"least, some {float(f'{each[tender] / each[tough]:.1g}'):,.0f} times less."
    )


def told_files(figures: Figures) -> Iterator[str]:
    """Each recorded file of the small model, a line each."""
    files = figures["files"]
    first = next(iter(files.values()))
    for form, each in files.items():
        disk, ram = (each["load_seconds"][where]["median"] for where in ("from_disk", "from_ram"))
        yield (
            f"experts in {form:9}{each['bytes'] / 1e6:5.2f} MB, loaded in {disk:.2f} s from the "
            f"disk and {ram:.2f} s from RAM, loss {each['loss'] - first['loss']:+z.3f} nats"
        )
