"""Experts behind a link: the most tokens a second, by how often a cache already holds them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from moeviz.costs import (
    Architecture,
    Device,
    active_parameters,
    device,
    offload_bound,
    weight_bytes,
)
from moeviz.costs.cost.quantisation import PLANS
from moeviz.pictures.axes import LogScale, Scale, axes, decades, short
from moeviz.pictures.costs.memory_fit import PLANS as PLAN_NAMES
from moeviz.pictures.costs.memory_fit import source_line
from moeviz.pictures.costs.model_parts import sparse_sizes_of
from moeviz.pictures.plot import Key, curve, heading, knob, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, PAGE_GROUND, SMALLEST, Picture, Svg, text_width, three
from moeviz.words import percent

WIDTH, HEIGHT = 560.0, 531.0
HITS = tuple(i / 50 for i in range(51))
OWN = "the device's own memory"  # what limits where no link does
# Of the bound, what published figures are: Fiddler's 3 tokens/s (2402.07033), Mixtral offloaded on
# a T4 at 2.1 (2312.17238), KTransformers' 8.7 with DeepSeek-V3 and 10 with Kimi K2 (its tutorials).
REACHED = (0.26, 0.42)
SHARES = "{:.0f} to {:.0f} %".format(*(100 * share for share in REACHED))
COLUMNS = ("hit rate", "over the link, GB a token", "bound, tokens/s", f"at {SHARES} of it")


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
    "pcie3": Link("PCIe 3 x16", 16e9, "#6e6e6e", "9 3 2 3", "PCI-SIG, 16 lanes × 8 GT/s"),
    "pcie4": Link("PCIe 4 x16", 32e9, "#009e73", "7 3", "PCI-SIG, 16 lanes × 16 GT/s"),
    "pcie5": Link("PCIe 5 x16", 64e9, "#0072b2", "", "PCI-SIG, 16 lanes × 32 GT/s"),
    "host": Link(
        "host computes", 89.6e9, "#d55e00", "4 2",
        "experts stay with the processor: DDR5-5600, 2 channels × 8 bytes × 5.6 GT/s",
        host_computes=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A model in a plan's formats beside one device."""

    architecture: Architecture
    chip: Device
    plan: str

    def gigabytes(self, link: Link, hit_rate: float) -> float:
        """What comes over the link for each token; a host that computes has no cache to hit."""
        hit = 0.0 if link.host_computes else hit_rate
        over = offload_bound(self.architecture, link.bytes_per_s, plan=self.plan, hit_rate=hit)
        return over.bytes.total / 1e9

    def speed(self, link: Link, hit_rate: float) -> float:
        """At most so many tokens a second of one sequence: bytes over the link, and the device's
        own read of what a token needs, whichever takes longer.

        A host that computes its experts itself leaves the device only the other weights."""
        return 1 / max(self._seconds(link, hit_rate))

    def limit(self, link: Link, hit_rate: float) -> str:
        """Which of the two takes longer."""
        over, own = self._seconds(link, hit_rate)
        if own >= over:
            return OWN
        return "the host's memory" if link.host_computes else "the link"

    def _seconds(self, link: Link, hit_rate: float) -> tuple[float, float]:
        """For each token: of the bytes over the link, and of the device's own read."""
        own = sum(
            size
            for component, size in self._read.items()
            if not (link.host_computes and component == "routed_experts")
        )
        over = self.gigabytes(link, hit_rate) * 1e9
        return over / link.bytes_per_s, own / self.chip.bytes_per_s

    @cached_property
    def _read(self) -> dict[str, float]:
        """Bytes that a token needs of each component."""
        parts = active_parameters(self.architecture, "ex_input_embedding").components
        plan = PLANS[self.plan]
        return {name: count * plan.format(name).bits / 8 for name, count in parts.items()}

    @cached_property
    def weights(self) -> tuple[float, float]:
        """Bytes of the routed experts and of all other weights."""
        weights = weight_bytes(self.architecture, self.plan)
        experts = weights.part("routed_experts")
        return experts, weights.total - experts

    @property
    def holds_all(self) -> bool:
        """Whether the device's memory has room for all weights, so that no link is needed."""
        return sum(self.weights) <= self.chip.memory_bytes

    @property
    def even_hit_rate(self) -> float:
        """The share of the experts that lies in the device's memory beside all other weights: the
        hit rate under even routing, where no cache can do better."""
        experts, others = self.weights
        return min(max((self.chip.memory_bytes - others) / experts, 0.0), 1.0)


