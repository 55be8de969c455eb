"""What a long context costs in memory: kinds of attention on one model, and models as they are."""

from __future__ import annotations

from functools import lru_cache

from moeviz.costs import DEVICES, Architecture, cache_baselines, kv_cache_bytes
from moeviz.pictures.costs.model_parts import sizes_of
from moeviz.pictures.plot import box, heading, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, ink_on, si

WIDTH, HEIGHT = 900.0, 456.0
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
    top = max(step[1] for step in steps)
    for i, (label, value, _, ratio, _) in enumerate(steps):
        name = label if label.startswith("MLA") else f"{label} (not built)"
        _bar(svg, 0, 62 + 44 * i, 330, name, batch * value, value / top, label[:3], f"{ratio:.3g}×")
    notes = (
        f"57× is the first bar over the last: {baseline[3]:.1f}. Keys as wide as V3's: "
        f"{steps[1][3]:.0f}×.",
        f"DeepSeek-V2's own pair, both trained: {MEASURED_PAIR}× (table 9).",
        f"Its abstract says −93.3 %: counted −{_saved(V2_CACHE_BITS):.1f} % of a 67B model",
        f"with GQA-8, for 6 bits against 16; −{_saved(16):.1f} % at 16 bits each.",
    )
    paragraph(svg, 0, 62.0 + 44 * len(steps) + 14, notes, 19)
    _models(svg, context, bits, batch)
    rows = [
        (f"V3's layers, {label}", f"{batch * value:,.0f}", f"{each:,.0f}", f"{ratio:.2f}", words)
        for label, value, each, ratio, words in steps
    ]
    rows += [
        (name, f"{batch * value:,.0f}", "", f"{value / own[1]:.2f}", kind)
        for name, value, kind, _ in _found(context, bits)
    ]
    return svg.picture(COLUMNS, rows)


def _found(context: int, bits: int) -> list[tuple[str, float, str, bool]]:
    """(name, bytes, kinds of its layers, whether it was made for so long a context)."""
    caches = []
    for name in SHOWN:
        shape = sizes_of(name)
        kinds = " + ".join(
            f"{times} {mixer.kind}{', window' if getattr(mixer, 'window', None) else ''}"
            for times, mixer in shape.mixers()
        )
        reaches = shape.context_tokens is None or context <= shape.context_tokens
        caches.append((name, _bytes(shape, context, bits), kinds, reaches))
    return caches


def _bar(
    svg: Svg, x: float, y: float, width: float, name: str, value: float, share: float, kind: str,
    factor: str = "", hatched: bool = False,
) -> None:  # fmt: skip
    svg.text(x, y, name)
    colour = COLOURS.get(kind, OTHER)
    box(svg, x, y + 5, max(width * share, 1.5), 18, colour, hatched=hatched)
    if not factor:  # the models' column: beyond the line of one GPU
        svg.text(WIDTH, y + 19, si(value, "B"), bold=True, anchor="end")
        return
    words = f"{si(value, 'B')} · {factor}"
    end = x + width * share
    if share > 0.5:
        svg.text(end - 8, y + 19, words, bold=True, anchor="end", fill=ink_on(colour))
    else:
        svg.text(end + 8, y + 19, words, bold=True)


def _models(svg: Svg, context: int, bits: int, batch: int) -> None:
    left, width = 470.0, 310.0
    caches = _found(context, bits)
    top = max(batch * value for _, value, _, _ in caches)
    heading(svg, "Models as they are", "hatched: longer than the model was made for", left)
    for i, (name, value, kinds, reaches) in enumerate(caches):
        total, kind = batch * value, next((k for k in COLOURS if k in kinds), "")
        _bar(svg, left, 62 + 44 * i, width, f"{name}: {kinds}", total, total / top, kind,
             hatched=not reaches)  # fmt: skip
    base = 62 + 44 * len(caches)
    at = left + width * MEMORY / top
    if MEMORY <= top * 1.25:
        for i in range(len(caches)):
            svg.line(at, 67 + 44 * i, at, 90 + 44 * i, stroke=INK, width=2)
        svg.text(left, base + 14, f"black line: {si(MEMORY, 'B')}, one H100")
    else:
        svg.text(left, base + 14, "One H100 has 80 GB: far beyond the right edge.", fill=MUTED)
    svg.text(left, base + 34, "bytes of cache; weights come on top", fill=MUTED)
