"""Where a model's parameters lie, which of them one token meets, and what follows: its sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from moeviz.checks import check_choice
from moeviz.costs import (
    MODELS,
    Architecture,
    Model,
    active_parameters,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    parameters,
    weight_bytes,
)
from moeviz.pictures.costs.model_parts import PARTS, by_part, count, part_of, sizes_of
from moeviz.pictures.plot import Stop, box, heading, paragraph, track
from moeviz.pictures.svg import INK, MUTED, RULE, SMALLEST, Picture, Svg, shorten, si, text_width

WIDTH, HEIGHT, SHEET = 470.0, 592.0, 136.0  # of one model, and the height of its sheet
BARS = 190.0  # where what is drawn of it begins
TERM_LINES = 4  # of a part's sum, at most
# The models that a track goes through, from year to year, and a config of the learner's own.
YOURS = "yours"
# With what stands at its stop.
PICKED = {
    "GPT-3 175B": "GPT-3", "Switch-C 1.6T": "Switch-C", "GLaM 64B/64E": "GLaM",
    "Mixtral 8x22B": "Mixtral", "Llama 3.1 405B": "Llama 3.1", "DeepSeek-V3 / R1": "DeepSeek-V3",
    "Llama 4 Maverick": "Llama 4", "Qwen3-235B-A22B": "Qwen3", "Kimi K2": "Kimi K2",
    "gpt-oss-120b": "gpt-oss", "GLM-5.2": "GLM-5.2", "DeepSeek-V4-Pro": "DeepSeek-V4",
    YOURS: YOURS,
}  # fmt: skip
CONTEXT = 32_768
CONVENTIONS = {
    "all": "everything",
    "ex_input_embedding": "without the input table",
    "ex_embeddings": "without both tables",
}
SHOWN_PLANS = ("bf16", "fp8", "int4", "mxfp4_experts")
COLUMNS = ("model", "part", "term", "parameters", "a token meets", "formula")


@dataclass(frozen=True)
class Sheet:
    """What follows from an architecture alone. active: by convention. cache_per_token: bytes that
    one more token adds at context_tokens; cache: bytes of so many; no_cache: why there is no such
    figure. weights: bytes by plan."""

    total: float
    active: dict[str, float]
    context_tokens: int
    cache_per_token: float
    cache: float
    no_cache: str
    weights: dict[str, float]


@lru_cache(maxsize=64)
def sheet(architecture: Architecture) -> Sheet:
    """Everything that the picture prints of one architecture."""
    context = min(CONTEXT, architecture.context_tokens or CONTEXT)
    try:
        each = kv_cache_bytes_per_token(architecture, context_tokens=context).total
        cache = (each, kv_cache_bytes(architecture, context).total, "")
    except ValueError:
        cache = (0.0, 0.0, "not counted: encoder and decoder tokens meet different layers")
    active = {name: active_parameters(architecture, name).total for name in CONVENTIONS}
    weights = {name: weight_bytes(architecture, name).total for name in SHOWN_PLANS}
    return Sheet(parameters(architecture).total, active, context, *cache, weights)


def model_anatomy(
    shown: Sequence[Model | Architecture], part: str, *, with_sheet: bool = False
) -> Picture:
    """One block for each: a bar of all parameters, hatched where a token does not go, a bar of what
    it meets, the sum of one part of PARTS, and, if wanted, the sheet. A bare Architecture is one
    that a learner pasted."""
    check_choice("part", part, [key.name for key in PARTS])
    summary = " ".join(_sentence(item) for item in shown)
    height = HEIGHT + SHEET * with_sheet
    svg = Svg(WIDTH, height, "Anatomy of models", summary)
    heading(svg, "How much of a model does one token meet?")
    svg.text(0, 38, ". ".join(map(_share, shown)) + ".", bold=True)
    note = "drag to another model, press a part · hatched: one token does not meet it"
    svg.text(0, 57, note, fill=MUTED)
    for i, item in enumerate(shown):
        side = svg.beside(WIDTH, height) if i else svg
        _picked(side, item, "beside" if i else "model")
        _block(side, item, part)
        _sheet(side, item, with_sheet=with_sheet)
    return svg.picture(COLUMNS, (row for item in shown for row in _rows(item)))


def _share(item: Model | Architecture) -> str:
    counted = sheet(_architecture(item))
    return f"{shorten(item.name, 24)}: {100 * counted.active['all'] / counted.total:.3g} %"


def _architecture(item: Model | Architecture) -> Architecture:
    return item if isinstance(item, Architecture) else sizes_of(item.name)


def _sentence(item: Model | Architecture) -> str:
    counted = sheet(_architecture(item))
    active, share = counted.active["all"], 100 * counted.active["all"] / counted.total
    met = f"of which one token meets {count(active)}, {share:.3g} %"
    if active == counted.total:
        met = "every token meets all"
    return f"{shorten(item.name, 40)}: {count(counted.total)} parameters, {met}."


def _picked(svg: Svg, item: Model | Architecture, control: str) -> None:
    """A model's name, and the line along which it is exchanged for another."""
    name = YOURS if isinstance(item, Architecture) else item.name
    svg.line(0, 68, WIDTH, 68, width=0.5)
    svg.text(0, 90, shorten(item.name, 40), size=14, bold=True)
    if name not in PICKED:
        return
    step = (WIDTH - 40) / (len(PICKED) - 1)
    stops = {
        other: Stop(20 + step * i, f"{control}: {other}", {control: other})
        for i, other in enumerate(PICKED)
    }
    for i, (other, stop) in enumerate(stops.items()):
        svg.line(stop.at, 121, stop.at, 136 + 15 * (i % 2), stroke=MUTED)
        svg.text(stop.at, 148 + 15 * (i % 2), PICKED[other], anchor="middle", bold=other == name,
                 fill=INK if other == name else MUTED, halo=True)  # fmt: skip
    track(svg, 121, [*stops.values()], stops[name].at)
    years = groupby(PICKED, lambda n: "" if n == YOURS else str(MODELS[n].year))
    for year, names in years:
        svg.text(stops[next(names)].at, 108, year, anchor="middle", fill=MUTED)


