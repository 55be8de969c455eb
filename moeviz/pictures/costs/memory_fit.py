"""Will it fit: weights and cache of a model as bars against the memory of some devices."""

from __future__ import annotations

from collections.abc import Iterator

from moeviz.costs import Device, Fit, device, fit
from moeviz.pictures.axes import Scale, general, x_axis
from moeviz.pictures.costs.model_parts import sizes_of
from moeviz.pictures.plot import Key, box, heading, legend, paragraph, stack
from moeviz.pictures.svg import INK, MUTED, Picture, Svg

WIDTH = 900.0
LEFT, RIGHT, TOP, ROW, BAR = 126.0, 640.0, 92.0, 46.0, 26.0
# Plans from large to small, and what a learner calls them.
PLANS = {
    "bf16": "BF16", "fp8_block": "FP8", "int4": "INT4", "mxfp4_experts": "MXFP4 experts",
    "q4_k_m": "Q4_K_M",
}  # fmt: skip
PARTS = (
    Key("routed experts", "#0072b2", mark="box"),
    Key("other weights", "#56b4e9", mark="box"),
    Key("cache, 16 bit", "#e69f00", mark="box", hatched=True),
)
OVER = "#d55e00"
COLUMNS = ("plan", "routed experts, GB", "other weights, GB", "cache, GB", "free, GB", "says")


def memory_fit(
    *, model_name: str, device_name: str, devices: int, plan: str, context: int, batch: int,
) -> Picture:  # fmt: skip
    """A bar for each quantisation plan, the chosen one framed, against the memory line."""
    architecture = sizes_of(model_name)
    chip = device(device_name)
    setting = dict(context_tokens=context, batch=batch, devices=devices)
    fits = {name: fit(architecture, chip, plan=name, **setting) for name in PLANS}
    summary = _summary(model_name, chip, devices, plan, context, batch, fits[plan])
    made_for = architecture.context_tokens
    if made_for and context > made_for:
        summary += f" The model was made for {made_for:,} tokens at most."
    height = TOP + ROW * len(PLANS) + 92
    svg = Svg(WIDTH, height, "Will it fit", summary)
    heading(svg, f"{model_name}: {_sequences(batch)} of {context:,} tokens")
    over = Key("over the memory", OVER, mark="box", hatched=True)
    legend(svg, 0, 41, (*PARTS, Key("free", "none", mark="box"), over))
    machine = f"memory of {devices} × {chip.name}: {_gb(devices * chip.memory_bytes)} GB"
    svg.text(WIDTH, 16, machine, anchor="end", bold=True)
    _bars(svg, fits, plan)
    made = "Computed from the published sizes; activations and buffers, some GB more, are"
    paragraph(svg, 0, height - 34, (source_line(chip), f"{made} not in it."), fill=MUTED)
    return svg.picture(COLUMNS, _table(fits))


def _summary(
    name: str, chip: Device, devices: int, plan: str, context: int, batch: int, found: Fit
) -> str:
    machine = f"{devices} × {chip.name}"
    sentence = (
        f"{name} in {PLANS[plan]}: weights {_gb(found.weights.total)} GB and a cache of "
        f"{_gb(found.cache.total)} GB for {_sequences(batch)} of {context:,} tokens, against "
        f"{_gb(found.capacity_bytes)} GB of {machine}. "
    )
    if found.fits:
        sentence += f"It fits, {_gb(found.free_bytes)} GB stay free; at most"
        return f"{sentence} {found.max_batch:,} such sequences do."
    sentence += f"It does not fit: {_gb(-found.free_bytes)} GB are missing"
    if found.max_batch:
        return f"{sentence}; {_sequences(found.max_batch)} would fit."
    return f"{sentence}, and not even one such sequence fits."


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count:,} sequences"


def _gb(count: float) -> str:
    value = count / 1e9
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 1 else f"{value:.2f}"


def _bars(svg: Svg, fits: dict[str, Fit], plan: str) -> None:
    capacity = fits[plan].capacity_bytes
    most = max(capacity, *(f.weights.total + f.cache.total for f in fits.values()))
    x = Scale(0, most / 1e9 * 1.02, LEFT, RIGHT)
    bottom = TOP + ROW * len(PLANS)
    form = "{:,.0f}".format if most > 5e9 else general
    x_axis(svg, x, bottom, "memory in GB (1e9 bytes)", top=TOP - 8, form=form)
    for i, (name, needed) in enumerate(fits.items()):
        top, is_chosen = TOP + i * ROW, name == plan
        if is_chosen:
            svg.rect(1, top - 8, WIDTH - 2, ROW - 4, "none", stroke=INK, radius=6)
        svg.text(8, top + BAR / 2 + 4, PLANS[name], bold=is_chosen)
        _bar(svg, x, needed, top)
        svg.text(RIGHT + 16, top + 10, _verdict(needed), bold=is_chosen)
        sizes = f"weights {_gb(needed.weights.total)} + cache {_gb(needed.cache.total)} GB"
        svg.text(RIGHT + 16, top + 27, sizes, fill=MUTED)
    edge = x(capacity / 1e9)
    svg.line(edge, TOP - 20, edge, bottom, stroke=INK, width=2)
    near_end = edge > RIGHT - 60
    svg.text(edge - 6 if near_end else edge + 6, TOP - 14, "memory",
             anchor="end" if near_end else "start", bold=True)  # fmt: skip


def _bar(svg: Svg, x: Scale, found: Fit, top: float) -> None:
    parts = (
        (x(size / 1e9) - x.start, key, f"{key.name}: {_gb(size)} GB")
        for key, size in zip(PARTS, _sizes(found), strict=True)
    )
    edge, end = x(found.capacity_bytes / 1e9), stack(svg, x.start, top, BAR, parts)
    if found.fits:
        svg.rect(end, top, edge - end, BAR, "none", stroke=INK)
    else:
        # Under the bar, so that the parts' own colours stay.
        box(svg, edge, top + BAR, end - edge, 7, OVER, hatched=True)


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
    return f"{chip.name}, confidence {chip.confidence}: {chip.source.split('; prices')[0]}."


def _table(fits: dict[str, Fit]) -> Iterator[tuple[object, ...]]:
    for name, needed in fits.items():
        free = f"{needed.free_bytes / 1e9:,.1f}"
        yield PLANS[name], *map(_gb, _sizes(needed)), free, _verdict(needed)
