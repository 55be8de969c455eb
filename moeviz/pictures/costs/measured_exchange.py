"""The exchange of experts' rows between processes: measured beside computed, to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moeviz.costs import Architecture, Traffic, all_to_all
from moeviz.costs.shape.feedforward import MoE
from moeviz.costs.shape.layers import Layer
from moeviz.pictures.colours import heat_colour
from moeviz.pictures.costs.exchange_times import draw_line, draw_steps, over
from moeviz.pictures.plot import box, heading, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, si
from moeviz.records.exchanged import Exchanged, Line
from moeviz.words import percent

WIDTH, LEFT, TOP, SIDE, ROW = 560.0, 76.0, 148.0, 380.0, 48.0
FLOAT32 = 32  # bits of a number that travels
COPY_OF = {"expert": "a copy for each expert", "device": "one copy for each process"}
COLUMNS = (
    "exchange", "from", "to", "sent, bytes", "computed, bytes", "the exchange, ms", "predicted, ms",
)  # fmt: skip


def computed(exchanged: Exchanged) -> np.ndarray:
    """What costs.all_to_all says of the same routing: bytes from each process to each in every
    exchange, int64 [X, R, R]."""
    by_layer = [_layer(exchanged, layer) for layer in range(len(exchanged.load))]
    return np.stack([by_layer[leg.layer][leg.back] for leg in exchanged.legs])


def _layer(exchanged: Exchanged, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Dispatch and combine of one layer, each int64 [R, R]: every process has its own routing."""
    size = exchanged.processes
    out_RR, back_RR = np.zeros((2, size, size))
    for source in range(size):
        share = {"share_E": exchanged.load[layer, source] / exchanged.tokens}
        if exchanged.copies == "device":
            share = {"share_R": exchanged.visits[layer, source] / exchanged.tokens}
        traffic = _traffic(exchanged, {name: values.tolist() for name, values in share.items()})
        out_RR[source] = traffic.dispatch_bytes[source]
        back_RR[:, source] = np.array(traffic.combine_bytes)[:, source]
    return out_RR.round().astype(np.int64), back_RR.round().astype(np.int64)


def _traffic(exchanged: Exchanged, share: dict[str, Any]) -> Traffic:
    """One layer's, in float32; without a share: of even routing."""
    sizes = exchanged.sizes
    experts = MoE(sizes["num_experts"], sizes["top_k"], sizes["d_expert"])
    architecture = Architecture("moeviz", sizes["d_model"], 1, (Layer(None, experts),))
    return all_to_all(
        architecture, tokens_per_device=exchanged.tokens, nodes=1,
        devices_per_node=exchanged.processes, copies=exchanged.copies,  # type: ignore[arg-type]
        dispatch_bits=FLOAT32, combine_bits=FLOAT32, **share,
    )  # fmt: skip


def measured_exchange(
    exchanged: Exchanged, line: Line, *, whole: bool, skew: float, capacity: float, limit: int,
    where: str, exchange: int = 0,
) -> Picture:  # fmt: skip
    """Who sent how many bytes to whom beside what was computed; where the time of the step went;
    the line of latency and bandwidth, and what it says of each exchange. whole: the backward pass
    too. skew, capacity, limit: the setting; where: it was measured. exchange: the number of the one
    whose bytes are shown, from 1; 0: those of all dispatches together."""
    count = len(exchanged.legs) // (1 if whole else 2)
    sent_XRR, computed_XRR = exchanged.sent[:count], computed(exchanged)[:count]
    wrong = int((sent_XRR != computed_XRR).sum())
    travel, predicted = (v[:count].sum() for v in (exchanged.travel, exchanged.predicted(line)))
    answer = _answer(sent_XRR, computed_XRR)
    summary = (
        f"{answer} The {count} exchanges take {_ms(travel)}; the line predicts "
        f"{over(predicted, travel)}."
    )
    if exchange:
        summary += f" {_told_one(exchanged, line, exchange)}"
    svg = Svg(WIDTH, TOP + ROW * exchanged.processes + 116, "A measured exchange", summary)
    heading(svg, "Do processes send as many bytes as was computed?")
    svg.text(0, 38, answer, bold=True)
    notes = (
        f"the lab's small model, 3 MoE layers · {exchanged.processes} processes, "
        f"{exchanged.tokens:,} tokens each",
        f"{_routing(skew, capacity, limit)} · {COPY_OF[exchanged.copies]}",
        where,
    )
    paragraph(svg, 0, 57, notes, fill=MUTED)
    back = bool(exchange) and exchanged.legs[exchange - 1].back
    shown = [n for n, leg in enumerate(exchanged.legs[:count]) if not leg.back]
    shown = [exchange - 1] if exchange else shown
    kin = [f"exchange {number + 1}" for number in shown]
    _matrix(svg, sent_XRR[shown].sum(0), computed_XRR[shown].sum(0), wrong, kin, back=back)
    lines = _of_all(exchanged, sent_XRR, count)
    if exchange:
        lines = (_told_one(exchanged, line, exchange), "Press a cell for all dispatches together.")
    _below(svg, exchanged, lines)
    # The narrow part second: beside the first one, where the page has room for both.
    draw_line(svg, exchanged, line, count, exchange)
    draw_steps(svg, exchanged, count, exchange)
    rows = _table(exchanged, line, sent_XRR, computed_XRR)
    return svg.picture(COLUMNS, rows)


