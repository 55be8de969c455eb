"""How the loss goes with the number of experts: in the small models, on a GPU, and in laws."""

from __future__ import annotations

import math
import textwrap
from typing import Any, NamedTuple

from moeviz.costs.laws.law import LossLaw, Model, size
from moeviz.costs.laws.published import LAWS
from moeviz.pictures.axes import LogScale, Scale, axes, padded, signed, x_axis
from moeviz.pictures.over_seeds import ran_on
from moeviz.pictures.plot import Key, curve, heading, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.frontier_read import (
    HASH,
    LEARNED,
    TOKENS_A_STEP,
    Recorded,
    fitted,
    of_kind,
    settled,
)
from moeviz.pictures.training.frontier_told import CHOOSERS, told_edges
from moeviz.records.frontier import exponent_of_line, with_floor
from moeviz.words import percent

WIDTH, SIDE, LEFT, RIGHT, PLOT, WRAP, MORE = 500.0, 440.0, 62.0, 480.0, 250.0, 56, 64
LINE, ROW = 18.0, 40.0
GPU = Key("on a GPU", "#0072b2", mark="circle")
# The tables of the models on a GPU, which laws do not count, have so many rows.
VOCABULARY = 2048
COLUMNS = ("what", "power of E", "95 % interval", "experts", "tokens", "beyond the law's runs")


class Power(NamedTuple):
    """p of a loss that goes with E^p, and the ends of its interval (a law has none)."""

    what: str
    of: float
    low: float | None
    high: float | None
    experts: tuple[int, int]
    tokens: float
    beyond: str = ""
    law: bool = False

    @property
    def shown(self) -> bool:
        """Whether its interval leaves out zero."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


def small_powers(recorded: Recorded) -> list[Power]:
    """Of the small models, by who chooses; the interval is over seeds."""
    found = []
    for kind in (LEARNED, HASH):
        gap, arms = fitted(recorded, kind), [*of_kind(recorded, kind).values()]
        alone = len(gap.values) == 1
        low, high = (None, None) if alone else (-gap.high, -gap.low)
        experts = (arms[0]["experts"], arms[-1]["experts"])
        tokens = recorded["steps"] * TOKENS_A_STEP
        what = f"small models, {CHOOSERS[kind]}, {recorded['steps']:,} steps"
        found.append(Power(what, -gap.mean, low, high, experts, tokens))
    return found


def gpu_power(gpu: Recorded) -> Power:
    """Of the models on a GPU; the interval is that of a straight line through the sizes."""
    arms = _sparse(gpu)
    losses = [arm["validation_loss"]["mean"] for arm in arms.values()]
    power, reach = exponent_of_line([*arms], losses)
    ends = (-power - reach, -power + reach)
    return Power(GPU.name, -power, *ends, (min(arms), max(arms)), gpu["tokens"])


def law_powers(gpu: Recorded) -> list[Power]:
    """What each law with a loss says of the models on the GPU, from fewest to most experts."""
    arms = _sparse(gpu)
    few, many = (_model(gpu, arms[pick(arms)]) for pick in (min, max))
    ratio = math.log(max(arms) / min(arms))
    return [
        Power(
            law.short, math.log(law.loss(many) / law.loss(few)) / ratio, None, None,
            (min(arms), max(arms)), gpu["tokens"], law.beyond(many), law=True,
        )
        for law in LAWS.values()
        if isinstance(law, LossLaw)
    ]  # fmt: skip


def _sparse(gpu: Recorded) -> dict[int, dict[str, Any]]:
    arms = {arm["experts"]: arm for arm in gpu["arms"].values() if "experts" in arm}
    return dict(sorted(arms.items()))


def _model(gpu: Recorded, arm: Recorded) -> Model:
    tables = 2 * VOCABULARY * gpu["size"]["d_model"]
    total, active = (arm[name] - tables for name in ("parameters", "active_parameters"))
    return Model(total, active / total, gpu["tokens"])


def told_floor(gpu: Recorded) -> str:
    """Whether the models on the GPU can tell a law with a floor from one without."""
    arms = _sparse(gpu)
    found = with_floor([*arms], [arm["validation_loss"]["values"] for arm in arms.values()])
    law = "With a floor in the law, loss = L + a E^-b,"
    if found.low <= 0:
        return (
            f"{law} the 95 % interval of L goes from none to {found.high:.3f} nats per token: "
            f"{len(arms)} sizes do not carry a third number."
        )
    return (
        f"{law} the sizes on the GPU give L = {found.floor:.3f} nats per token ({found.low:.3f} to "
        f"{found.high:.3f}). Its b is {found.power:.2f}."
    )


def told_falls(powers: list[Power]) -> str:
    """In which of the small models' fits the loss is shown to fall."""
    falls = [p.what.partition(", ")[2] for p in powers if p.shown and p.of < 0]
    rises = [p.what.partition(", ")[2] for p in powers if p.shown and p.of > 0]
    return (
        f"In the small models the interval lies below zero in {_named(falls)} of {len(powers)} "
        f"fits, and above zero in {_named(rises)}."
    )


