"""What a long context costs in memory: kinds of attention on one model, and models as they are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from moeviz.checks import check_choice
from moeviz.costs import DEVICES, Architecture, cache_baselines, kv_cache_bytes
from moeviz.pictures.axes import LogScale, Scale, x_axis
from moeviz.pictures.costs.model_parts import sizes_of
from moeviz.pictures.plot import Stop, heading, paragraph, track
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, si, three

WIDTH, SIDE = 560.0, 392.0
ROWS, PITCH = 138.0, 42.0  # where the first row stands, and from one to the next
CONTEXTS = tuple(2**i for i in range(10, 21))
LADDER = "DeepSeek-V3 / R1"
SHOWN = (
    "GPT-3 175B", "Llama 3.1 405B", "Mixtral 8x22B", "Qwen3-235B-A22B", "DeepSeek-V3 / R1",
    "gpt-oss-120b", "Qwen3-Next-80B-A3B", "DeepSeek-V4-Pro",
)  # fmt: skip
LATENT, ANOTHER = "#009e73", "#56b4e9"
# What a kind of attention keeps, in few words, and for the hover text of a row.
SHORT = {
    "MHA": "full heads", "GQA": "grouped heads", "MQA": "one head", "MLA": "latent vectors",
    "CSA": "entries of 4 tokens", "HCA": "of 128", "Gated DeltaNet": "fixed state",
    "window": "windows",
}  # fmt: skip
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
TITLES = {
    "full heads": "full heads, which nobody built",
    "V3's own heads": "full heads with V3's wide keys, not built either",
    "8 groups": "8 groups of heads, as in Llama 3.1",
    "4 groups": "4 groups of heads, as in Qwen3-235B",
    "one head": "one head, shared by all",
}
MOST = 72.0  # the end of the axis, in MLA's caches: whatever the context, full heads take 71
# DeepSeek-V2, 2405.04434, table 9: two models trained alike, with MHA and with MLA, keep 860.2K and
# 34.6K numbers of a token, two small ones 110.6K and 15.6K.
LARGE_PAIR, SMALL_PAIR = 24.9, 7.1
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
    """Left: V3's layers with another attention each, right: models as they are; a bar for how many
    times as much as MLA they keep, and bytes of `batch` sequences of that length. other: of OTHERS,
    what MLA is compared with."""
    steps, models = rungs(context, bits), _found(context, bits)
    own, name = steps[-1][1], OTHERS[check_choice("other", other, OTHERS)]
    ratios = {label: ratio for label, _, _, ratio, _ in steps}
    ratios |= {model.name: model.bytes / own for model in models}
    many = "One sequence" if batch == 1 else f"{batch} sequences"
    compared = "8 groups" if other == "full heads" else other
    findings = [
        f"{smaller(ratios[OTHERS[key]])} than {'that of' if key in SHOWN else 'with'} "
        f"{TITLES.get(key, key)}"
        for key in ("full heads", compared)
    ]
    summary = (
        f"DeepSeek-V3's cache is {findings[0]}. It is {findings[1]}. {many} of {context:,} tokens: "
        f"{si(batch * own, 'B')}."
    )
    base = ROWS + PITCH * len(steps)
    note = textwrap.wrap(_note(other, bits), 82)
    svg = Svg(WIDTH, base + 146, "Ladder of key-value caches", summary)
    heading(svg, "How much smaller is DeepSeek-V3's cache, by latent attention?")
    paragraph(svg, 0, 38, (f"{findings[0]},", f"{findings[1]}."), bold=True)
    _context(svg, context)
    _axis(svg, base, _scale(340))
    for i, (label, value, _, ratio, _) in enumerate((steps[-1], *steps[:-1])):
        kin = (model.name for model in models if label[:3] in model.kinds)
        key = next((key for key, rung in RUNGS.items() if rung == label), "")
        title = TITLES[key] if key else "latent attention (MLA), as built"
        row = Row(label, title[0].upper() + title[1:], "", batch * value, ratio, label)
        _row(svg, i, row, _scale(340), kin, is_chosen=label == name)
    paragraph(svg, 8, base + 62, note)
    words = f"{many}, {bits} bits a number. An H100 holds {si(MEMORY, 'B')}; weights come on top."
    svg.text(8, base + 140, words, fill=MUTED)
    _models(svg.beside(SIDE, 60 + PITCH * len(models) + 52), models, steps, batch, name, context)
    table = [
        (f"V3's layers, {label}", f"{batch * value:,.0f}", f"{each:,.0f}", f"{ratio:.2f}", words)
        for label, value, each, ratio, words in steps
    ]
    table += [
        (m.name, f"{batch * m.bytes:,.0f}", "", f"{m.bytes / own:.2f}", m.kinds) for m in models
    ]
    return svg.picture(COLUMNS, table)


def smaller(ratio: float) -> str:
    """How MLA's cache stands to one that is so many times as large."""
    if ratio < 1:
        return f"{1 / ratio:.3g} times larger"
    return f"{ratio:.3g} times smaller"


