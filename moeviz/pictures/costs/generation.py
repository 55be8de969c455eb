"""How fast one small model writes: dense, sparse, in fewer bits, and with its experts in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moeviz.pictures.axes import LogScale, decades, short, x_axis
from moeviz.pictures.costs.fewer_bits import NAMES
from moeviz.pictures.plot import heading, mark, paragraph, row
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, three
from moeviz.words import percent

WIDTH, ROW, TOP, LEFT = 560.0, 22.0, 142.0, 232.0
LAYERS, EXPERTS = 3, 8  # of the shipped model
DRAWN = 4  # of the experts of a layer in memory, where the rest is in a file
GROUPS = {
    "memory": ("All of it in memory", "#0072b2", "circle"),
    "packed": ("Experts packed in memory", "#009e73", "square"),
    "file": ("Experts in a file", "#d55e00", "diamond"),
}
COLUMNS = (
    "way", "tokens/s", "quartiles", "experts in memory, kB", "hits", "read a token, kB",
    "writes the same",
)  # fmt: skip
FP32 = {"fp32": "FP32"} | NAMES
BUSY = 2.0  # a load above this: more wants a core than the machine of the recording has

Figures = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One way to write. held: bytes of experts in memory; read: bytes of a file, for each token;
    hits: the share of the experts that were there; same: None where there is nothing to compare."""

    group: str
    name: str
    speed: Figures
    held: float | None = None
    hits: float | None = None
    read: float | None = None
    same: bool | None = None
    drawn: bool = True

    def cells(self) -> tuple[str, ...]:
        low, high = self.speed["q1"], self.speed["q3"]
        return (
            self.name, three(self.speed["median"]), f"{three(low)} to {three(high)}",
            "" if self.held is None else f"{self.held / 1e3:,.0f}",
            "" if self.hits is None else percent(self.hits),
            "" if self.read is None else f"{self.read / 1e3:,.0f}",
            {None: "", True: "yes", False: "no"}[self.same],
        )  # fmt: skip


def generation(figures: Figures) -> Picture:
    """A row for each way to write: the median of tokens a second, and its quartiles. figures: see
    experiments.offloaded."""
    every = list(ways(figures))
    drawn = [way for way in every if way.drawn]
    speeds = [way.speed[key] for way in drawn for key in ("q1", "q3")]
    x = LogScale(decades(speeds)[0], 1.5 * max(speeds), LEFT, WIDTH - 14)
    bottom = TOP + ROW * (len(drawn) + len({way.group for way in drawn}))
    svg = Svg(WIDTH, bottom + 46, "A model as it writes", told(figures))
    heading(svg, "How fast does one small model write?")
    note = (
        f"{figures['tokens']} tokens, the likeliest each time, one sequence, one thread of one "
        "machine.",
        "Mark: the median of some turns; line: their quartiles. An expert takes "
        f"{figures['expert_bytes']['fp32'] / 1e3:.0f} kB",
        "in FP32. What else takes the time was not measured.",
    )
    svg.text(0, 38, told_first(figures), bold=True)
    paragraph(svg, 0, 57, note, fill=MUTED)
    x_axis(svg, x, bottom - ROW / 2, "tokens/s, logarithmic", top=TOP - ROW, form=short)
    y = TOP - ROW
    for group in dict.fromkeys(way.group for way in drawn):
        title, colour, shape = GROUPS[group]
        svg.text(0, y + 4, title, bold=True)
        for way in (way for way in drawn if way.group == group):
            y += ROW
            median = way.speed["median"]
            tip = "; ".join(f"{c}: {v}" for c, v in zip(COLUMNS, way.cells(), strict=True) if v)
            with row(svg, y, ROW, f"{group}_{way.name}", group, tip=tip):
                svg.text(12, y + 4, way.name)
                svg.line(x(way.speed["q1"]), y, x(way.speed["q3"]), y, stroke=colour, width=3)
                mark(svg, shape, x(median), y, colour, stroke=INK)
                svg.text(x(max(median, way.speed["q3"])) + 9, y + 4, three(median), halo=True)
        y += ROW
    return svg.picture(COLUMNS, (way.cells() for way in every))


