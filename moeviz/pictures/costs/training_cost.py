"""What a training run costs: FLOPs by part, then hours, dollars, energy."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from moeviz.costs import (
    DEVICES,
    MODELS,
    Bill,
    Total,
    active_parameters,
    bill,
    hours_bill,
    parameters,
    six_n_d_flops,
    training_flops_per_token,
)
from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.costs.model_parts import PARTS, by_part, count, money, sizes_of
from moeviz.pictures.plot import Key, box, heading, legend, paragraph, stack
from moeviz.pictures.svg import MUTED, RULE, Picture, Svg

WIDTH, SUM, HEIGHT = 560.0, 340.0, 486.0
SEQUENCE = 4096
COMPARED = (
    "GPT-3 175B", "Llama 3.1 405B", "GLaM 64B/64E", "Mixtral 8x22B", "DeepSeek-V3 / R1",
    "Kimi K2", "Qwen3-235B-A22B", "gpt-oss-120b", "DeepSeek-V4-Pro",
)  # fmt: skip
SUMS = ("device hours", "USD", "MWh", "t CO2")
COLUMNS = ("model", "FLOPs a token", *(key.name for key in PARTS), *SUMS)


@lru_cache(maxsize=64)
def _each(name: str) -> Total:
    return training_flops_per_token(sizes_of(name), SEQUENCE)


def bill_of(
    name: str, *, tokens: float, device: str, mfu: float, usd_per_hour: float, watts: float,
    pue: float,
) -> Bill:  # fmt: skip
    """The bill of one model of COMPARED under these assumptions."""
    return bill(
        _each(name).total * tokens,
        peak_flops_per_s=DEVICES[device].bf16_flops_per_s,
        utilisation=mfu,
        usd_per_hour=usd_per_hour,
        watts=watts,
        pue=pue,
    )


def training_cost(
    *, chosen: str, tokens: float, device: str, mfu: float, usd_per_hour: float, watts: float,
    pue: float,
) -> Picture:  # fmt: skip
    """All models on the same tokens at the same price, split by where the FLOPs go; the chosen
    one's sum line by line, beside what was published of it."""
    assumed = dict(tokens=tokens, device=device, mfu=mfu, usd_per_hour=usd_per_hour,
                   watts=watts, pue=pue)  # fmt: skip
    bills = {name: bill_of(name, **assumed) for name in COMPARED}  # type: ignore[arg-type]
    own = bills[chosen]
    summary = (
        f"{chosen} on {count(tokens)} tokens: {count(own.device_hours)} hours of {device} at "
        f"{100 * mfu:g} % MFU. That is {money(own.usd)} at ${usd_per_hour:g} an hour, and "
        f"{own.kwh / 1e6:.3g} GWh. The final run alone: no staff, no failed runs."
    )
    svg = Svg(WIDTH, HEIGHT, "What training costs", summary)
    heading(svg, f"Every model on {count(tokens)} tokens, on {device}",
            f"colours: where the FLOPs go, in sequences of {SEQUENCE:,} tokens")  # fmt: skip
    _bars(svg, bills, chosen)
    for i, key in enumerate([*PARTS][:-1]):  # norms and biases cost no FLOPs
        share = by_part(_each(chosen))[key] / _each(chosen).total
        with svg.thing(key.name, tip=f"{key.name}: {100 * share:.1f} % of {chosen}'s FLOPs"):
            legend(svg, 168 * (i % 3), 400 + 20 * (i // 3), (_shown(key),))
    note = "Not in it: staff, research, failed runs, data, idle machines. TDP is an upper bound of "
    note += "what a device draws. CO2: the grid of Llama 3.1's card, 0.414 kg a kWh."
    paragraph(svg, 0, 456, textwrap.wrap(note, 80), fill=MUTED)
    _sum(svg.beside(SUM, 410), chosen, own, tokens, usd_per_hour, watts, pue)
    return svg.picture(COLUMNS, _rows(bills))


def _shown(key: Key) -> Key:
    """Attention is hatched, as the one part that grows with the sequence."""
    return replace(key, hatched=key.name == "attention")


def _bars(svg: Svg, bills: dict[str, Bill], chosen: str) -> None:
    x = Scale(0, _axis_end(max(b.usd for b in bills.values())), 146, 484)
    base = 62.0 + 30 * len(bills)
    x_axis(
        svg, x, base, "US dollars of the final run", top=52, ticks=x.ticks(4),
        form=lambda v: money(v) if v else "0",
    )  # fmt: skip
    for i, (name, costs) in enumerate(bills.items()):
        y = 58.0 + 30 * i
        bold = name == chosen
        press = {"model": name}
        with svg.thing(name, tip=f"{name}: {money(costs.usd)}", press=press):
            svg.text(138, y + 15, name, anchor="end", bold=bold)
        length, end = x(costs.usd) - x.start, x.start
        for key, value in by_part(_each(name)).items():
            share = value / _each(name).total
            with svg.thing(
                key.name, name, tip=f"{name}, {key.name}: {100 * share:.1f} %", press=press
            ):
                end = stack(svg, end, y, 21, ((length * share, _shown(key), ""),))
        with svg.thing(name):
            svg.text(end + 7, y + 15, money(costs.usd), bold=bold)


def _axis_end(most: float) -> float:
    """8, 80, 800, ... dollars: the axis stays while the longest bar has room on it and is not tiny,
    so that bars move with tokens, MFU and price."""
    return 8 * 10.0 ** math.ceil(math.log10(most / 8))


def _sum(
    svg: Svg, chosen: str, own: Bill, tokens: float, price: float, watts: float, pue: float
) -> None:
    shape, each = sizes_of(chosen), _each(chosen).total
    short = six_n_d_flops(active_parameters(shape).total, 1).total
    lines = {
        "FLOPs a token": f"{_giga(each)} (6 N: {_giga(short)})",
        "× tokens": f"{each * tokens:.3g} FLOPs",
        "/ (peak × MFU)": f"{count(own.device_hours)} hours",
        f"× ${price:g}": money(own.usd),
        f"× {watts:g} W × PUE {pue:g}": f"{own.kwh / 1e6:.3g} GWh",
        "× 0.414 kg/kWh": f"{own.carbon_kg / 1e3:,.0f} t CO2",
        "with 10,000 devices": f"{own.device_hours / 10_000 / 24:.3g} days",
    }
    heading(svg, chosen)
    for i, (name, words) in enumerate(lines.items()):
        svg.text(0, 44 + 22 * i, name, fill=MUTED)
        svg.text(146, 44 + 22 * i, words, bold=name.startswith("× $"))
    y = 44.0 + 22 * len(lines) + 14
    svg.text(0, y, "Published of it", bold=True)
    paragraph(svg, 0, y + 20, _published(chosen, price, watts, pue), 20)
    if setting := published_setting(chosen):
        words = f"{100 * setting['mfu']:.0f} % MFU gives about these hours: set it"
        with svg.thing(tip="Take the published tokens, device and hours", press=setting):
            box(svg, 1, y + 111, 290, 26, "none", words, radius=6, stroke=RULE)
    y += 20 * 8
    everything, met = parameters(shape).total, active_parameters(shape).total
    svg.text(0, y, "If every parameter met every token", bold=True)
    dense = 6 * (everything - met)
    times = f"{(each + dense) / each:.3g} times the FLOPs and the bill"
    svg.text(0, y + 20, times if dense else "they do: it is dense")


def _giga(value: float) -> str:
    return f"{value / 1e9:,.4g} G" if value < 1e12 else f"{value / 1e9:,.0f} G"


def _published(chosen: str, price: float, watts: float, pue: float) -> list[str]:
    """What its makers say, each figure with how far it can be trusted."""
    model = MODELS[chosen]
    lines = []
    if model.tokens is not None:
        lines.append(f"{count(model.tokens.value)} tokens ({model.tokens.confidence})")
    if model.device_hours is not None:
        hours = model.device_hours
        lines.append(f"{count(hours.value)} hours of {model.device} ({hours.confidence})")
        at = hours_bill(hours.value, usd_per_hour=price, watts=watts, pue=pue)
        lines.append(f"which are {money(at.usd)} at this price,")
        lines.append(f"{at.kwh / 1e6:.3g} GWh at this power")
    if model.usd is not None:
        lines.append(f"{money(model.usd.value)} ({model.usd.confidence})")
    return lines or ["neither tokens nor hours"]


def published_setting(name: str) -> dict[str, Any] | None:
    """The panel's tokens (trillions), device and MFU that give a model its published hours; None
    where tokens, hours or the device's peak are not known."""
    model = MODELS[name]
    if model.tokens is None or model.device_hours is None or model.device not in DEVICES:
        return None
    flops = _each(name).total * model.tokens.value
    peak = DEVICES[model.device].bf16_flops_per_s * 3600 * model.device_hours.value
    trillions = model.tokens.value / 1e12
    return {"tokens": trillions, "device": model.device, "mfu": round(flops / peak, 2)}


def _rows(bills: dict[str, Bill]) -> Iterator[tuple[object, ...]]:
    for name, own in bills.items():
        each = _each(name)
        parts = (f"{100 * value / each.total:.1f} %" for value in by_part(each).values())
        sums = (own.device_hours, own.usd, own.kwh / 1e3, own.carbon_kg / 1e3)
        yield name, _giga(each.total), *parts, *(f"{value:,.0f}" for value in sums)
