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
from moeviz.pictures.plot import Stop, heading, paragraph, track
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten, si

WIDTH, HEIGHT = 470.0, 668.0  # of one model
TERM_LINES = 4  # of a part's sum, at most
# The models that a track goes through, from year to year, and a config of the learner's own.
YOURS = "yours"
PICKED = (
    "GPT-3 175B", "Switch-C 1.6T", "GLaM 64B/64E", "Mixtral 8x22B", "Llama 3.1 405B",
    "DeepSeek-V3 / R1", "Llama 4 Maverick", "Qwen3-235B-A22B", "Kimi K2", "gpt-oss-120b",
    "GLM-5.2", "DeepSeek-V4-Pro", YOURS,
)  # fmt: skip
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


def model_anatomy(shown: Sequence[Model | Architecture], part: str) -> Picture:
    """One block for each: a bar of all parameters, hatched where a token does not go, a bar of what
    it meets, the sum of one part of PARTS, and the sheet. A bare Architecture is one that a learner
    pasted."""
    check_choice("part", part, [key.name for key in PARTS])
    summary = " ".join(_sentence(item) for item in shown)
    svg = Svg(WIDTH, HEIGHT, "Anatomy of models", summary)
    note = "drag to another model, press a part · hatched: one token does not meet it"
    heading(svg, "Where the parameters are", note)
    for i, item in enumerate(shown):
        side = svg.beside(WIDTH, HEIGHT) if i else svg
        _picked(side, item, "beside" if i else "model")
        _block(side, item, part)
    return svg.picture(COLUMNS, (row for item in shown for row in _rows(item)))


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
    svg.line(0, 46, WIDTH, 46, width=0.5)
    svg.text(0, 68, shorten(item.name, 40), size=14, bold=True)
    if name not in PICKED:
        return
    step = (WIDTH - 40) / (len(PICKED) - 1)
    stops = [
        Stop(20 + step * i, f"{control}: {other}", {control: other})
        for i, other in enumerate(PICKED)
    ]
    for stop in stops:
        svg.line(stop.at, 86, stop.at, 98, stroke=MUTED)
    track(svg, 92, stops, stops[PICKED.index(name)].at)
    for year, names in groupby(PICKED, lambda n: "yours" if n == YOURS else str(MODELS[n].year)):
        first = stops[PICKED.index(next(names))].at
        svg.text(first, 119, year, anchor="middle", fill=MUTED)


def _block(svg: Svg, item: Model | Architecture, part: str) -> None:
    architecture = _architecture(item)
    counted, name = sheet(architecture), shorten(item.name, 40)
    every = by_part(parameters(architecture))
    active = by_part(active_parameters(architecture))
    met = counted.active["all"]
    svg.text(0, 144, f"all parameters: {count(counted.total)}", bold=True)
    svg.text(0, 246, f"one token meets {count(met)} of them", bold=True)
    svg.text(WIDTH, 246, f"{100 * met / counted.total:.3g} %", anchor="end", bold=True)
    x, met_x = 0.0, 0.0
    for line, key in enumerate(PARTS):
        value, own = every[key], active[key]
        share = 100 * own / met
        tip = f"{name}, {key.name}: {count(value)}, a token meets {count(own)}, {share:.1f} %"
        with svg.thing(key.name, tip=tip, press={"part": key.name}):
            wide, used = WIDTH * value / counted.total, WIDTH * own / counted.total
            of_token = WIDTH * own / met
            # What a token meets of it, drawn out to the whole width.
            ends = [(x + used, 176), (x, 176), (met_x, 202), (met_x + of_token, 202)]
            svg.polygon(ends, fill=key.colour, opacity=0.35)
            svg.rect(x, 150, wide, 26, key.colour, stroke=MUTED)
            if wide - used > 0.5:
                svg.hatch(x + used, 150, wide - used, 26, key.colour)
            svg.rect(met_x, 202, of_token, 26, key.colour, stroke=MUTED)
            y = 286 + 17.0 * line
            edge = INK if key.name == part else "transparent"
            svg.rect(1, y - 14, 440, 18, "none", stroke=edge, radius=4)
            svg.rect(6, y - 10, 11, 11, key.colour, stroke=MUTED)
            svg.text(23, y, key.name, bold=key.name == part)
            svg.text(230, y, count(value), anchor="end", mono=True)
            svg.text(310, y, count(own), anchor="end", mono=True)
            svg.text(430, y, f"{share:.1f} %", anchor="end", fill=MUTED, mono=True)
        x, met_x = x + wide, met_x + of_token
    for right, words in ((230, "all"), (310, "a token"), (430, "share of a token's")):
        svg.text(right, 268, words, fill=MUTED, anchor="end")
    svg.text(0, 428, f"{part}, from the sizes:", bold=True)
    paragraph(svg, 0, 446, _sum_lines(architecture, part), 17)
    svg.line(0, 512, WIDTH, 512, width=0.5)
    y = 530.0
    for title, words in _facts(item, counted).items():
        lines = _wrapped(words)
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
