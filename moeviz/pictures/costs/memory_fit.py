"""Will it fit: weights and cache of a model as bars against the memory of some devices."""

from __future__ import annotations

import textwrap
from bisect import bisect_right
from collections.abc import Iterator

from moeviz.costs import Architecture, Device, Fit, device, fit, kv_cache_bytes
from moeviz.pictures.axes import LogScale, Scale, general, short, x_axis, y_axis
from moeviz.pictures.colours import hatch_on
from moeviz.pictures.costs.model_parts import sizes_of
from moeviz.pictures.plot import Key, box, heading, knob, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg

WIDTH, TOP, ROW, BAR = 560.0, 126.0, 58.0, 24.0
# Where the memory ends, whatever is asked of it: a device does not shrink as a context grows.
EDGE = 350.0
COUNTS = (1, 2, 4, 8, 16, 32, 64)  # of devices
CONTEXTS = tuple(2**i for i in range(9, 18))
BETWEEN = tuple(round(2 ** (i / 2)) for i in range(18, 35))  # where the curve has points
SIDE = 380.0
# Plans from large to small, and what a learner calls them.
PLANS = {
    "bf16": "BF16", "fp8_block": "FP8", "int4": "INT4", "mxfp4_experts": "MXFP4 experts",
    "q4_k_m": "Q4_K_M",
}  # fmt: skip
BOTTOM = TOP + ROW * len(PLANS)
PARTS = (
    Key("routed experts", "#0072b2", mark="box"),
    Key("other weights", "#56b4e9", mark="box"),
    Key("cache, 16 bit", "#e69f00", mark="box", hatched=True),
)
OVER = "#d55e00"
# How far a device's figures can be trusted, in words.
CONFIDENCES = {
    "official": "the maker's figures", "estimate": "an estimate", "rumour": "a rumour",
    "unverifiable": "figures that nobody can check",
}  # fmt: skip
COLUMNS = ("plan", "routed experts, GB", "other weights, GB", "cache, GB", "free, GB", "says")


def memory_fit(
    *, model_name: str, device_name: str, devices: int, plan: str, context: int, batch: int,
) -> Picture:  # fmt: skip
    """A bar for each quantisation plan, the chosen one framed, against the memory line. Beside it
    the chosen one at every context."""
    architecture = sizes_of(model_name)
    chip = device(device_name)
    setting = dict(context_tokens=context, batch=batch, devices=devices)
    fits = {name: fit(architecture, chip, plan=name, **setting) for name in PLANS}
    longest = longest_context(architecture, fits[plan], batch)
    at_context = {
        c: fit(architecture, chip, plan=plan, context_tokens=c, batch=batch, devices=devices)
        for c in sorted({*BETWEEN, max(longest, BETWEEN[0])})  # where the curve meets the memory
    }
    summary = _summary(model_name, chip, devices, plan, context, batch, fits[plan])
    made_for = architecture.context_tokens
    if made_for and context > made_for:
        summary += f" The model was made for {made_for:,} tokens at most."
    svg = Svg(WIDTH, BOTTOM + 104, "Will it fit", summary)
    heading(svg, f"Does {model_name} fit {devices} × {chip.name}?")
    svg.text(0, 38, _answer(fits[plan], PLANS[plan]), bold=True)
    memory = f"{_gb(devices * chip.memory_bytes)} GB of memory"
    svg.text(0, 57, f"{_sequences(batch)} of {context:,} tokens · {memory}", fill=MUTED)
    x = 0.0
    for size, key in zip(_sizes(fits[plan]), PARTS, strict=True):
        with svg.thing(key.name, tip=f"{key.name}: {_gb(size)} GB in {PLANS[plan]}"):
            legend(svg, x, 80, (key,))
        x += 122
    over = Key("over the memory", OVER, mark="box", hatched=True)
    legend(svg, x, 80, (Key("free", "none", mark="box"), over))
    _bars(svg, fits, plan)
    made = "Computed from published sizes; some GB of activations and buffers come on top."
    notes = (source_line(chip), made)
    lines = [line for note in notes for line in textwrap.wrap(note, 82)]
    paragraph(svg, 0, BOTTOM + 60, lines, fill=MUTED)
    side = svg.beside(SIDE, BOTTOM + 60)
    heading(side, "How long a context fits", f"{PLANS[plan]}, {_sequences(batch)} · drag the line")
    _contexts(side, at_context, context, longest)
    return svg.picture(COLUMNS, _table(fits))


