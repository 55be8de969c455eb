"""Experts behind a link: the most tokens a second, by how often a cache already holds them."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.costs import (
    Architecture,
    Device,
    active_parameters,
    device,
    offload_bound,
    weight_bytes,
)
from moeviz.costs.cost.quantisation import PLANS
from moeviz.pictures.axes import LogScale, Scale, axes, short
from moeviz.pictures.costs.memory_fit import PLANS as PLAN_NAMES
from moeviz.pictures.costs.memory_fit import source_line
from moeviz.pictures.costs.model_parts import sparse_sizes_of
from moeviz.pictures.plot import Key, curve, heading, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg

WIDTH, HEIGHT = 900.0, 500.0
HITS = tuple(i / 50 for i in range(51))
REACHED = (0.2, 0.4)  # of the bound: what measured systems reach
COLUMNS = ("hit rate", "over the link, GB a token", "bound, tokens/s", "at 20 to 40 % of it")


@dataclass(frozen=True)
class Link:
    """What experts come over, at its nominal speed, one direction."""

    label: str
    bytes_per_s: float
    colour: str
    dash: str
    source: str
    host_computes: bool = False


# Nominal figures: lanes × transfers a second for PCIe, 8 bytes × transfers a second × channels for
# DDR5, and the data sheet of a fast PCIe 4 drive.
LINKS = {
    "nvme": Link("NVMe SSD", 7e9, "#cc79a7", "2 3", "a PCIe 4.0 x4 drive's sequential read"),
    "pcie3": Link("PCIe 3 x16", 16e9, "#56b4e9", "9 3 2 3", "PCI-SIG, 16 lanes × 8 GT/s"),
    "pcie4": Link("PCIe 4 x16", 32e9, "#009e73", "7 3", "PCI-SIG, 16 lanes × 16 GT/s"),
    "pcie5": Link("PCIe 5 x16", 64e9, "#0072b2", "", "PCI-SIG, 16 lanes × 32 GT/s"),
    "host": Link(
        "host computes", 89.6e9, "#d55e00", "4 2",
        "experts stay with the processor: DDR5-5600, 2 channels × 8 bytes × 5.6 GT/s",
        host_computes=True,
    ),
}  # fmt: skip


def speed(
    architecture: Architecture, chip: Device, link: Link, plan: str, hit_rate: float
) -> float:
    """At most so many tokens a second of one sequence: bytes over the link, and the device's own
    read of what a token needs, whichever takes longer.

    A host that computes its experts itself leaves the device only the other weights."""
    hit = 0.0 if link.host_computes else hit_rate
    over = offload_bound(architecture, link.bytes_per_s, plan=plan, hit_rate=hit)
    parts = active_parameters(architecture, "ex_input_embedding").components
    own = sum(
        count * PLANS[plan].format(component).bits / 8
        for component, count in parts.items()
        if not (link.host_computes and component == "routed_experts")
    )
    seconds = max(over.bytes.total / link.bytes_per_s, own / chip.bytes_per_s)
    return 1 / seconds


def even_hit_rate(architecture: Architecture, chip: Device, plan: str) -> float:
    """The share of the experts that lies in the device's memory beside all other weights: the hit
    rate under even routing, where no cache can do better."""
    weights = weight_bytes(architecture, plan)
    experts = weights.part("routed_experts")
    room = chip.memory_bytes - (weights.total - experts)
    return min(max(room / experts, 0.0), 1.0)


def offloading(*, model_name: str, device_name: str, plan: str, link: str, hit: int) -> Picture:
    """A curve for each link, the chosen one with the band that measured systems reach. hit: the
    hit rate in per cent."""
    architecture = sparse_sizes_of(model_name)
    chip, chosen = device(device_name), LINKS[link]
    rate = hit / 100
    even = even_hit_rate(architecture, chip, plan)
    weights = weight_bytes(architecture, plan)
    others = (weights.total - weights.part("routed_experts")) / 1e9
    room = chip.memory_bytes / 1e9
    summary = _summary(architecture, chip, chosen, plan, rate, even, others)
    svg = Svg(WIDTH, HEIGHT, "Experts behind a link", summary)
    heading(
        svg, f"{model_name} in {PLAN_NAMES[plan]}, one sequence on one {chip.name}",
        f"{weights.total / 1e9:,.1f} GB of weights, {others:,.1f} GB of them no experts, and "
        f"{room:,.0f} GB of memory: {even:.0%} of the experts lie there",
    )  # fmt: skip
    _plot(svg, architecture, chip, plan, link, rate, even)
    nominal = f"{chosen.label}: {chosen.bytes_per_s / 1e9:g} GB/s nominal ({chosen.source})."
    paragraph(svg, 0, HEIGHT - 26, (source_line(chip), nominal), fill=MUTED)
    return svg.picture(COLUMNS, _table(architecture, chip, chosen, plan))


def _summary(
    architecture: Architecture, chip: Device, link: Link, plan: str, rate: float, even: float,
    others: float,
) -> str:  # fmt: skip
    if others * 1e9 > chip.memory_bytes:
        return (
            f"Even without its experts the model takes {others:,.1f} GB: it does not fit the "
            f"{chip.memory_bytes / 1e9:,.0f} GB of {chip.name}."
        )
    best = speed(architecture, chip, link, plan, rate)
    low, high = (share * best for share in REACHED)
    if link.host_computes:
        said = f"The host computes its experts: at most {best:,.3g} tokens/s, whatever is cached."
    else:
        over = offload_bound(architecture, link.bytes_per_s, plan=plan, hit_rate=rate)
        said = (
            f"{link.label} at a hit rate of {rate:.0%}: {over.bytes.total / 1e9:.3g} GB come over "
            f"it for every token, at most {best:,.3g} tokens/s."
        )
        if rate > even:
            said += f" Even routing gives {even:.0%}; more needs experts that are asked for again."
    return f"{said} Measured systems reach 20 to 40 %: {low:,.3g} to {high:,.3g}."


def _plot(
    svg: Svg, architecture: Architecture, chip: Device, plan: str, link: str, rate: float,
    even: float,
) -> None:  # fmt: skip
    x, y = Scale(0, 100, 62, 640), LogScale(0.05, 1000, 400, 82)
    axes(svg, x, y, x_label="hit rate of the experts' cache, per cent",
         y_label="tokens/s at most, one sequence", y_form=short, above=True)  # fmt: skip
    svg.line(x(100 * even), y.start, x(100 * even), y.end, stroke=INK, dash="2 4", width=1.5)
    for name, each in LINKS.items():
        best = {100 * hit: speed(architecture, chip, each, plan, hit) for hit in HITS}
        if name == link:
            low, high = (
                [(x(h), y(_clip(v * share, y))) for h, v in best.items()] for share in REACHED
            )
            svg.polygon(high + low[::-1], fill=each.colour, opacity=0.3)
        curve(svg, x, y, ((h, _clip(v, y)) for h, v in best.items()), _key(each, name == link))
    here = _clip(speed(architecture, chip, LINKS[link], plan, rate), y)
    svg.line(x(100 * rate), y.start, x(100 * rate), y.end, stroke=INK, width=0.8)
    mark(svg, "circle", x(100 * rate), y(here), LINKS[link].colour, 7, stroke=INK)
    _legend(svg, architecture, chip, plan, link, rate, even)


def _key(link: Link, chosen: bool) -> Key:
    return Key(link.label, link.colour, link.dash, width=4 if chosen else 2, bold=chosen)


def _clip(value: float, y: Scale) -> float:
    return min(max(value, y.low), y.high)


def _legend(
    svg: Svg, architecture: Architecture, chip: Device, plan: str, link: str, rate: float,
    even: float,
) -> None:  # fmt: skip
    left = 668.0
    svg.text(left, 92, f"tokens/s at most, {rate:.0%} hits", bold=True)
    legend(svg, left, 118, (_key(each, n == link) for n, each in LINKS.items()), down=26)
    for i, (name, each) in enumerate(LINKS.items()):
        best = speed(architecture, chip, each, plan, rate)
        svg.text(WIDTH, 118 + i * 26, f"{best:,.3g}", anchor="end", bold=name == link)
    svg.rect(left, 250, 26, 16, LINKS[link].colour, opacity=0.3)
    paragraph(svg, left + 34, 263, ("20 to 40 % of it: what", "measured systems reach"))
    svg.line(left + 13, 298, left + 13, 330, stroke=INK, dash="2 4", width=1.5)
    fits = f"{even:.0%}: as many experts as", "fit, if routing is even"
    paragraph(svg, left + 34, 309, fits)
    flat = "Where a curve is flat, the", "device's own memory limits."
    paragraph(svg, left, 357, flat, fill=MUTED)


def _table(
    architecture: Architecture, chip: Device, link: Link, plan: str
) -> tuple[tuple[object, ...], ...]:
    rows = []
    for percent in range(0, 101, 5):
        rate = percent / 100
        hit = 0.0 if link.host_computes else rate
        over = offload_bound(architecture, link.bytes_per_s, plan=plan, hit_rate=hit)
        best = speed(architecture, chip, link, plan, rate)
        rows.append(
            (f"{percent} %", f"{over.bytes.total / 1e9:.3g}", f"{best:,.3g}",
             f"{REACHED[0] * best:,.3g} to {REACHED[1] * best:,.3g}")
        )  # fmt: skip
    return tuple(rows)