def _named(fits: list[str]) -> str:
    return f"{len(fits)} ({'; '.join(fits)})" if fits else "none"


def told_powers(recorded: Recorded, short: Recorded, gpu: Recorded) -> tuple[str, str]:
    """Where more experts lower the loss, in two sentences; and what laws say of the same models.
    recorded, short: the small models after more and after fewer steps."""
    recorded = settled(recorded, short)
    learned, large = small_powers(recorded)[0], gpu_power(gpu)
    seeds = max(arm["runs"] for arm in gpu["arms"].values())
    runs = f"{seeds} seed{'s' * (seeds > 1)} a size"
    parts = [
        f"{_way(large)} on a GPU, from {large.experts[0]} to {large.experts[1]} experts and "
        f"{size(large.tokens)} tokens ({runs}).",
        f"{_way(learned)} in the small models with a learned router, from {learned.experts[0]} to "
        f"{learned.experts[1]} experts and {size(learned.tokens)} tokens.",
    ]
    laws = law_powers(gpu)
    least, most = (pick(laws, key=lambda law: law.of) for pick in (min, max))
    known = [law.what for law in laws if not law.beyond]
    reach = ", ".join(known) if known else "none of them"
    arm = _sparse(gpu)[large.experts[1]]
    share = arm["active_parameters"] / arm["parameters"]
    rest = (
        f"Of {large.experts[1]} experts on the GPU a token meets {percent(share, 1)} of all "
        f"parameters. Of these very models laws say E^{least.of:+.4f} ({least.what}) to "
        f"E^{most.of:+.4f} ({most.what}); {reach} was fitted on runs like these. Each law has its "
        f"own text and tokenizer, so compare powers, not losses. {told_floor(gpu)} "
        f"{told_falls([*small_powers(short), *small_powers(recorded)])} {told_edges(recorded)}"
    ).rstrip()
    return " ".join(parts), rest


def _way(power: Power) -> str:
    if not power.shown:
        return f"No power of E is shown ({power.of:+.4f})"
    return f"The loss {'falls' if power.of < 0 else 'rises'} with E^{power.of:+.4f}"


def powers_of_experts(recorded: Recorded, short: Recorded, gpu: Recorded) -> Picture:
    """The models on the GPU with the power law that is fitted to them, drawn as far as they reach;
    and beside it the powers of all: recorded ones with their 95 % interval, laws as crosses."""
    finding, rest = told_powers(recorded, short, gpu)
    bold, plain = textwrap.wrap(finding, WRAP), textwrap.wrap(rest, MORE)
    top = 38 + LINE * len(bold) + 34
    bottom = top + PLOT
    svg = Svg(WIDTH, bottom + 60 + LINE * len(plain), "Powers of the experts", f"{finding} {rest}")
    heading(svg, "Does the loss fall as a power of the experts?")
    paragraph(svg, 0, 38, bold, LINE, bold=True)
    _on_the_gpu(svg, gpu, (bottom, top))
    paragraph(svg, 0, bottom + 66, plain, LINE)
    small = [power for run in (short, recorded) for power in small_powers(run)]
    powers = [*small, gpu_power(gpu), *law_powers(gpu)]
    made = [" · ".join(ran_on(run["provenance"])) for run in (recorded, gpu)]
    _rows(svg.beside(SIDE, 80 + ROW * len(powers) + 104), powers, made)
    return svg.picture(COLUMNS, map(_cells, powers))