def _answer(sent_XRR: np.ndarray, computed_XRR: np.ndarray) -> str:
    wrong = sent_XRR != computed_XRR
    if not wrong.any():
        return f"Yes: all {sent_XRR.size:,} counts are equal, to the byte."
    most = int(np.abs(sent_XRR - computed_XRR).max())
    return f"No: {wrong.sum():,} of {sent_XRR.size:,} counts differ, by {most:,} bytes at most."


def _routing(skew: float, capacity: float, limit: int) -> str:
    """The setting in words."""
    words = [f"skew {skew:g}, expert 0 is the most popular" if skew else "its own router's choices"]
    if capacity:
        words.append(f"capacity {capacity:g}")
    if limit:
        words.append("one process a token")
    return " · ".join(words)


def _matrix(
    svg: Svg, sent_RR: np.ndarray, computed_RR: np.ndarray, wrong: int, kin: Sequence[str], *,
    back: bool,
) -> None:  # fmt: skip
    """From (rows) and to (columns), with what each receives below; a press on a cell chooses all.
    kin: the exchanges whose bytes these are. back: from experts to tokens."""
    size = len(sent_RR)
    cell = SIDE / size
    crossed_RR = sent_RR * (1 - np.eye(size, dtype=np.int64))
    most = max(int(crossed_RR.max()), 1)
    to_, from_ = "to the tokens of process", "from experts of"
    if not back:
        to_, from_ = "to the experts of process", "from process"
    svg.text(LEFT + SIDE / 2, TOP - 24, to_, anchor="middle")
    svg.text(LEFT - 58, TOP + ROW * size / 2, from_, anchor="middle", rotate=-90)
    svg.text(LEFT + SIDE + 8, TOP - 6, "sends in all", fill=MUTED)
    for source in range(size):
        y = TOP + source * ROW
        svg.text(LEFT + (source + 0.5) * cell, TOP - 6, str(source), anchor="middle", fill=MUTED)
        svg.text(LEFT - 8, y + ROW / 2 + 4, str(source), anchor="end", fill=MUTED)
        svg.text(LEFT + SIDE + 8, y + ROW / 2 + 4, si(float(crossed_RR[source].sum()), "B"))
        for to in range(size):
            x, value, want = (
                LEFT + to * cell,
                int(sent_RR[source, to]),
                int(computed_RR[source, to]),
            )
            differs = "" if value == want else ", not equal"
            tip = f"{source} to {to}: {value:,} bytes sent, {want:,} computed{differs}"
            with svg.thing(f"from {source} to {to}", *kin, tip=tip, press={"exchange": 0}):
                _cell(svg, x, y, cell, value, want, source == to, value / most)
    y = TOP + size * ROW
    svg.text(LEFT - 8, y + 17, "receives", anchor="end", fill=MUTED)
    for to in range(size):
        middle = LEFT + (to + 0.5) * cell
        received = float(crossed_RR[:, to].sum())
        svg.text(middle, y + 17, si(received, "B"), anchor="middle")
    if wrong:
        svg.rect(LEFT - 3, TOP - 3, SIDE + 6, ROW * size + 6, "none", stroke=INK, stroke_width=3)


