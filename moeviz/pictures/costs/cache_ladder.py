"""What a long context costs in memory: kinds of attention on one model, and models as they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from moeviz.costs import DEVICES, Architecture, cache_baselines, kv_cache_bytes
from moeviz.pictures.costs.model_parts import sizes_of
from moeviz.pictures.plot import box, heading, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, ink_on, si

WIDTH, HEIGHT, BAR = 470.0, 456.0, 340.0
LADDER = "DeepSeek-V3 / R1"
SHOWN = (
    "GPT-3 175B", "Llama 3.1 405B", "Mixtral 8x22B", "Qwen3-235B-A22B", "DeepSeek-V3 / R1",
    "gpt-oss-120b", "Qwen3-Next-80B-A3B", "DeepSeek-V4-Pro",
)  # fmt: skip
COLOURS = {"MHA": "#d55e00", "GQA": "#e69f00", "MQA": "#56b4e9", "MLA": "#009e73"}
OTHER = "#cc79a7"
# DeepSeek-V2, 2405.04434, table 9: two models trained alike, with MHA and with MLA.
MEASURED_PAIR = 24.9
V2, V2_BASELINE, V2_CACHE_BITS = "DeepSeek-V2", "DeepSeek 67B", 6
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


def _saved(bits: int) -> float:
    """Per cent that V2's cache with so many bits saves against the 67B model's with 16."""
    own, other = _bytes(sizes_of(V2), 4096, bits), _bytes(sizes_of(V2_BASELINE), 4096, 16)
    return 100 * (1 - own / other)


def cache_ladder(*, context: int, bits: int = 16, batch: int = 1) -> Picture:
    """Left: V3's layers with another attention each, right: models as they are; bytes of `batch`
    sequences of that length, against the memory of one GPU."""
    steps = rungs(context, bits)
    baseline, own = steps[0], steps[-1]
    eight = next(s for s in steps if "8 groups" in s[0])
    many = "One sequence" if batch == 1 else f"{batch} sequences"
    latent, plain = (si(batch * step[1], "B") for step in (own, baseline))
    summary = (
        f"{many} of {context:,} tokens in DeepSeek-V3's layers: {latent} with latent attention, "
        f"{plain} with {baseline[0]}, {baseline[3]:.1f} times as much; GQA with 8 groups takes "
        f"{eight[3]:.1f} times as much."
    )
    svg = Svg(WIDTH, HEIGHT, "Ladder of key-value caches", summary)
    heading(svg, "DeepSeek-V3's 61 layers with another attention",
            f"{many} of {context:,} tokens, {bits} bits · factor: times MLA")  # fmt: skip
    models = _found(context, bits)
    top = max(step[1] for step in steps)
    for i, (label, value, _, ratio, _) in enumerate(steps):
        name = label if label.startswith("MLA") else f"{label} (not built)"
        size = si(batch * value, "B")
        kin = (model.name for model in models if label[:3] in model.kinds)
        with svg.thing(label, *kin, tip=f"{label}: {size}, {ratio:.3g} times MLA"):
            y, share, words = 62.0 + 44 * i, value / top, f"{size} · {ratio:.3g}×"
            colour = _bar(svg, y, name, share, label[:3])
            inside = share > 0.5
            svg.text(BAR * share + (-8 if inside else 8), y + 19, words, bold=True,
                     anchor="end" if inside else "start",
                     fill=ink_on(colour) if inside else INK)  # fmt: skip
    notes = (
        f"57× is the first bar over the last: {baseline[3]:.1f}. Keys as wide as V3's: "
        f"{steps[1][3]:.0f}×.",
        f"DeepSeek-V2's own pair, both trained: {MEASURED_PAIR}× (table 9).",
        f"Its abstract says −93.3 %: counted −{_saved(V2_CACHE_BITS):.1f} % of a 67B model",
        f"with GQA-8, for 6 bits against 16; −{_saved(16):.1f} % at 16 bits each.",
    )
    paragraph(svg, 0, 62.0 + 44 * len(steps) + 14, notes, 19)
    _models(svg.beside(WIDTH, HEIGHT), models, [step[0] for step in steps], batch)
    rows = [
        (f"V3's layers, {label}", f"{batch * value:,.0f}", f"{each:,.0f}", f"{ratio:.2f}", words)
        for label, value, each, ratio, words in steps
    ]
    rows += [
        (m.name, f"{batch * m.bytes:,.0f}", "", f"{m.bytes / own[1]:.2f}", m.kinds) for m in models
    ]
    return svg.picture(COLUMNS, rows)


@dataclass(frozen=True)
class Cached:
    """A model with the bytes of one sequence and the kinds of its layers; reaches: whether it was
    made for so long a context."""

    name: str
    bytes: float
    kinds: str
    reaches: bool


def _found(context: int, bits: int) -> list[Cached]:
    caches = []
    for name in SHOWN:
        shape = sizes_of(name)
        kinds = " + ".join(
            f"{times} {mixer.kind}{', window' if getattr(mixer, 'window', None) else ''}"
            for times, mixer in shape.mixers()
        )
        reaches = shape.context_tokens is None or context <= shape.context_tokens
        caches.append(Cached(name, _bytes(shape, context, bits), kinds, reaches))
    return caches


def _bar(svg: Svg, y: float, name: str, share: float, kind: str, hatched: bool = False) -> str:
    """A name over its bar, whose colour is returned."""
    svg.text(0, y, name)
    colour = COLOURS.get(kind, OTHER)
    box(svg, 0, y + 5, max(BAR * share, 1.5), 18, colour, hatched=hatched)
    return colour


def _models(svg: Svg, caches: list[Cached], rungs: list[str], batch: int) -> None:
    """Models as they are; rungs: the names of the ladder's, which are lit with them."""
    top = max(batch * model.bytes for model in caches)
    heading(svg, "Models as they are", "hatched: longer than the model was made for")
    for i, model in enumerate(caches):
        total = batch * model.bytes
        kind = next((k for k in COLOURS if k in model.kinds), "")
        kin = (rung for rung in rungs if rung[:3] in model.kinds)
        size = si(total, "B")
        tip = (
            f"{model.name}, {model.kinds}: {size}, {total / MEMORY:.3g} times the memory of an H100"
        )
        with svg.thing(model.name, *kin, tip=tip):
            y, name = 62.0 + 44 * i, f"{model.name}: {model.kinds}"
            _bar(svg, y, name, total / top, kind, hatched=not model.reaches)
            svg.text(WIDTH, y + 19, size, bold=True, anchor="end")  # beyond the line of one GPU
    base = 62.0 + 44 * len(caches)
    at = BAR * MEMORY / top
    if MEMORY <= top * 1.15:
        for i in range(len(caches)):
            svg.line(at, 67 + 44 * i, at, 85 + 44 * i, stroke=INK, width=2)
        svg.line(6, base + 2, 6, base + 18, stroke=INK, width=2)
        svg.text(16, base + 14, f"the memory of one H100, {si(MEMORY, 'B')}")
    else:
        svg.text(0, base + 14, "One H100 has 80 GB: far beyond the right edge.", fill=MUTED)
    svg.text(0, base + 34, "bytes of cache; weights come on top", fill=MUTED)
