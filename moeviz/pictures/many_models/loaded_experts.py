"""Experts that a text loads from a file: which texts of a stream load, and what that costs."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.over_seeds import ran_on
from moeviz.pictures.plot import expert_box, paragraph
from moeviz.pictures.svg import MUTED, Picture, Svg, si
from moeviz.records.models_as_experts import SEEN

Recorded = dict[str, Any]
WIDTH, CELL, LEFT = 560.0, 24.0, 126.0
ENDS = (446.0, 504.0, 556.0)  # x of three columns
TITLES = {"one topic": "stays in a topic", "changing": "changes its topic",
          "gathered": "the same, gathered"}  # fmt: skip
ONE = "one expert of a layer in memory"
WAYS = {"text": "One set of experts for a text", "token": "A choice for every token"}
COLUMNS = ("experts chosen for", "format", "stream", "texts", "loads", "hits", "bytes read",
           "bytes from the disk", "ms a text")  # fmt: skip


def loaded_experts(recorded: Recorded) -> Picture:
    """A row for each stream of texts and way to choose: a box a text in its domain's colour, with
    the loads that it caused; at the end loads, bytes and time. Experts in fp32."""
    lines = told(recorded)
    runs = {(run["way"], run["form"], run["stream"]): run for run in recorded["runs"]}
    height = 66.0 + len(WAYS) * (36 + 30 * len(TITLES)) + 52
    svg = Svg(WIDTH, height, "Loading on demand", " ".join(lines))
    headline = lines[0].partition(". ")[0].rstrip(".") + "."
    paragraph(svg, 0, 16, ("What must be loaded when the topic changes?", headline), size=13,
              bold=True)  # fmt: skip
    notes = [f"{recorded['texts']} texts of {recorded['tokens']} tokens", ONE]
    svg.text(0, 54, " · ".join([*notes, *ran_on(recorded["provenance"])[:1]]), fill=MUTED)
    y = 66.0
    for x, title in zip(ENDS, ("loads", "read", "a text"), strict=True):
        svg.text(x, y + 14, title, anchor="end", fill=MUTED)
    for way, name in WAYS.items():
        svg.text(0, y + 14, name, bold=True)
        y += 26
        for stream, title in TITLES.items():
            _draw_stream(svg, y, recorded, runs[way, "fp32", stream], title)
            y += 30
        y += 10
    for m, domain in enumerate(SEEN):
        expert_box(svg, 120.0 * m, y + 4, 14, 14, m)
        svg.text(120.0 * m + 20, y + 16, domain)
    svg.text(0, y + 38, "Number: experts that the text loaded. A dot: none.", fill=MUTED)
    return svg.picture(COLUMNS, (_cells(run, recorded) for run in recorded["runs"]))


def _draw_stream(svg: Svg, y: float, recorded: Recorded, run: Recorded, title: str) -> None:
    svg.text(0, y + 16, title)
    domains = recorded["streams"][run["stream"]]
    for t, (domain, loads) in enumerate(zip(domains, run["by_text"], strict=True)):
        tip = f"text {t}, {domain}: {loads} experts loaded"
        with svg.thing(f"{run['way']} {run['stream']} {t}", domain, tip=tip):
            expert_box(svg, LEFT + CELL * t, y, CELL - 3, 22, SEEN.index(domain),
                       f"{loads}" if loads else "·", bold=0 < loads < 100)  # fmt: skip
    time = f"{run['ms_a_text']['median']:.0f} ms"
    cells = (f"{run['loads']:,}", si(run["bytes_read"], "B"), time)
    for x, cell in zip(ENDS, cells, strict=True):
        svg.text(x, y + 16, cell, anchor="end")


def told(recorded: Recorded) -> list[str]:
    """What each stream loads, what that is beside whole models, and how much a choice for every
    token loads."""
    runs = {(run["way"], run["form"], run["stream"]): run for run in recorded["runs"]}
    loads = {place: run["loads"] for place, run in runs.items()}
    one, changing, gathered = (loads["text", "fp32", stream] for stream in TITLES)
    token = loads["token", "fp32", "changing"]
    sizes, layers = recorded["expert_bytes"], runs["text", "fp32", "one topic"]["by_text"][0]
    small, strays = sizes["int4"] / sizes["fp32"], one / layers - 1
    router = f" In one topic the router changed its choice {strays:.3g} times." if strays else ""
    return [
        f"One set a text: {one} loads in one topic, {changing} where it changes.{router}",
        f"The same texts gathered by topic need {gathered}; a choice for every token {token:,}.",
        f"A domain's experts are {si(layers * sizes['fp32'], 'B')} in {layers} layers, a whole "
        f"model {si(recorded['model_bytes'], 'B')}; in INT4 a load reads {small:.2f} of the bytes.",
        _told_times(recorded, runs),
        f"Reading one expert from the disk took {recorded['expert_ms']['fp32']['median']:.2g} ms "
        f"in fp32 and {recorded['expert_ms']['int4']['median']:.2g} ms in INT4, unpacking "
        "included.",
    ]


def _told_times(recorded: Recorded, runs: dict[tuple[str, str, str], Recorded]) -> str:
    """What a text took by stream and way to choose, beside a model that lies in memory."""
    places = [("text", "one topic"), ("text", "changing"), ("token", "changing")]
    one, changing, token = (
        f"{runs[way, 'fp32', stream]['ms_a_text']['median']:.3g}" for way, stream in places
    )
    held = " and ".join(f"{recorded['in_memory_ms'][way]['median']:.2g}" for way in WAYS)
    return (
        f"A text took {one} ms in one topic and {changing} where it changes, and {token} with a "
        f"choice for every token. With all experts in memory the two ways took {held} ms."
    )


def _cells(run: Recorded, recorded: Recorded) -> tuple[object, ...]:
    disk, ms = run["storage_bytes"], run["ms_a_text"]
    return (
        run["way"], run["form"], TITLES[run["stream"]], recorded["texts"], run["loads"],
        run["hits"], f"{run['bytes_read']:,}", "" if disk is None else f"{disk:,}",
        f"{ms['median']:.1f} ({ms['q1']:.1f} to {ms['q3']:.1f})",
    )  # fmt: skip
