"""What a training run costs: FLOPs by part, then hours, dollars, energy."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from moeviz.checks import check_choice
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
from moeviz.pictures.svg import INK, MUTED, RULE, SMALLEST, Picture, Svg, text_width, three
from moeviz.words import percent

WIDTH, SUM, HEIGHT = 560.0, 380.0, 566.0
LEFT, RIGHT, BARS, PITCH = 146.0, 484.0, 202.0, 27.0  # of the tracks, and where the bars begin
DOLLARS, SHARES, END = 146.0, 384.0, 554.0  # where the bars of dollars and those of shares begin
ROOM = 150.0  # for the longest bar of dollars
THIN = 2.0  # a part of a bar that is too thin for a hand
DOLLAR = "#6e6e6e"
TOLD = {"sum": "the sum", "power": "power, carbon", "published": "published"}
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
    pue: float, beside: str = "sum",
) -> Picture:  # fmt: skip
    """All models on the same tokens at the same price, and where the FLOPs of each go. beside: of
    TOLD, what is told of the chosen one: its sum line by line, its power, or what was published
    of it."""
    check_choice("beside", beside, TOLD)
    assumed: dict[str, Any] = dict(tokens=tokens, device=device, mfu=mfu,
                                   usd_per_hour=usd_per_hour, watts=watts, pue=pue)  # fmt: skip
    bills = {name: bill_of(name, **assumed) for name in COMPARED}
    own = bills[chosen]
    other = _compared_with(bills, chosen)
    times = bills[other].usd / own.usd
    more = f"{times:.3g} times as much" if times >= 1 else f"{percent(times)} of that"
    finding = f"{chosen}: {money(own.usd)}. {other}: {more}."
    summary = (
        f"On {count(tokens)} tokens {chosen} takes {count(own.device_hours)} hours of {device}. At "
        f"${usd_per_hour:g} an hour that is {money(own.usd)}. {other} takes {more}. "
        "The final run alone: no staff, no failed runs."
    )
    svg = Svg(WIDTH, HEIGHT, "What training costs", summary)
    heading(svg, f"What would {count(tokens)} tokens cost, and where do the FLOPs go?")
    svg.text(0, 38, finding, bold=True)
    svg.text(0, 57, f"on {device} · drag a knob, press a model", fill=MUTED)
    _tracks(svg, tokens / 1e12, mfu, usd_per_hour)
    _bars(svg, bills, chosen)
    for i, key in enumerate([*PARTS][:-1]):  # norms and biases cost no FLOPs
        share = by_part(_each(chosen))[key] / _each(chosen).total
        with svg.thing(key.name, tip=f"{key.name}: {percent(share, 1)} of {chosen}'s FLOPs"):
            legend(svg, 168 * (i % 3), 496 + 20 * (i // 3), (_shown(key),))
    note = "Not in it: staff, research, failed runs, data, idle machines. The final run alone."
    paragraph(svg, 0, 544, textwrap.wrap(note, 82), fill=MUTED)
    _of_one(svg.beside(SUM, 300), chosen, own, assumed, beside)
    return svg.picture(COLUMNS, _rows(bills))


def _compared_with(bills: dict[str, Bill], chosen: str) -> str:
    """The dearest model, or, of the dearest itself, the cheapest."""
    dearest = max(bills, key=lambda name: bills[name].usd)
    return dearest if dearest != chosen else min(bills, key=lambda name: bills[name].usd)


def _shown(key: Key) -> Key:
    """Attention is hatched, as the one part that grows with the sequence."""
    return replace(key, hatched=key.name == "attention")


def _tracks(svg: Svg, trillions: float, mfu: float, price: float) -> None:
    """What all models share, each on a line to be dragged. Every second value is a stop: the
    sliders have all."""
    x: Scale = LogScale(TRILLIONS[0], TRILLIONS[-1], LEFT + 20, RIGHT - 20)
    _track(svg, 86, "tokens", x, "tokens", TRILLIONS, trillions, lambda v: f"{v:g}T")
    shares, prices = MFUS[::2], PRICES[1::2]
    x = Scale(shares[0], shares[-1], x.start, x.end)
    _track(svg, 118, "share of peak (MFU)", x, "mfu", shares, mfu, lambda v: percent(v))
    x = Scale(prices[0], prices[-1], x.start, x.end)
    _track(svg, 150, "a device's hour", x, "price", prices, price, lambda v: f"${v:.2f}")


def _track(
    svg: Svg, y: float, words: str, x: Scale, control: str, values: Sequence[float], value: float,
    form: Form,
) -> None:  # fmt: skip
    svg.text(LEFT - 8, y + 4, words, anchor="end")
    stops = [Stop(x(v), f"{words}: {form(v)}", {control: v}) for v in values]
    track(svg, y, stops, x(value))
    svg.text(RIGHT + 7, y + 4, form(value), bold=True)


def _bars(svg: Svg, bills: dict[str, Bill], chosen: str) -> None:
    """Dollars, and beside them, all of one width, where the FLOPs go."""
    x = Scale(0, _axis_end(max(b.usd for b in bills.values())), DOLLARS, DOLLARS + ROOM)
    base = BARS + PITCH * len(bills)
    svg.text(DOLLARS, BARS - 12, "dollars of the final run")
    svg.text(SHARES, BARS - 12, "where its FLOPs go")
    x_axis(svg, x, base, top=BARS - 4, ticks=x.ticks(2), form=lambda v: money(v) if v else "0")
    for i, (name, costs) in enumerate(bills.items()):
        y = BARS + PITCH * i
        bold = name == chosen
        tip, press = f"{name}: {money(costs.usd)}", {"model": name}
        with svg.thing(name, tip=tip, press=press):
            svg.rect(1, y - 2, WIDTH - 2, PITCH - 1, "transparent")
            if bold:
                svg.rect(1, y - 2, WIDTH - 2, PITCH - 1, "none", stroke=INK, radius=4)
            svg.text(LEFT - 8, y + 15, name, anchor="end", bold=bold)
            end = x(costs.usd)
            svg.rect(x.start, y + 3, end - x.start, 15, DOLLAR)
            svg.text(end + 7, y + 15, money(costs.usd), bold=bold)
        at = SHARES
        for key, value in by_part(_each(name)).items():
            if not value:
                continue
            share = value / _each(name).total
            words, wide = f"{name}, {key.name}: {percent(share, 1)}", (END - SHARES) * share
            with svg.thing(key.name, name, tip=words, press=press if wide > THIN else None):
                at = stack(svg, at, y + 1, 19, ((wide, _shown(key), ""),))


def _axis_end(most: float) -> float:
    """8, 80, 800, ... dollars: the axis stays while the longest bar has room on it and is not tiny,
    so that bars move with tokens, MFU and price."""
    return 8 * 10.0 ** math.ceil(math.log10(most / 8))


def _of_one(svg: Svg, chosen: str, own: Bill, assumed: dict[str, Any], beside: str) -> None:
    """What is told of the chosen model, and the buttons that choose it."""
    heading(svg, chosen)
    x = 1.0
    for name, words in TOLD.items():
        wide = text_width(words, SMALLEST) + 20
        with svg.thing(tip=f"Show {words}", press={"beside": name}):
            colour, edge = ("#0072b2", "#0072b2") if name == beside else ("none", RULE)
            box(svg, x, 28, wide, 26, colour, words, bold=name == beside, radius=6, stroke=edge)
        x += wide + 8
    if beside == "published":
        return _what_is_published(svg, chosen, assumed)
    lines = _sum(chosen, own, assumed) if beside == "sum" else _power(own, assumed)
    for i, (name, words) in enumerate(lines.items()):
        svg.text(0, 84 + 22 * i, name, fill=MUTED)
        svg.text(146, 84 + 22 * i, words, bold=i == len(lines) - 1)
    y = 84 + 22 * len(lines) + 10
    if beside == "power":
        note = "The watts are a device's TDP, an upper bound; the rest of a server is not in it. "
        note += "CO2 by the grid of Llama 3.1's card."
        return paragraph(svg, 0, y, textwrap.wrap(note, 54), fill=MUTED)
    shape = sizes_of(chosen)
    everything, met = parameters(shape).total, active_parameters(shape).total
    each, dense = _each(chosen).total, 6 * (everything - met)
    times = f"{(each + dense) / each:.3g} times the FLOPs and the bill"
    svg.text(0, y, "If every parameter met every token", bold=True)
    svg.text(0, y + 20, times if dense else "they do: it is dense")


def _sum(chosen: str, own: Bill, assumed: dict[str, Any]) -> dict[str, str]:
    """From the FLOPs of a token to dollars."""
    tokens, price = assumed["tokens"], assumed["usd_per_hour"]
    each = _each(chosen).total
    short = six_n_d_flops(active_parameters(sizes_of(chosen)).total, 1).total
    return {
        "FLOPs a token": f"{_giga(each)} (6 × active: {_giga(short)})",
        f"× {count(tokens)} tokens": f"{each * tokens:.3g} FLOPs",
        f"/ (peak × {percent(assumed['mfu'])})": f"{count(own.device_hours)} hours",
        f"× ${price:g} an hour": money(own.usd),
    }


def _power(own: Bill, assumed: dict[str, Any]) -> dict[str, str]:
    """What the hours draw and give off."""
    return {
        "hours": count(own.device_hours),
        "with 10,000 devices": f"{three(own.device_hours / 10_000 / 24)} days",
        f"× {assumed['watts']:g} W × PUE {assumed['pue']:g}": f"{three(own.kwh / 1e6)} GWh",
        "× 0.414 kg/kWh": f"{own.carbon_kg / 1e3:,.0f} t CO2",
    }


def _what_is_published(svg: Svg, chosen: str, assumed: dict[str, Any]) -> None:
    price, watts, pue = (assumed[n] for n in ("usd_per_hour", "watts", "pue"))
    lines = _published(chosen, price, watts, pue)
    paragraph(svg, 0, 84, lines, 22)
    if setting := published_setting(chosen):
        words = f"{percent(setting['mfu'])} MFU gives about all these hours: set it"
        with svg.thing(tip="Take the published tokens, device and hours", press=setting):
            box(svg, 1, 84 + 22 * len(lines), 300, 26, "none", words, radius=6, stroke=RULE)


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