def offloading(*, model_name: str, device_name: str, plan: str, link: str, hit: int) -> Picture:
    """A curve for each link, the chosen one with the band that measured systems reach. hit: the
    hit rate in per cent."""
    setup = Setup(sparse_sizes_of(model_name), device(device_name), plan)
    chip, chosen, rate = setup.chip, LINKS[link], hit / 100
    others = setup.weights[1]
    svg = Svg(WIDTH, HEIGHT, "Experts behind a link", _summary(setup, chosen, rate))
    heading(svg, "How fast does it write when its experts lie behind a link?")
    svg.text(0, 38, _answer(setup, chosen, rate), bold=True)
    held = f"{percent(setup.even_hit_rate)} of the experts lie there"
    if setup.holds_all:
        held = "all experts lie there"
    sizes = (
        f"{model_name} in {PLAN_NAMES[plan]}: {sum(setup.weights) / 1e9:,.1f} GB of weights, "
        f"{others / 1e9:,.1f} GB are not experts",
        f"one {chip.name}, {chip.memory_bytes / 1e9:,.0f} GB of memory: {held}",
    )
    paragraph(svg, 0, 57, sizes, fill=MUTED)
    _plot(svg, setup, chosen, rate)
    nominal = f"{chosen.label}: {chosen.bytes_per_s / 1e9:g} GB/s nominal ({chosen.source})."
    lines = [line for note in (source_line(chip), nominal) for line in textwrap.wrap(note, 80)]
    paragraph(svg, 0, 476, lines, 17, fill=MUTED)
    return svg.picture(COLUMNS, _table(setup, chosen))


def _answer(setup: Setup, link: Link, rate: float) -> str:
    """The bound, and what sets it."""
    if setup.weights[1] > setup.chip.memory_bytes:
        return "Even without its experts the model does not fit this memory."
    if setup.holds_all:
        return "All experts lie in this memory: every hit rate is 100 %."
    speed = three(setup.speed(link, rate))
    return f"At most {speed} tokens/s: {setup.limit(link, rate)} limits it."


def _summary(setup: Setup, link: Link, rate: float) -> str:
    memory, others, even = setup.chip.memory_bytes, setup.weights[1], setup.even_hit_rate
    if others > memory:
        return (
            f"Even without its experts the model takes {others / 1e9:,.1f} GB: it does not fit the "
            f"{memory / 1e9:,.0f} GB of {setup.chip.name}."
        )
    if setup.holds_all:
        return (
            f"All experts lie in the memory of {setup.chip.name}: every hit rate is 100 %, and no "
            f"link is needed. That memory alone allows {three(setup.speed(LINKS['pcie5'], 1.0))} "
            "tokens/s at most; a lower rate would be that of a device with less room."
        )
    best = setup.speed(link, rate)
    if link.host_computes:
        sentence = (
            f"The host computes its experts: at most {three(best)} tokens/s, whatever is cached."
        )
    else:
        sentence = (
            f"{link.label} at a hit rate of {percent(rate)}: {setup.gigabytes(link, rate):.3g} GB "
            f"come over it for every token, at most {three(best)} tokens/s."
        )
        if percent(rate) == percent(even):
            sentence += " Even routing gives this rate: so many of the experts fit."
        elif rate > even:
            sentence += (
                f" Even routing gives {percent(even)}; more needs experts that are asked for again."
            )
    return f"{sentence} Measured systems reach {SHARES} of that. Here: {_reached(best)} tokens/s."


def _reached(best: float) -> str:
    low, high = (share * best for share in REACHED)
    return f"{three(low)} to {three(high)}"