def _block(svg: Svg, item: Model | Architecture, part: str) -> None:
    architecture = _architecture(item)
    counted, name = sheet(architecture), shorten(item.name, 40)
    every = by_part(parameters(architecture))
    active = by_part(active_parameters(architecture))
    met = counted.active["all"]
    top = BARS
    svg.text(0, top, f"all parameters: {count(counted.total)}", bold=True)
    svg.text(0, top + 102, f"one token meets {count(met)} of them", bold=True)
    svg.text(WIDTH, top + 102, f"{100 * met / counted.total:.3g} %", anchor="end", bold=True)
    x, met_x = 0.0, 0.0
    for line, key in enumerate(PARTS):
        value, own = every[key], active[key]
        share = 100 * own / met
        tip = f"{name}, {key.name}: {count(value)}, a token meets {count(own)}, {share:.1f} %"
        with svg.thing(key.name, tip=tip, press={"part": key.name}):
            wide, used = WIDTH * value / counted.total, WIDTH * own / counted.total
            of_token = WIDTH * own / met
            # What a token meets of it, drawn out to the whole width.
            ends = [(x + used, top + 32), (x, top + 32), (met_x, top + 58),
                    (met_x + of_token, top + 58)]  # fmt: skip
            svg.polygon(ends, fill=key.colour, opacity=0.35)
            svg.rect(x, top + 6, wide, 26, key.colour, stroke=MUTED)
            if wide - used > 0.5:
                svg.hatch(x + used, top + 6, wide - used, 26, key.colour)
            svg.rect(met_x, top + 58, of_token, 26, key.colour, stroke=MUTED)
            y = top + 142 + 17.0 * line
            edge = INK if key.name == part else "transparent"
            svg.rect(1, y - 14, 440, 18, "none", stroke=edge, radius=4)
            svg.rect(6, y - 10, 11, 11, key.colour, stroke=MUTED)
            svg.text(23, y, key.name, bold=key.name == part)
            svg.text(230, y, count(value), anchor="end", mono=True)
            svg.text(310, y, count(own), anchor="end", mono=True)
            svg.text(430, y, f"{share:.1f} %", anchor="end", fill=MUTED, mono=True)
        x, met_x = x + wide, met_x + of_token
    for right, words in ((230, "all"), (310, "a token"), (430, "share of a token's")):
        svg.text(right, top + 124, words, fill=MUTED, anchor="end")
    svg.text(0, top + 284, f"{part}, from the sizes:", bold=True)
    paragraph(svg, 0, top + 302, _sum_lines(architecture, part), 17)