def ways(figures: Figures) -> Iterator[Way]:
    """All of them in the order of the picture."""
    whole = LAYERS * EXPERTS * figures["expert_bytes"]["fp32"]
    memory = figures["in_memory"]
    yield Way("memory", "dense twin", memory["dense twin"])
    yield Way("memory", "MoE", memory["MoE"], whole)
    for each in figures["packed"]:
        yield Way(
            "packed", _packed_name(each), each["tokens_per_s"], each["bytes"], same=each["same"]
        )
    tokens = figures["tokens"] + figures["prompt"] - 1
    for run in figures["runs"]:
        where = "from the disk" if run["from_disk"] else "from RAM"
        name = f"{FP32[run['form']]}, {run['slots']} of {EXPERTS}, {where}"
        held = whole * run["slots"] / EXPERTS  # a cached expert is unpacked
        hits, read = run["hits"] / run["asked"], run["bytes_read"] / tokens
        yield Way(
            "file", name, run["tokens_per_s"], held, hits, read, run["same"], run["slots"] == DRAWN
        )


def _packed_name(each: Figures) -> str:
    if each["form"] == "fp32":
        return "FP32, expert by expert"
    how = "torch's kernel" if each["product"] == "kernel" else "unpacked each time"
    return f"{FP32[each['form']]}, {how}"


def told_first(figures: Figures) -> str:
    """The dense twin beside the MoE model, of which both visit equally much for a token."""
    memory = figures["in_memory"]
    ratio = memory["dense twin"]["median"] / memory["MoE"]["median"]
    way = f"{ratio:.1f} times as fast as" if ratio >= 1 else f"{1 / ratio:.1f} times slower than"
    return f"The dense twin is {way} the MoE model."


def told(figures: Figures) -> str:
    """Who is faster than whom, and whether bytes and words are those that they should be."""
    speed = {way.name: way.speed["median"] for way in ways(figures)}
    moe = speed["MoE"]
    load = figures["load"][0] if figures["load"] else 0.0
    where = f" on a machine of load {load:.1f}" if load else ""
    plain, packed = speed["FP32, expert by expert"], figures["packed"]
    names = [_packed_name(each) for each in packed if each["form"] != "fp32"]
    parts = [f"{name} {_times(speed[name], plain)}" for name in names]
    sentences = [
        f"The MoE model writes {three(moe)} tokens/s{where}.",
        *(["So much else ran then that other ratios may be found on a quiet one."] * (load > BUSY)),
        told_first(figures),
        f"Beside FP32 experts that are computed one after the other ({three(plain)} tokens/s), "
        f"packed ones are: {'; '.join(parts)}.",
    ]
    for where in ("from RAM", "from the disk"):
        name = f"FP32, {DRAWN} of {EXPERTS}, {where}"
        sentences.append(
            f"With {DRAWN} of {EXPERTS} experts of each layer in memory and the others {where} it "
            f"writes {_times(speed[name], moe)} as the MoE model in memory."
        )
    rows = [*figures["runs"], *packed]
    other = sum(not run["same"] for run in rows)
    wrong = sum(run.get("bytes", run.get("bytes_read")) != run["computed"] for run in rows)
    same = "Each way" if not other else f"All ways but {other}"
    counted = "all bytes are" if not wrong else f"the bytes of {wrong} of {len(rows)} are not"
    verb = "write" if other else "writes"
    sentences.append(
        f"{same} {verb} what a model in memory with the same weights writes, and {counted} those "
        "of the arithmetic."
    )
    ran, missing = (
        ", ".join(name for name, there in figures["kernels"].items() if there == here) or "none"
        for here in (True, False)
    )
    sentences.append(
        f"Of torch's kernels for packed weights, these run on that CPU: {ran}; these do not: "
        f"{missing}."
    )
    return " ".join(sentences)


def _times(speed: float, than: float) -> str:
    return f"{speed / than:.2f} times as fast"
