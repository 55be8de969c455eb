"""Policies of a cache of experts on a real trace: how often they hit, and how fast that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moeviz.costs import offload_bound
from moeviz.pictures.axes import LogScale, Scale, decades, short, x_axis
from moeviz.pictures.costs.model_parts import sparse_sizes_of
from moeviz.pictures.costs.offloading import LINKS
from moeviz.pictures.plot import Key, heading, legend, mark, paragraph, row
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, three
from moeviz.words import percent

WIDTH, ROW = 560.0, 26.0
TOP, LEFT = 128.0, (176.0, 340.0)
RIGHT = (372.0, 548.0)
COLUMNS = (
    "stream", "policy", "experts kept of a layer", "hit rate", "experts loaded a token",
    *(f"tokens/s at most, {LINKS[name].label}" for name in ("nvme", "pcie4", "pcie5")),
)  # fmt: skip
POLICIES = {
    "lru": Key("LRU: what was asked for last stays", "#0072b2", mark="circle", width=0),
    "lfu": Key("LFU: what was asked for most often stays", "#009e73", mark="square", width=0),
    "next_layer": Key("guess: LRU, and the next layer's", "#d55e00", mark="diamond", width=0),
    "belady": Key("optimum: it knows the future", "#6e6e6e", mark="ring", width=0),
}
MODEL, LINK = "DeepSeek-V2-Lite", "pcie4"
DRAWN = {"nvme": 3.0, LINK: 5.0, "pcie5": 3.0}  # how large a link's marks are
SHORT = {"nvme": "NVMe", LINK: "PCIe 4", "pcie5": "5"}
ONE_TASK, CHANGING = "intent", "changing"

Figures = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A policy on a stream, with so many experts of each layer in the cache."""

    stream: str
    policy: str
    slots: int
    hit_rate: float
    loads: float
    asked: int

    def speed(self, link: str) -> float:
        """Tokens a second at most, by what is loaded: guesses that nobody asked for count too."""
        architecture = sparse_sizes_of(MODEL)
        spared = max(1 - self.loads / self.asked, 0.0)
        return offload_bound(architecture, LINKS[link].bytes_per_s, hit_rate=spared).tokens_per_s


def expert_caches(figures: Figures) -> Picture:
    """Each policy's hit rate and its bound in tokens a second, on a stream of one task and on one
    that changes its task. figures: see experiments.caches."""
    every = list(_found(figures))
    shown = [f for f in every if f.slots == figures["guessed"] and f.stream in (ONE_TASK, CHANGING)]
    ram = _from_ram()
    bounds = [f.speed(link) for f in shown for link in DRAWN]
    hits, speeds = Scale(0, 1, *LEFT), LogScale(*decades([ram, *bounds]), *RIGHT)
    bottom = TOP + ROW * (len(shown) + 2)
    svg = Svg(WIDTH, bottom + 66, "Caches of experts", told(figures))
    heading(svg, "A higher hit rate is not always faster")
    note = (
        f"{MODEL} in BF16: {figures['guessed']} of {figures['experts']} experts of each layer are "
        "cached, the others come",
        "over a link. Line: the host computes them in its own RAM. The routing is a recorded one.",
    )
    paragraph(svg, 0, 38, note, fill=MUTED)
    for scale, title in ((hits, "hit rate"), (speeds, "tokens/s at most")):
        svg.text(scale.start, TOP - 38, title, bold=True)
    x_axis(svg, hits, bottom - ROW / 2, top=TOP - ROW, ticks=(0, 0.5, 1), form=percent)
    x_axis(svg, speeds, bottom - ROW / 2, top=TOP - ROW, form=short)
    with svg.thing("ram", tip=f"{LINKS['host'].label}: {three(ram)} tokens/s at most, no cache"):
        svg.line(speeds(ram), TOP - ROW, speeds(ram), bottom - ROW / 2, stroke=INK, dash="4 2")
        svg.text(speeds(ram), TOP - ROW - 4, "RAM", anchor="middle")
    y = TOP - ROW / 2
    for stream in (ONE_TASK, CHANGING):
        svg.text(0, y + 4, _stream(stream, figures), bold=True)
        for found in (f for f in shown if f.stream == stream):
            y += ROW
            key = POLICIES[found.policy]
            policy, speed = key.name.partition(":")[0], found.speed(LINK)
            tip = (
                f"{policy}: {percent(found.hit_rate)} hits, {found.loads:.0f} experts loaded a "
                f"token, at most {three(speed)} tokens/s over {LINKS[LINK].label}"
            )
            with row(svg, y, ROW, f"{stream}_{found.policy}", key.name, tip=tip):
                svg.text(12, y + 4, policy)
                svg.line(hits(0), y, hits(found.hit_rate), y, stroke=key.colour, width=3)
                mark(svg, key.mark, hits(found.hit_rate), y, key.colour, 5)
                ends = [speeds(found.speed(link)) for link in DRAWN]
                svg.line(ends[0], y, ends[-1], y, stroke=key.colour)
                for (link, size), x in zip(DRAWN.items(), ends, strict=True):
                    mark(svg, key.mark, x, y, key.colour, size)
                    if found is shown[0]:
                        svg.text(x, y - 10, SHORT[link], anchor="middle", halo=True)
        y += ROW
    legend(svg, 0, bottom + 34, list(POLICIES.values())[:2], across=280, kin=True)
    legend(svg, 0, bottom + 56, list(POLICIES.values())[2:], across=280, kin=True)
    return svg.picture(COLUMNS, (*map(_cells, every), *_shared(figures)))