def longest_context(architecture: Architecture, needed: Fit, batch: int) -> int:
    """The most tokens of each sequence that fit beside the weights, up to the last of CONTEXTS; 0
    where none does."""
    room, most = needed.capacity_bytes - needed.weights.total, CONTEXTS[-1]
    return bisect_right(
        range(1, most + 1), room, key=lambda c: kv_cache_bytes(architecture, c, batch).total
    )


def _summary(
    name: str, chip: Device, devices: int, plan: str, context: int, batch: int, found: Fit
) -> str:
    machine = f"{devices} × {chip.name}"
    sentence = (
        f"{name} in {PLANS[plan]}: weights {_gb(found.weights.total)} GB and a cache of "
        f"{_gb(found.cache.total)} GB, against {_gb(found.capacity_bytes)} GB of {machine}. The "
        f"cache is that of {_sequences(batch)} of {context:,} tokens. "
    )
    if found.fits:
        sentence += f"It fits, {_gb(found.free_bytes)} GB stay free; at most"
        return f"{sentence} {_sequences(found.max_batch)} would."
    sentence += f"It does not fit: {_gb(-found.free_bytes)} GB are missing"
    if found.max_batch:
        return f"{sentence}; {_sequences(found.max_batch)} would fit."
    return f"{sentence}, and not even one such sequence fits."


def _answer(found: Fit, plan: str) -> str:
    if found.fits:
        return f"In {plan} it does: {_gb(found.free_bytes)} GB stay free."
    return f"In {plan} it does not: {_gb(-found.free_bytes)} GB are missing."


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count:,} sequences"


def _gb(count: float) -> str:
    value = count / 1e9
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 1 else f"{value:.2f}"


def _bars(svg: Svg, fits: dict[str, Fit], plan: str) -> None:
    x = Scale(0, fits[plan].capacity_bytes / 1e9, 8, EDGE)
    step = x.ticks(4)[1]
    ticks = [step * i for i in range(int(x.high * (WIDTH - 40) / EDGE / step) + 1)]
    form = "{:,.0f}".format if x.high > 5 else general
    words = "memory in GB (1e9 bytes) · press a format of the weights"
    x_axis(svg, x, BOTTOM, words, top=TOP - 8, ticks=ticks, form=form)
    for i, (name, needed) in enumerate(fits.items()):
        top, press = TOP + i * ROW, {"plan": name}
        tip = f"{PLANS[name]}: {_verdict(needed)}"
        with svg.thing(name, tip=tip, press=press):
            edge = INK if name == plan else "transparent"
            svg.rect(1, top - 8, WIDTH - 2, ROW - 6, "none", stroke=edge, radius=6)
            svg.text(8, top + 8, PLANS[name], bold=True)
            svg.text(118, top + 8, _verdict(needed), bold=name == plan)
            sizes = f"weights {_gb(needed.weights.total)} + cache {_gb(needed.cache.total)} GB"
            if name == "mxfp4_experts" and not needed.weights.part("routed_experts"):
                sizes = "no experts: as in BF16"
            svg.text(WIDTH - 8, top + 8, sizes, anchor="end", fill=MUTED)
        _bar(svg, x, name, needed, top + 15)
    svg.line(EDGE, TOP - 20, EDGE, BOTTOM, stroke=INK, width=2)
    svg.text(EDGE - 6, TOP - 14, "memory", anchor="end", bold=True)


def _bar(svg: Svg, x: Scale, name: str, needed: Fit, top: float) -> None:
    """What a plan needs, up to the picture's edge; beyond it, dots."""
    end, last = x.start, WIDTH - 10
    for size, key in zip(_sizes(needed), PARTS, strict=True):
        start, end = end, end + x(size / 1e9) - x.start
        wide = min(end, last) - min(start, last)
        press = {"plan": name} if wide >= 2 else None  # what nobody can hit is no button
        with svg.thing(key.name, name, tip=f"{PLANS[name]}, {key.name}: {_gb(size)} GB",
                       press=press):  # fmt: skip
            box(svg, min(start, last), top, wide, BAR, key.colour, hatched=key.hatched)
    if needed.fits:
        svg.rect(end, top, EDGE - end, BAR, "none", stroke=INK)
        return
    # Under the bar, so that the parts' own colours stay.
    missing = f"{PLANS[name]}: {_gb(-needed.free_bytes)} GB over the memory"
    with svg.thing("over", name, tip=missing):
        box(svg, EDGE, top + BAR, min(end, last) - EDGE, 6, OVER, hatched=True)
    if end > last:
        svg.text(WIDTH, top + BAR / 2 + 4, "…", anchor="end", bold=True)


