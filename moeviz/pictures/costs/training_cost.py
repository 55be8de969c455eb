"""What a training run costs: FLOPs by part, then hours, dollars, energy."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
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
from moeviz.pictures.axes import Form, LogScale, Scale, x_axis
from moeviz.pictures.costs.model_parts import PARTS, by_part, count, money, sizes_of
from moeviz.pictures.plot import Key, Stop, box, heading, legend, paragraph, stack, track
from moeviz.pictures.svg import MUTED, RULE, Picture, Svg, three
from moeviz.words import percent

WIDTH, SUM, HEIGHT = 560.0, 340.0, 546.0
LEFT, RIGHT, BARS, PITCH = 146.0, 484.0, 172.0, 27.0  # of the bars and of the tracks over them
THIN = 2.0  # a part of a bar that is too thin for a hand
SEQUENCE = 4096
TRILLIONS = (
    *(0.1, 0.3, 0.6, 1, 2, 3, 5, 7, 8.1, 10, 12, 13, 14.8),
    *(15.6, 18, 20, 22, 25, 28, 32, 36, 40, 50, 70, 100),
)
MFUS = tuple(i / 100 for i in range(5, 101))
PRICES = tuple(i / 10 for i in range(1, 101))
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
    assumed: dict[str, Any] = dict(tokens=tokens, device=device, mfu=mfu,
                                   usd_per_hour=usd_per_hour, watts=watts, pue=pue)  # fmt: skip
    bills = {name: bill_of(name, **assumed) for name in COMPARED}
    own = bills[chosen]
    summary = (
        f"{chosen} on {count(tokens)} tokens: {count(own.device_hours)} hours of {device} at "
        f"{100 * mfu:g} % MFU. That is {money(own.usd)} at ${usd_per_hour:g} an hour, and "
        f"{three(own.kwh / 1e6)} GWh. The final run alone: no staff, no failed runs."
    )
    svg = Svg(WIDTH, HEIGHT, "What training costs", summary)
    note = f"drag a knob, press a model · colours: where the FLOPs go at {SEQUENCE:,} of context"
    heading(svg, f"Every model on {count(tokens)} tokens, on {device}", note)
    _tracks(svg, tokens / 1e12, mfu, usd_per_hour)
    _bars(svg, bills, chosen)
    for i, key in enumerate([*PARTS][:-1]):  # norms and biases cost no FLOPs
        share = by_part(_each(chosen))[key] / _each(chosen).total
        with svg.thing(key.name, tip=f"{key.name}: {percent(share, 1)} of {chosen}'s FLOPs"):
            legend(svg, 168 * (i % 3), 478 + 20 * (i // 3), (_shown(key),))
    note = "Not in it: staff, research, failed runs, data, idle machines. TDP is an upper bound of "
    note += "what a device draws. CO2: the grid of Llama 3.1's card, 0.414 kg a kWh."
    paragraph(svg, 0, 524, textwrap.wrap(note, 80), fill=MUTED)
    _sum(svg.beside(SUM, 410), chosen, own, assumed)
    return svg.picture(COLUMNS, _rows(bills))


def _shown(key: Key) -> Key:
    """Attention is hatched, as the one part that grows with the sequence."""
    return replace(key, hatched=key.name == "attention")


def _tracks(svg: Svg, trillions: float, mfu: float, price: float) -> None:
    """What all models share, each on a line to be dragged. Every second value is a stop: the
    sliders have all."""
    x: Scale = LogScale(TRILLIONS[0], TRILLIONS[-1], LEFT + 20, RIGHT - 20)
    _track(svg, 66, "tokens", x, "tokens", TRILLIONS, trillions, lambda v: f"{v:g}T")
    x = Scale(0, 1, x.start, x.end)
    words = "share of peak (MFU)"
    _track(svg, 98, words, x, "mfu", MFUS[::2], mfu, lambda v: percent(v))
    x = Scale(0, PRICES[-1], x.start, x.end)
    _track(svg, 130, "a device's hour", x, "price", PRICES[1::2], price, lambda v: f"${v:.2f}")


def _track(
    svg: Svg, y: float, words: str, x: Scale, control: str, values: Sequence[float], value: float,
    form: Form,
) -> None:  # fmt: skip
    svg.text(LEFT - 8, y + 4, words, anchor="end")
    stops = [Stop(x(v), f"{words}: {form(v)}", {control: v}) for v in values]
    track(svg, y, stops, x(value))
    svg.text(RIGHT + 7, y + 4, form(value), bold=True)


def _bars(svg: Svg, bills: dict[str, Bill], chosen: str) -> None:
    x = Scale(0, _axis_end(max(b.usd for b in bills.values())), LEFT, RIGHT)
    base = BARS + PITCH * len(bills)
    x_axis(
        svg, x, base, "US dollars of the final run · press a model", top=BARS - 8,
        ticks=x.ticks(4), form=lambda v: money(v) if v else "0",
    )  # fmt: skip
    for i, (name, costs) in enumerate(bills.items()):
        y = BARS + PITCH * i
        bold = name == chosen
        tip, press = f"{name}: {money(costs.usd)}", {"model": name}
        with svg.thing(name, tip=tip, press=press):
            svg.rect(0, y - 2, WIDTH, PITCH - 2, "transparent")
            svg.text(LEFT - 8, y + 15, name, anchor="end", bold=bold)
        length, end = x(costs.usd) - x.start, x.start
        for key, value in by_part(_each(name)).items():
            share = value / _each(name).total
            words, wide = f"{name}, {key.name}: {percent(share, 1)}", length * share
            with svg.thing(key.name, name, tip=words, press=press if wide > THIN else None):
                end = stack(svg, end, y, 21, ((wide, _shown(key), ""),))
        with svg.thing(name, tip=tip, press=press):
            svg.text(end + 7, y + 15, money(costs.usd), bold=bold)


def _axis_end(most: float) -> float:
    """8, 80, 800, ... dollars: the axis stays while the longest bar has room on it and is not tiny,
    so that bars move with tokens, MFU and price."""
    return 8 * 10.0 ** math.ceil(math.log10(most / 8))


def _sum(svg: Svg, chosen: str, own: Bill, assumed: dict[str, Any]) -> None:
    tokens, price, watts, pue = (assumed[n] for n in ("tokens", "usd_per_hour", "watts", "pue"))
    shape, each = sizes_of(chosen), _each(chosen).total
    short = six_n_d_flops(active_parameters(shape).total, 1).total
    lines = {
        "FLOPs a token": f"{_giga(each)} (6 N: {_giga(short)})",
        f"× {count(tokens)} tokens": f"{each * tokens:.3g} FLOPs",
        f"/ (peak × {percent(assumed['mfu'])})": f"{count(own.device_hours)} hours",
        f"× ${price:g} an hour": money(own.usd),
        f"× {watts:g} W × PUE {pue:g}": f"{three(own.kwh / 1e6)} GWh",
        "× 0.414 kg/kWh": f"{own.carbon_kg / 1e3:,.0f} t CO2",
        "with 10,000 devices": f"{three(own.device_hours / 10_000 / 24)} days",
    }
    heading(svg, chosen)
    for i, (name, words) in enumerate(lines.items()):
        svg.text(0, 44 + 22 * i, name, fill=MUTED)
        svg.text(146, 44 + 22 * i, words, bold=name.startswith("× $"))
    y = 44.0 + 22 * len(lines) + 14
    svg.text(0, y, "Published of it", bold=True)
    paragraph(svg, 0, y + 20, _published(chosen, price, watts, pue), 20)
    if setting := published_setting(chosen):
        words = f"{percent(setting['mfu'])} MFU gives about all these hours: set it"
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
        lines += [hours.note] if hours.note else []
        lines.append(f"at this price and power {money(at.usd)}, {three(at.kwh / 1e6)} GWh")
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
        parts = (percent(value / each.total, 1) for value in by_part(each).values())
        sums = (own.device_hours, own.usd, own.kwh / 1e3, own.carbon_kg / 1e3)
        yield name, _giga(each.total), *parts, *(f"{value:,.0f}" for value in sums)
