"""What a long context costs in memory: kinds of attention on one model, and models as they are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from moeviz.checks import check_choice
from moeviz.costs import DEVICES, Architecture, cache_baselines, kv_cache_bytes
from moeviz.pictures.axes import LogScale, x_axis
from moeviz.pictures.costs.model_parts import sizes_of
from moeviz.pictures.plot import Key, Stop, heading, legend, mark, paragraph, track
from moeviz.pictures.svg import INK, SMALLEST, Picture, Svg, si, text_width

WIDTH = 470.0
ROWS, PITCH = 134.0, 42.0  # where the first row stands, and from one to the next
CONTEXTS = tuple(2**i for i in range(10, 21))
BYTES = LogScale(1e6, 1e15, 20, 446)  # of all contexts and batches: what is dragged moves on it
LADDER = "DeepSeek-V3 / R1"
SHOWN = (
    "GPT-3 175B", "Llama 3.1 405B", "Mixtral 8x22B", "Qwen3-235B-A22B", "DeepSeek-V3 / R1",
    "gpt-oss-120b", "Qwen3-Next-80B-A3B", "DeepSeek-V4-Pro",
)  # fmt: skip
COLOURS = {"MHA": "#d55e00", "GQA": "#e69f00", "MQA": "#56b4e9", "MLA": "#009e73"}
OTHER = "#cc79a7"
# What a kind of attention keeps, for the hover text of a row.
KEEPS = {
    "MHA": "every head keeps keys and values of its own",
    "GQA": "a group of heads shares its keys and values",
    "MQA": "all heads share one set of keys and values",
    "MLA": "one short vector for each token",
    "CSA": "one entry for every 4 tokens, and only some of them are read",
    "HCA": "one entry for every 128 tokens",
    "Gated DeltaNet": "one state of fixed size, however long the text is",
    "window": "only the last tokens are kept",
}
# What is compared with MLA, by a short name: a rung of the ladder, or a model as it is.
RUNGS = {
    "full heads": "MHA, 128 heads, keys and values of 128",
    "V3's own heads": "MHA with its own keys of 192",
    "8 groups": "GQA, 8 groups",
    "4 groups": "GQA, 4 groups",
    "one head": "MQA",
}
OTHERS = {**RUNGS, **{name: name for name in SHOWN if name != LADDER}}
# DeepSeek-V2, 2405.04434, table 9: two models trained alike, with MHA and with MLA.
MEASURED_PAIR = 24.9
V2, V2_BASELINE = "DeepSeek-V2", "DeepSeek 67B"
MEMORY = DEVICES["H100 SXM"].memory_bytes
COLUMNS = ("what", "bytes of one sequence", "bytes a token and layer", "times MLA", "formula")


@lru_cache(maxsize=256)
def _bytes(architecture: Architecture, context: int, bits: int) -> float:
    return kv_cache_bytes(architecture, context, bits=bits).total


def rungs(context: int, bits: int) -> list[tuple[str, float, float, float, str]]:
    """(label, bytes, bytes a token and layer, times MLA, formula) of V3's layers under each kind of
    attention; only MLA was built."""
    shape = sizes_of(LADDER)
    layers = len(shape.layers)
    own = _bytes(shape, context, bits)
    caches = [
        (b.label, own * b.ratio, b.elements * bits / 8, b.ratio, b.formula)
        for b in cache_baselines(shape)
    ]
    each = own / layers / context
    return [*caches, ("MLA, as built", own, each, 1.0, "(kv_rank 512 + rope 64) / 576")]


def saved(bits: int) -> float:
    """Per cent that V2's cache with so many bits saves against the 67B model's with 16."""
    own, other = _bytes(sizes_of(V2), 4096, bits), _bytes(sizes_of(V2_BASELINE), 4096, 16)
    return 100 * (1 - own / other)


def cache_ladder(*, context: int, bits: int = 16, batch: int = 1, other: str) -> Picture:
    """Left: V3's layers with another attention each, right: models as they are; bytes of `batch`
    sequences of that length, against the memory of one GPU. other: of OTHERS, what MLA is compared
    with."""
    steps, models = rungs(context, bits), _found(context, bits)
    own, name = steps[-1][1], OTHERS[check_choice("other", other, OTHERS)]
    totals = {label: value for label, value, *_ in steps} | {m.name: m.bytes for m in models}
    many = "One sequence" if batch == 1 else f"{batch} sequences"
    what = f"{name} takes" if name in SHOWN else f"With {name} it would be"
    summary = (
        f"{many} of {context:,} tokens: DeepSeek-V3's cache is {si(batch * own, 'B')} with latent "
        f"attention (MLA). {what} {si(batch * totals[name], 'B')}, {times(totals[name] / own)}."
    )
    base = ROWS + PITCH * len(steps)
    svg = Svg(WIDTH, base + 164, "Ladder of key-value caches", summary)
    heading(svg, "DeepSeek-V3's 61 layers with another attention",
            f"{many}, {bits} bits · drag the context, press a row")  # fmt: skip
    _context(svg, context)
    _axis(svg, base)
    for i, (label, value, *_) in enumerate(steps):
        kin = (model.name for model in models if label[:3] in model.kinds)
        title = label if label.startswith("MLA") else f"{label} (not built)"
        row = Row(label, title, batch * value, value / own, label[:3], label)
        _row(svg, i, row, batch * own, kin, is_chosen=label == name)
    svg.text(8, base + 58, f"{name}: {times(totals[name] / own)}", bold=True)
    paragraph(svg, 8, base + 78, textwrap.wrap(_note(other, bits), 66))
    kinds = {**COLOURS, "another kind": OTHER}.items()
    legend(svg, 8, base + 156, [Key(kind, c, mark="circle", width=0) for kind, c in kinds])
    beside = svg.beside(WIDTH, ROWS + PITCH * len(models) + 66)
    _models(beside, models, [step[0] for step in steps], batch, own, name, context)
    table = [
        (f"V3's layers, {label}", f"{batch * value:,.0f}", f"{each:,.0f}", f"{ratio:.2f}", words)
        for label, value, each, ratio, words in steps
    ]
    table += [
        (m.name, f"{batch * m.bytes:,.0f}", "", f"{m.bytes / own:.2f}", m.kinds) for m in models
    ]
    return svg.picture(COLUMNS, table)


def times(ratio: float) -> str:
    return f"{ratio:.3g} times MLA's"


def _note(other: str, bits: int) -> str:
    """What stands behind a comparison, in sentences."""
    abstract = (
        "DeepSeek-V2's abstract says 93.3 % less than 8 groups, for it stores its own cache in "
        f"fewer bits. With 16 bits in both it is {saved(16):.1f} %."
    )
    notes = {
        "full heads": "This is the 57 that articles quote. Nobody built such a model.",
        "V3's own heads": "V3's keys are 192 numbers wide, its values 128. DeepSeek-V2's makers "
        "trained two models alike, one with full heads and one with MLA. There the cache became "
        f"{MEASURED_PAIR} times smaller (2405.04434, table 9).",
        "8 groups": f"Llama 3.1 and Mixtral have 8 groups of heads. {abstract}",
        "4 groups": "Qwen3-235B has 4 groups of heads. Fewer groups, smaller cache.",
        "one head": "All heads share one set of keys and values. MLA keeps more than that.",
    }
    model = (
        "Another model: its number of layers and its heads count too, not its kind of attention "
    )
    return notes.get(other, f"{model}alone. Both caches are counted with {bits} bits.")


@dataclass(frozen=True)
class Row:
    """A mark: its name, what stands over it, its bytes, how many times MLA it is, its kind of
    attention for a colour, and all its kinds."""

    name: str
    title: str
    bytes: float
    ratio: float
    kind: str
    kinds: str


def _context(svg: Svg, context: int) -> None:
    """The length of a sequence, on a line to be dragged."""
    x = LogScale(CONTEXTS[0], CONTEXTS[-1], 84, WIDTH - 150)
    svg.text(8, 70, "context", bold=True)
    stops = [Stop(x(c), f"{c:,} tokens", {"context": c}) for c in CONTEXTS]
    track(svg, 66, stops, x(context))
    svg.text(WIDTH - 8, 70, f"{context:,} tokens", anchor="end", bold=True)


def _axis(svg: Svg, base: float) -> None:
    """Bytes, the same in both parts, with the memory of one GPU."""
    x_axis(svg, BYTES, base, "bytes of cache, each step 1,000 times; weights come on top",
           top=ROWS - 18, ticks=[1e6, 1e9, 1e12, 1e15], form=lambda v: si(v, "B"))  # fmt: skip
    at, y = BYTES(MEMORY), ROWS + 15
    while y < base:  # beside each mark, and not through the titles
        svg.line(at, y - 10, at, y + 10, stroke=INK, width=2)
        y += PITCH
    svg.text(at, ROWS - 24, f"one H100 holds {si(MEMORY, 'B')}", anchor="middle")


def _row(svg: Svg, i: int, row: Row, own: float, kin: Iterable[str], *, is_chosen: bool) -> None:
    """A mark on the axis, which is pressed to compare it with MLA's own bytes: how far they are
    from each other is their ratio."""
    size, y = si(row.bytes, "B"), ROWS + PITCH * i
    press = next(({"other": key} for key, name in OTHERS.items() if name == row.name), None)
    keeps = "; ".join(f"{kind}: {words}" for kind, words in KEEPS.items() if kind in row.kinds)
    tip = f"{row.title}: {size}, {times(row.ratio)}. {keeps}"
    with svg.thing(row.name, *kin, tip=tip, press=press):
        edge = INK if is_chosen else "transparent"
        svg.rect(1, y - 13, WIDTH - 2, PITCH - 4, "none", stroke=edge, radius=6)
        svg.text(8, y + 1, row.title, bold=is_chosen, halo=True)
        at, middle = BYTES(row.bytes), y + 15
        svg.line(BYTES.start, middle, at, middle)
        if is_chosen:
            svg.line(BYTES(own), middle, at, middle, stroke=INK, width=3)
            svg.line(BYTES(own), middle - 6, BYTES(own), middle + 6, stroke=INK, width=3)
        mark(svg, "circle", at, middle, COLOURS.get(row.kind, OTHER), 6.5, stroke=INK)
        words = f"{size} · {row.ratio:.3g}×" if is_chosen else size
        left, right = sorted((at, BYTES(own) if is_chosen else at))
        beside, anchor = (left - 12, "end") if right > WIDTH - 130 else (right + 12, "start")
        wide, memory = text_width(words, SMALLEST), BYTES(MEMORY)
        if anchor == "start" and beside - 4 < memory < beside + wide:
            beside = memory + 8
        elif anchor == "end" and beside - wide < memory < beside + 4:
            beside = memory - 8
        svg.text(beside, middle + 4, words, bold=is_chosen, anchor=anchor, halo=True)


@dataclass(frozen=True)
class Cached:
    """A model with the bytes of one sequence and the kinds of its layers; note: that it was made
    for shorter ones."""

    name: str
    bytes: float
    kinds: str
    note: str


def _found(context: int, bits: int) -> list[Cached]:
    caches = []
    for name in SHOWN:
        shape = sizes_of(name)
        kinds = " + ".join(
            f"{times} {mixer.kind}{', window' if getattr(mixer, 'window', None) else ''}"
            for times, mixer in shape.mixers()
        )
        most = shape.context_tokens or context
        note = f" (made for {most:,})" if most < context else ""
        caches.append(Cached(name, _bytes(shape, context, bits), kinds, note))
    return caches


def _models(
    svg: Svg, caches: list[Cached], rungs: list[str], batch: int, own: float, chosen: str,
    context: int,
) -> None:  # fmt: skip
    """Models as they are; rungs: the names of the ladder's, which are lit with them."""
    heading(svg, "Models as they are", f"the same {context:,} tokens, on the same axis")
    _axis(svg, ROWS + PITCH * len(caches))
    for i, model in enumerate(caches):
        kind = next((k for k in COLOURS if k in model.kinds), "")
        kin = (rung for rung in rungs if rung[:3] in model.kinds)
        title, total = f"{model.name}: {model.kinds}{model.note}", batch * model.bytes
        row = Row(model.name, title, total, model.bytes / own, kind, model.kinds)
        _row(svg, i, row, batch * own, kin, is_chosen=model.name == chosen)