def _cell(
    svg: Svg, x: float, y: float, width: float, value: int, want: int, own: bool, share: float
) -> None:
    if own:
        box(svg, x, y, width, ROW, "none", "stays", stroke=MUTED, ink=MUTED)
        return
    sign = "=" if value == want else "≠"
    colour = heat_colour(share)
    box(svg, x, y, width, ROW, colour, stroke="#ffffff")
    box(svg, x, y + 4, width, 20, colour, f"{value:,} B", bold=True)
    box(svg, x, y + 24, width, 20, colour, f"{sign} {want:,}")


def _told_one(exchanged: Exchanged, line: Line, exchange: int) -> str:
    """How many bytes of one exchange cross, and how long they take."""
    leg, place = exchanged.legs[exchange - 1], exchange - 1
    crossed, predicted = exchanged.crossed[place].sum(), exchanged.predicted(line)[place]
    return (
        f"{leg.name.capitalize()}: {si(float(crossed), 'B')} cross in "
        f"{_ms(exchanged.travel[place])}, predicted {_ms(predicted)}."
    )


def _of_all(exchanged: Exchanged, sent_XRR: np.ndarray, count: int) -> tuple[str, ...]:
    """Of all exchanges together, and of even routing, by the sizes alone."""
    size = exchanged.processes
    crossed = float((sent_XRR * (1 - np.eye(size, dtype=np.int64))).sum())
    even_RR = np.array(_traffic(exchanged, {}).dispatch_bytes) * (1 - np.eye(size))
    even = float(even_RR.sum()) * count
    return (
        "Bold: sent, all dispatches together. Below: computed from the routing.",
        f"There and back {si(crossed, 'B')}; even routing would send {si(even, 'B')}.",
        "Press a diamond or a piece of a bar: the bytes of that exchange alone.",
    )


def _below(svg: Svg, exchanged: Exchanged, lines: Sequence[str]) -> None:
    """These lines, and what was left out."""
    lines = [*lines]
    if exchanged.dropped:
        all_rows = exchanged.dropped + int(exchanged.load.sum())
        lines.append(
            f"{percent(exchanged.dropped / all_rows)} of all choices find no slot and are not sent."
        )
    paragraph(svg, 0, TOP + ROW * exchanged.processes + 44, lines, 17, fill=MUTED)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def _table(
    exchanged: Exchanged, line: Line, sent_XRR: np.ndarray, computed_XRR: np.ndarray
) -> Iterator[tuple[object, ...]]:
    """What crosses in each exchange."""
    predicted_X = exchanged.predicted(line)
    for number, (sent_RR, want_RR) in enumerate(zip(sent_XRR, computed_XRR, strict=True)):
        times = exchanged.travel[number], predicted_X[number]
        for source, to in np.ndindex(sent_RR.shape):
            if source != to:
                counts = (f"{int(m[source, to]):,}" for m in (sent_RR, want_RR))
                yield (
                    exchanged.legs[number].name, source, to, *counts,
                    *(f"{1e3 * seconds:.3g}" for seconds in times),
                )  # fmt: skip


def told_exchanges(figures: dict[str, Any]) -> str:
    """What a recording of experiments.exchanged says, in sentences."""
    runs = [Exchanged.read(values) for values in figures["runs"]]
    counts = sum(run.sent.size for run in runs)
    wrong = sum(int((run.sent != computed(run)).sum()) for run in runs)
    equal = f"all {counts:,} counts of bytes are" if not wrong else f"{wrong:,} counts are not"
    share_N = [float(run.travel.sum() / run.end.max()) for run in runs]
    worst = max(run.error for run in runs)
    sentences = [
        f"In {len(runs)} recorded settings {equal} equal to the computed ones. The largest "
        f"difference of a token's loss from that of one process is {worst:.2g} nats.",
        f"Of a training step the exchanges take {percent(float(np.median(share_N)))} (median of "
        f"the settings, {percent(min(share_N))} to {percent(max(share_N))}), without the waiting "
        "of processes for each other.",
    ]
    for size, values in figures["lines"].items():
        line = Line.read(values)
        ratio_N = [
            run.travel.sum() / run.predicted(line).sum()
            for run in runs
            if run.processes == int(size)
        ]
        q1, median, q3 = np.quantile(ratio_N, (0.25, 0.5, 0.75))
        sentences.append(
            f"With {size} processes, on a machine of load {values['load'][0]:.1f}, α is "
            f"{1e6 * line.alpha:,.0f} µs and β {line.bandwidth / 1e9:.2g} GB/s. The exchanges took "
            f"{median:.2f} times as long as that predicts (half of the settings "
            f"{q1:.2f} to {q3:.2f})."
        )
    return " ".join(sentences)