def _stream(stream: str, figures: Figures) -> str:
    if stream == CHANGING:
        return f"the task changes every {figures['turn']} tokens"
    return "one task"


def _found(figures: Figures) -> Iterator[Found]:
    asked = figures["layers"] * figures["top_k"]
    for stream, of_stream in figures["streams"].items():
        for policy in POLICIES:
            guesses = policy == "next_layer"
            sizes = [figures["guessed"]] if guesses else figures["slots"]
            for slots, each in zip(sizes, of_stream[policy], strict=True):
                yield Found(stream, policy, slots, each["hit_rate"], each["loads"], asked)


def _cells(found: Found) -> tuple[object, ...]:
    short = POLICIES[found.policy].name.partition(":")[0]
    speeds = (three(found.speed(link)) for link in ("nvme", "pcie4", "pcie5"))
    rate = percent(found.hit_rate, 1)
    return (found.stream, short, found.slots, rate, f"{found.loads:.1f}", *speeds)


def told(figures: Figures) -> str:
    """Who hits most, who is fastest, and what no cache at all does, in words from the figures."""
    size = figures["guessed"]
    at = {(f.stream, f.policy): f for f in _found(figures) if f.slots == size}
    sentences = []
    for stream, words in ((ONE_TASK, "On one task"), (CHANGING, "Where the task changes")):
        lru, lfu, best = (at[stream, policy] for policy in ("lru", "lfu", "belady"))
        sentences.append(
            f"{words} LRU hits {percent(lru.hit_rate)} and LFU {percent(lfu.hit_rate)}, of "
            f"{percent(best.hit_rate)} that are possible."
        )
    lru, guess = at[ONE_TASK, "lru"], at[ONE_TASK, "next_layer"]
    slower = guess.speed(LINK) < lru.speed(LINK)
    way = "yet it is slower than LRU" if slower else "and it is faster than LRU"
    links = [f"{three(lru.speed(link))} over {LINKS[link].label}" for link in DRAWN]
    sentences.append(
        f"At the same hit rate, LRU on one task writes at most {links[0]}, {links[1]} "
        f"and {links[2]}, in tokens/s."
    )
    whole = _from_ram()
    rate = _rate_of(whole, figures)
    sentences.append(
        f"Guessing the next layer's experts raises the rate on one task to "
        f"{percent(guess.hit_rate)}, {way}: {guess.loads:.0f} experts are loaded for a token "
        f"instead of {lru.loads:.0f}. A host that computes its experts in its own memory needs no "
        f"cache and reaches {three(whole)} tokens/s at most; over {LINKS[LINK].label} that takes a "
        f"hit rate of {percent(rate)} without a load in vain."
    )
    shared = figures["shared"]
    lru, stale = (shared[policy][0]["hit_rate"] for policy in ("lru", "least_stale"))
    sentences.append(
        f"One cache for all layers with {shared['slots'][0]} slots a layer, fewer than a token "
        f"asks for: LRU hits {percent(lru)}, and giving up what its layer did without longest hits "
        f"{percent(stale)}."
    )
    return " ".join(sentences)


def _from_ram() -> float:
    """Tokens a second at most where the host computes its experts in its own memory."""
    return offload_bound(sparse_sizes_of(MODEL), LINKS["host"].bytes_per_s).tokens_per_s


def _shared(figures: Figures) -> Iterator[tuple[object, ...]]:
    """Rows of the caches that all layers share: they have no bound of their own here."""
    shared = figures["shared"]
    names = {"lru": "LRU", "least_stale": "least stale", "belady": "optimum"}
    for policy, name in names.items():
        for slots, each in zip(shared["slots"], shared[policy], strict=True):
            rate, loads = percent(each["hit_rate"], 1), f"{each['loads']:.1f}"
            stream = f"{shared['task']}, one cache for all layers"
            yield (stream, name, slots, rate, loads, "", "", "")


def _rate_of(speed: float, figures: Figures) -> float:
    """The hit rate at which the link is as fast."""
    architecture, link = sparse_sizes_of(MODEL), LINKS[LINK].bytes_per_s
    return 1 - offload_bound(architecture, link).tokens_per_s / speed