def _on_the_gpu(svg: Svg, gpu: Recorded, upright: tuple[float, float]) -> None:
    arms, dense = _sparse(gpu), gpu["arms"][gpu["base"]]["validation_loss"]["mean"]
    losses = {n: arm["validation_loss"]["mean"] for n, arm in arms.items()}
    x = LogScale(min(arms) / 1.3, max(arms) * 1.3, LEFT, RIGHT)
    y = Scale(*padded([dense, *losses.values()], 0.12), *upright)
    axes(
        svg, x, y, x_label="experts on the GPU, at equal active compute", x_ticks=[*arms],
        y_label="loss on held-out text (nats per token)", y_form=lambda v: f"{v:.2f}", above=True,
    )  # fmt: skip
    svg.line(LEFT, y(dense), RIGHT, y(dense), stroke=INK, dash="7 4")
    svg.text(RIGHT, y(dense) - 6, "dense twin", anchor="end", halo=True)
    power = gpu_power(gpu).of
    log_a = sum(math.log(v) - power * math.log(n) for n, v in losses.items()) / len(losses)
    ends = (min(arms), max(arms))
    along = [ends[0] * (ends[1] / ends[0]) ** (i / 30) for i in range(31)]
    with svg.thing(GPU.name):
        line = [(n, math.exp(log_a) * n**power) for n in along]
        curve(svg, x, y, line, Key(GPU.name, GPU.colour))
    for n, arm in arms.items():
        share = percent(arm["active_parameters"] / arm["parameters"], 1)
        tip = f"{n} experts: {losses[n]:.3f} nats per token, {share} of the parameters met"
        with svg.thing(GPU.name, tip=tip):
            mark(svg, GPU.mark, x(n), y(losses[n]), GPU.colour, 5)
            svg.text(x(n) + 8, y(losses[n]) - 8, share, halo=True)


def _rows(svg: Svg, powers: list[Power], made: list[str]) -> None:
    """A row each, on one axis around zero: to its left the loss falls with more experts."""
    svg.text(0, 16, "The power p of E^p, below 0 where the loss falls", size=14, bold=True)
    top, values = 64.0, [0.0]
    for power in powers:
        values += [v for v in (power.of, power.low, power.high) if v is not None]
    x = Scale(*padded(values), 12, SIDE - 12)
    bottom = top + ROW * len(powers)
    x_axis(svg, x, bottom, "p", top=top - 14, form=signed, zero=True)
    for i, power in enumerate(powers):
        y = top + ROW * i
        note = f"{power.what}: {power.of:+.4f}"
        with svg.thing(power.what, tip=power.beyond or note):
            svg.text(12, y, note, halo=True)
            if power.low is not None and power.high is not None:
                svg.line(x(power.low), y + 14, x(power.high), y + 14, stroke=INK, width=2.5)
            shape, colour = ("cross", MUTED) if power.law else ("circle", GPU.colour)
            mark(svg, shape, x(power.of), y + 14, colour, 5)
    words = "line: 95 % interval · cross: a law, asked of the models on the GPU"
    paragraph(svg, 0, bottom + 58, [words, *made], LINE, fill=MUTED)


def _cells(power: Power) -> tuple[str, ...]:
    ends = "" if power.low is None else f"{power.low:+.4f} to {power.high:+.4f}"
    experts = " to ".join(map(str, power.experts))
    return (power.what, f"{power.of:+.4f}", ends, experts, size(power.tokens), power.beyond)