def _plot(svg: Svg, setup: Setup, chosen: Link, rate: float) -> None:
    speeds = [setup.speed(link, hit) for link in LINKS.values() for hit in (HITS[0], HITS[-1])]
    band = REACHED[0] * setup.speed(chosen, HITS[0])
    x, y = Scale(0, 100, 62, 542), LogScale(*decades([band, *speeds]), 416, 112)
    axes(svg, x, y, x_label="hit rate of the experts' cache, % · drag the line",
         y_label="tokens/s at most, one sequence", y_form=short, above=True)  # fmt: skip
    even, at = x(100 * setup.even_hit_rate), x(100 * rate)
    svg.line(even, y.start, even, y.end, stroke=INK, dash="2 4", width=1.5)
    for name, link in LINKS.items():
        best = {100 * hit: setup.speed(link, hit) for hit in HITS}
        with svg.thing(name):
            if link is chosen:
                low, high = (
                    [(x(h), y(_clip(v * share, y))) for h, v in best.items()] for share in REACHED
                )
                svg.polygon(high + low[::-1], fill=link.colour, opacity=0.3)
            line = _key(link, link is chosen)
            curve(svg, x, y, ((h, _clip(v, y)) for h, v in best.items()), line)
    spot = y(_clip(setup.speed(chosen, rate), y))
    svg.line(at, y.start, at, y.end, stroke=INK, width=0.8)
    knob(svg, at, y.end, 6)
    mark(svg, "circle", at, spot, chosen.colour, 7, stroke=INK)
    half = (x(2) - x(0)) / 2
    for hit in HITS:
        percent = round(100 * hit)
        best_here = three(setup.speed(chosen, hit))
        tip = f"{percent} % hits over {chosen.label}: at most {best_here} tokens/s"
        with svg.thing(tip=tip, press={"hit": percent}, drag=True):
            svg.rect(x(percent) - half, y.end, 2 * half, y.start - y.end, "transparent")
    _words(svg, x, y, setup, chosen, rate)
    before = at < (x.start + x.end) / 2
    words = f"{three(setup.speed(chosen, rate))} tokens/s at most"
    names = (_name_height(y, setup, link) for link in LINKS.values())
    height = _free(y.end + 20, [*names], 18)
    svg.text(at + (20 if before else -20), height, words, size=14, bold=True, halo=True,
             anchor="start" if before else "end")  # fmt: skip


def _words(svg: Svg, x: Scale, y: Scale, setup: Setup, chosen: Link, rate: float) -> None:
    """The names of the curves, on them and pressed, with what each gives at this hit rate, and the
    names of what else is drawn."""
    for name, link in LINKS.items():
        best = three(setup.speed(link, rate))
        tip = f"{link.label}, {link.bytes_per_s / 1e9:g} GB/s: at most {best} tokens/s"
        # A host that computes stands close above the fastest link: beside its name there is room.
        left = x(0) + (14 if not link.host_computes else 200)
        height = _name_height(y, setup, link)
        with svg.thing(name, tip=tip, press={"link": name}):
            words = f"{link.label}: {best}"
            # The curve goes on behind the words: through their gaps its dashes would read as dots.
            wide = text_width(words, SMALLEST)
            svg.rect(left - 4, height - 12, wide, 16, PAGE_GROUND, opacity=0.9)
            svg.text(left, height, words, bold=link is chosen, halo=True)
    low = y(_clip(0.33 * setup.speed(chosen, 0.3), y)) + 4
    svg.text(x(30), low, f"measured systems: {SHARES} of it", halo=True)
    even = setup.even_hit_rate
    late = even > 0.6
    words = f"even routing: {percent(even)} hits, as many as fit"
    svg.text(x(100 * even) + (-6 if late else 6), y.start - 8, words, halo=True,
             anchor="end" if late else "start")  # fmt: skip
    top = setup.speed(LINKS["pcie5"], 1.0)
    flat = y(_clip(top, y))
    # Over the flat part, if there is one, unless what is chosen stands there.
    flat += -8 if flat > y.end + 42 else 18
    host = next(link for link in LINKS.values() if link.host_computes)
    flat = _free(flat, [_name_height(y, setup, host)], 18)
    if setup.limit(LINKS["pcie5"], 0.9) == OWN:
        svg.text(x.end, flat, f"limit: {OWN}", anchor="end", halo=True)


def _name_height(y: Scale, setup: Setup, link: Link) -> float:
    """Where the name of a curve stands: on it, near its left end."""
    return y(_clip(setup.speed(link, 0.1), y)) + 4


def _free(height: float, taken: Sequence[float], step: float) -> float:
    """The next line below a height where no other words stand."""
    while any(abs(height - other) < 16 for other in taken):
        height += step
    return height


def _key(link: Link, chosen: bool) -> Key:
    return Key(link.label, link.colour, link.dash, width=4 if chosen else 2, bold=chosen)


def _clip(value: float, y: Scale) -> float:
    return min(max(value, y.low), y.high)


def _table(setup: Setup, link: Link) -> Iterator[tuple[object, ...]]:
    for rate in (n / 100 for n in range(0, 101, 5)):
        best, over = setup.speed(link, rate), setup.gigabytes(link, rate)
        yield percent(rate), f"{over:.3g}", three(best), _reached(best)