def _note(other: str, bits: int) -> str:
    """What stands behind a comparison, in sentences."""
    abstract = (
        "DeepSeek-V2's abstract says 93.3 % less than 8 groups, for it stores its own cache in "
        f"fewer bits. With 16 bits in both it is {saved(16):.1f} %."
    )
    notes = {
        "full heads": "This is the 57 that articles quote. Nobody built such a model.",
        "V3's own heads": "V3's keys are 192 numbers wide, its values 128. DeepSeek-V2's makers "
        "trained two large models alike, one with full heads and one with MLA, and two small "
        f"ones. There the cache became {LARGE_PAIR} and {SMALL_PAIR} times smaller (2405.04434, "
        "table 9).",
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
    """A bar: its name, what stands over it and beside that, its bytes, how many times MLA it is,
    and its kinds of attention."""

    name: str
    title: str
    words: str
    bytes: float
    ratio: float
    kinds: str


def _context(svg: Svg, context: int) -> None:
    """The length of a sequence, on a line to be dragged."""
    x = LogScale(CONTEXTS[0], CONTEXTS[-1], 84, WIDTH - 170)
    svg.text(8, 94, "context", bold=True)
    stops = [Stop(x(c), f"{c:,} tokens", {"context": c}) for c in CONTEXTS]
    track(svg, 90, stops, x(context))
    for c in (CONTEXTS[0], CONTEXTS[-1]):
        svg.text(x(c), 114, f"{c:,}", anchor="middle", fill=MUTED)
    svg.text(WIDTH - 8, 94, f"{context:,} tokens", anchor="end", bold=True)


def _scale(end: float) -> Scale:
    return Scale(0, MOST, 8, end)


def _axis(svg: Svg, base: float, x: Scale) -> None:
    x_axis(svg, x, base, ticks=[0, 20, 40, 60], form=lambda v: f"{v:g}×" if v else "0")
    svg.text(x.start, base + 36, "times the cache of latent attention · press one to compare it")


def _row(svg: Svg, i: int, row: Row, x: Scale, kin: Iterable[str], *, is_chosen: bool,
         top: float = ROWS) -> None:  # fmt: skip
    """A bar, which is pressed to compare it with MLA's, and what it would fill."""
    size, y = si(row.bytes, "B"), top + PITCH * i
    press = next(({"other": key} for key, name in OTHERS.items() if name == row.name), None)
    keeps = "; ".join(f"{kind}: {words}" for kind, words in KEEPS.items() if kind in row.kinds)
    tip = f"{row.name}: {size}, {row.ratio:.3g} times MLA's. {keeps}"
    with svg.thing(row.name, *kin, tip=tip, press=press):
        edge = INK if is_chosen else "transparent"
        svg.rect(1, y - 14, svg.width - 2, PITCH - 3, "none", stroke=edge, radius=6)
        svg.text(8, y, row.title, bold=is_chosen)
        svg.text(svg.width - 8, y, row.words, anchor="end", fill=MUTED)
        wide, colour = x(row.ratio) - x.start, LATENT if "MLA" in row.kinds else ANOTHER
        svg.rect(x.start, y + 6, wide, 13, colour, stroke=MUTED)
        words = f"{size} · {row.ratio:.3g}× · {_filled(row.bytes)}"
        svg.text(x.start + wide + 10, y + 17, words, bold=is_chosen)


def _filled(size: float) -> str:
    """How many GPUs would be full of it."""
    share = size / MEMORY
    return f"{three(share)} H100s" if share >= 1 else f"{100 * share:.2g} % of an H100"


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
        note = f" (to {most:,})" if most < context else ""
        caches.append(Cached(name, _bytes(shape, context, bits), kinds, note))
    return caches


def _models(
    svg: Svg, caches: list[Cached], steps: Sequence[tuple[str, float, float, float, str]],
    batch: int, chosen: str, context: int,
) -> None:  # fmt: skip
    """Models as they are; steps: of the ladder, whose rungs are lit with them."""
    own, top = steps[-1][1], 72.0
    heading(svg, "Models as they are", f"the same {context:,} tokens, on the same axis")
    _axis(svg, top + PITCH * len(caches) - 6, _scale(180))
    for i, model in enumerate(caches):
        kin = (label for label, *_ in steps if label[:3] in model.kinds)
        words = ", ".join(short for kind, short in SHORT.items() if kind in model.kinds)
        total, ratio = batch * model.bytes, model.bytes / own
        row = Row(model.name, model.name, words + model.note, total, ratio, model.kinds)
        _row(svg, i, row, _scale(180), kin, is_chosen=model.name == chosen, top=top)