def _contexts(svg: Svg, at_context: dict[int, Fit], context: int, longest: int) -> None:
    """What the chosen plan needs at each context, the parts above each other, and the memory: a
    slider of the context."""
    found = at_context[context]
    x = LogScale(CONTEXTS[0] * 0.75, CONTEXTS[-1] * 1.33, 56, SIDE - 16)
    y = Scale(0, 1.6 * found.capacity_bytes / 1e9, BOTTOM, TOP - 8)
    words = f"✔ up to {_rounded_down(longest):,} tokens fit"
    if longest < CONTEXTS[0]:
        words = "✘ not even the shortest fits"
    svg.text(0, 58, words, bold=True)
    below = [(x.start, y.start), (x.end, y.start)]
    for part, key in enumerate(PARTS):
        tops = {c: sum(_sizes(each)[: part + 1]) / 1e9 for c, each in at_context.items()}
        ends = [tops[CONTEXTS[0]], *tops.values(), tops[CONTEXTS[-1]]]
        across = [x.start, *map(x, at_context), x.end]
        above = [(at, y(min(top, y.high))) for at, top in zip(across, ends, strict=True)]
        with svg.thing(key.name, tip=f"{key.name}: {_gb(_sizes(found)[part])} GB"):
            svg.polygon([*above, *below[::-1]], fill=key.colour, stroke=MUTED)
            if key.hatched:
                svg.polygon([*above, *below[::-1]], fill=hatch_on(key.colour))
        below = above
    y_axis(svg, y, x.start, x.end, "GB", ticks=y.ticks(4), form=short)
    x_axis(svg, x, BOTTOM, "context: tokens of each sequence", ticks=CONTEXTS[::2], form=short)
    memory, at = y(found.capacity_bytes / 1e9), x(context)
    svg.line(x.start, memory, x.end, memory, stroke=INK, width=2)
    box(svg, x.start + 6, memory - 20, 62, 16, "#ffffff", "memory", bold=True, stroke=MUTED)
    svg.line(at, y.start, at, y.end, stroke=INK, width=1.5)
    knob(svg, at, y.end, 6)
    needed = (found.capacity_bytes - found.free_bytes) / 1e9
    mark(svg, "circle", at, y(min(needed, y.high)), PARTS[2].colour, 6, stroke=INK)
    half = (x(2) - x(1)) / 2
    for c in CONTEXTS:
        tip = f"{c:,} tokens: {_verdict(at_context[c])}"
        with svg.thing(tip=tip, press={"context": c}, drag=True):
            svg.rect(x(c) - half, y.end, 2 * half, y.start - y.end + 20, "transparent")


def _rounded_down(tokens: int) -> int:
    """Two figures of a number, and the end of the axis as it is."""
    unit = 10 ** max(len(str(tokens)) - 2, 0)
    return tokens if tokens == CONTEXTS[-1] else tokens // unit * unit


def _sizes(found: Fit) -> tuple[float, float, float]:
    """Bytes of PARTS."""
    experts = found.weights.part("routed_experts")
    return experts, found.weights.total - experts, found.cache.total


def _verdict(found: Fit) -> str:
    if found.fits:
        return f"✔ fits, {_gb(found.free_bytes)} GB free"
    return f"✘ {_gb(-found.free_bytes)} GB too much"


def source_line(chip: Device) -> str:
    """Where a device's figures come from, and how far they can be trusted; prices left out."""
    return f"{chip.name}, {CONFIDENCES[chip.confidence]}: {chip.source.split('; prices')[0]}."


def _table(fits: dict[str, Fit]) -> Iterator[tuple[object, ...]]:
    for name, needed in fits.items():
        free = f"{needed.free_bytes / 1e9:,.1f}"
        yield PLANS[name], *map(_gb, _sizes(needed)), free, _verdict(needed)