def _sheet(svg: Svg, item: Model | Architecture, *, with_sheet: bool) -> None:
    """A button for the sheet, and what it shows."""
    words = "hide the sheet" if with_sheet else "more: counts, weights, cache, sources"
    with svg.thing(tip=words, press={"sheet": not with_sheet}):
        wide = 0.93 * text_width(words, SMALLEST) + 20
        box(svg, 1, HEIGHT - 34, wide, 26, "none", words, radius=6, stroke=RULE)
    y = HEIGHT + 10
    for title, phrase in _facts(item, sheet(_architecture(item))).items() if with_sheet else ():
        lines = _wrapped(phrase)
        svg.text(0, y, title, fill=MUTED)
        paragraph(svg, 76, y, lines, 17)
        y += 17 * len(lines)


def _sum_lines(architecture: Architecture, part: str) -> list[str]:
    """The terms of a part with their formulas, the largest first, as many as have room; the table
    has all."""
    terms = [t for t in parameters(architecture).terms if part_of(t.component) == part and t.value]
    lines: list[str] = []
    for left, term in enumerate(sorted(terms, key=lambda t: -t.value)):
        label = "" if term.label == part else f"{term.label}: "  # it stands above already
        words = textwrap.wrap(f"{label}{term.formula} =\xa0{count(term.value)}", 70)
        if len(lines) + len(words) > TERM_LINES - (left < len(terms) - 1):
            lines.append(f"and {len(terms) - left} more, in the table")
            break
        lines += words
    return [line.replace("\xa0", " ") for line in lines] or ["it has none"]


def _wrapped(words: str) -> list[str]:
    """Lines that break between phrases, as long as a phrase fits a line."""
    phrases = [p if len(p) > 58 else p.replace(" ", "\xa0") for p in words.split(" · ")]
    return [line.replace("\xa0", " ") for line in textwrap.wrap(" · ".join(phrases), 60)]


def _facts(item: Model | Architecture, found: Sheet) -> dict[str, str]:
    """The sheet, line by line."""
    ways = " · ".join(f"{count(found.active[name])} {words}" for name, words in CONVENTIONS.items())
    weights = " · ".join(
        f"{name.removesuffix('_experts')} {si(value, 'B')}" for name, value in found.weights.items()
    )
    cache = found.no_cache or (
        f"{si(found.cache_per_token, 'B')} more for each token · {si(found.cache, 'B')} at "
        f"{found.context_tokens:,} tokens"
    )
    sizes = "the config.json above" if isinstance(item, Architecture) else item.sizes
    return {
        "active is": ways,
        "published": _published(item),
        "weights": weights,
        "cache": cache,
        "sizes from": shorten(sizes, 56),
    }


def _published(item: Model | Architecture) -> str:
    """What its makers print, and how far our count is from it."""
    if isinstance(item, Architecture):
        return "nothing is known of it here"
    compared = item.compare()
    words = []
    for name, figure, error in (
        ("total", item.total_parameters, compared.total_error),
        ("active", item.active_parameters, compared.active_error),
    ):
        if figure is not None and error is not None:
            off = f"{100 * error:+.1f} %".replace("-", "−")
            words.append(f"{name} {count(figure.value)} ({figure.confidence}), counted {off}")
    way = f" {CONVENTIONS[item.convention]}" if item.active_parameters else ""
    return f"{' · '.join(words)}{way}" if words else "neither figure"


def _rows(item: Model | Architecture) -> Iterator[tuple[object, ...]]:
    architecture = _architecture(item)
    counted, name = sheet(architecture), shorten(item.name, 40)
    terms = zip(parameters(architecture).terms, active_parameters(architecture).terms, strict=True)
    for t, a in terms:
        numbers = f"{t.value:,.0f}", f"{a.value:,.0f}"
        yield name, part_of(t.component), t.label, *numbers, t.formula
    yield name, "all", "", f"{counted.total:,.0f}", f"{counted.active['all']:,.0f}", "the sum"
    for way, words in CONVENTIONS.items():
        yield name, "sheet", f"active, {words}", "", f"{counted.active[way]:,.0f}", ""
    for plan, value in counted.weights.items():
        yield name, "sheet", f"weights, {plan}", si(value, "B"), "", "parameters × bits / 8"
    cache, reach = (
        counted.no_cache or si(counted.cache_per_token, "B"),
        f"{counted.context_tokens:,}",
    )
    yield name, "sheet", "cache, one more token", cache, "", f"at {reach} tokens"
