"""Which models a phone, a small board or a laptop holds, and how fast they write there at most."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass

from moeviz.costs import (
    Architecture,
    Device,
    Fit,
    active_parameters,
    decode_step,
    device,
    fit,
    parameters,
)
from moeviz.pictures.axes import LogScale, short, x_axis
from moeviz.pictures.costs.memory_fit import source_line
from moeviz.pictures.costs.model_parts import count, sizes_of
from moeviz.pictures.plot import Key, Stop, heading, legend, mark, paragraph, row, track
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, three

MODELS = (
    "Mistral 7B", "OLMoE-1B-7B", "Llama 3.1 8B", "Qwen1.5-MoE-A2.7B", "DeepSeek-V2-Lite",
    "gpt-oss-20b", "Qwen3-30B-A3B", "Phi-3.5-MoE", "Mixtral 8x7B", "Llama 3.1 70B",
    "Qwen3-Next-80B-A3B", "gpt-oss-120b",
)  # fmt: skip
FORMATS = {
    "bf16": "BF16",
    "int8": "INT8",
    "q4_k_m": "Q4_K_M",
    "q2.6_experts": "experts in 2.6 bits",
}
SHARES = (50, 75, 100)  # per cent of the memory that a model may take
SPEEDS = (1, 2, 5, 10, 20, 50, 100)  # tokens a second that somebody may want
WIDTH, TOP, ROW = 560.0, 166.0, 26.0
NAMES, END = 150.0, 446.0  # where the plot begins and ends; behind it there is room for words
FITS = {
    True: Key("sparse, fits", "#0072b2", mark="circle", width=0),
    False: Key("dense, fits", "#d55e00", mark="square", width=0),
}
UNIT = " tokens/s"
FROM_DISK = Key("read from its flash or disk", "#6e6e6e", mark="ring", width=0)
COLUMNS = ("model", "parameters", "active", "weights and cache, GB", "fits", "tokens/s at most")


@dataclass(frozen=True)
class Candidate:
    """A model on a device. bytes: weights and cache; speed: tokens a second at most, of one
    sequence; None where the device has no disk that could stand in for its memory."""

    name: str
    sparse: bool
    total: float
    active: float
    bytes: float
    fits: bool
    speed: float | None


def candidate(name: str, chip: Device, plan: str, context: int) -> Candidate:
    """What a device makes of a model: a bound.

    1. A model that fits: costs.decode_step of one sequence.
    2. A sparse one that does not: all but its experts lie in memory, beside as many experts as
       have room; a token's other experts come from the disk.
    3. A dense one that does not: what has no room is read from the disk for every token.
    The disk never makes a model faster than memory enough for all of it would.
    """
    sizes = sizes_of(name)
    needed = fit(sizes, chip, context_tokens=context, plan=plan)
    taken = needed.weights.total + needed.cache.total
    ample = dataclasses.replace(chip, memory_bytes=2 * taken)
    step = decode_step(sizes, ample, batch=1, context_tokens=context, plan=plan)
    speed: float | None = step.tokens_per_s
    if not needed.fits:
        from_disk = _bytes_from_disk(sizes, needed)
        reads = chip.storage_bytes_per_s
        if from_disk is None or reads is None:
            speed = None
        else:
            speed = min(step.tokens_per_s, reads / from_disk)
    return Candidate(
        name, sizes.is_moe, parameters(sizes).total, active_parameters(sizes).total, taken,
        needed.fits, speed,
    )  # fmt: skip


def _bytes_from_disk(sizes: Architecture, needed: Fit) -> float | None:
    """What a token reads from the disk where a model has no room; None where not even the weights
    that every token needs have any."""
    missing = -needed.free_bytes
    if not sizes.is_moe:
        return missing
    if missing > needed.weights.components["routed_experts"]:
        return None
    return missing * sizes.moe.top_k / sizes.moe.num_experts


def edge(
    *, device_name: str, plan: str, wanted: int, context: int = 4096, share: int = 75
) -> Picture:
    """A row for each model, small ones first: how fast it writes at most. wanted: the tokens a
    second that are asked for; share: per cent of the memory that a model may take."""
    chip = device(device_name)
    room = dataclasses.replace(chip, memory_bytes=chip.memory_bytes * share / 100)
    found = sorted((candidate(name, room, plan, context) for name in MODELS), key=_size)
    bottom = TOP + ROW * len(found)
    size, whole = (each.memory_bytes / 1e9 for each in (room, chip))
    fitting = sum(each.fits for each in found)
    of = f"{size:.3g} of {whole:.3g} GB for the model: {fitting} of {len(found)} fit"
    notes = [
        line
        for note in (
            f"{of} · {_disk(chip)}",
            "Bounds, with even routing: measured systems stay below them.",
            source_line(chip),
        )
        for line in textwrap.wrap(note, 84)
    ]
    svg = Svg(WIDTH, bottom + 84 + 18 * len(notes), "Models on a small device",
              told(found, chip, plan, wanted))  # fmt: skip
    heading(svg, "Which models write fast enough on a small device?")
    answers = _answers(found, wanted)
    paragraph(svg, 0, 38, answers, bold=True)
    svg.text(0, 75, f"{chip.name} · {FORMATS[plan]} · {context:,} tokens of context", fill=MUTED)
    legend(svg, 0, 100, [*FITS.values(), FROM_DISK], kin=True)
    x = LogScale(0.05, 1000, NAMES, END)
    at = x(wanted)
    svg.line(at, TOP - 24, at, bottom, stroke=INK, width=1.5)
    svg.text(x.start, TOP - 40, f"at least {wanted} tokens/s · drag the knob", bold=True)
    x_axis(svg, x, bottom, "tokens/s at most, one sequence, logarithmic", top=TOP - 4,
           ticks=(0.1, 1, 10, 100, 1000), form=short)  # fmt: skip
    largest = next((each for each in found[::-1] if _enough(each, wanted)), None)
    for i, each in enumerate(found):
        _row(svg, x, TOP + (i + 0.5) * ROW, each, wanted, largest=each is largest)
    stops = [Stop(x(s), f"at least {s} tokens/s", {"wanted": s}) for s in SPEEDS]
    track(svg, TOP - 22, stops, at)
    paragraph(svg, 0, bottom + 66, notes, fill=MUTED)
    return svg.picture(COLUMNS, map(_cells, found))


def _size(found: Candidate) -> float:
    return found.total


def _row(svg: Svg, x: LogScale, y: float, found: Candidate, wanted: int, *, largest: bool) -> None:
    """largest: of those that are fast enough."""
    enough = _enough(found, wanted)
    key = FITS[found.sparse] if found.fits else FROM_DISK
    words = _speed(found)
    tip = (
        f"{found.name}: {count(found.total)} parameters, {count(found.active)} active, "
        f"{found.bytes / 1e9:.3g} GB, {'fits' if found.fits else 'does not fit'}, {words}"
    )
    with row(svg, y, ROW, found.name, key.name, tip=tip):
        if largest:
            svg.rect(0, y - ROW / 2, WIDTH - 1, ROW, "none", stroke=INK, stroke_width=2)
        svg.text(6, y + 4, found.name, bold=enough, fill=INK if enough else MUTED)
        at = x.start
        if found.speed is not None:
            at = x(min(max(found.speed, x.low), x.high))
            svg.line(x.start, y, at, y, stroke=key.colour)
            mark(svg, key.mark, at, y, key.colour, 5)
        figure = words.removesuffix(UNIT)
        ink = INK if enough else MUTED
        svg.text(at + 10, y + 4, figure, bold=enough, fill=ink, halo=True)


def _speed(found: Candidate) -> str:
    return "does not run" if found.speed is None else f"{three(found.speed)}{UNIT}"


def _enough(found: Candidate, wanted: float) -> bool:
    return found.speed is not None and found.speed >= wanted


def _answers(found: list[Candidate], wanted: int) -> list[str]:
    """The largest model that is fast enough, and the largest dense one; where none is, the
    fastest."""
    quick = [each for each in found if _enough(each, wanted)]
    if not quick:
        nearest = max(found, key=lambda each: each.speed or 0)
        return [f"None reaches {wanted} tokens/s; {nearest.name} comes nearest: {_speed(nearest)}."]
    best = quick[-1]
    answers = [
        f"{best.name} ({count(best.total)}) is the largest that may reach {wanted} tokens/s."
    ]
    dense = [each for each in quick if not each.sparse]
    if best.sparse and dense:
        answers.append(f"The largest dense one is {dense[-1].name} ({count(dense[-1].total)}).")
    elif best.sparse:
        answers.append("No dense one reaches it.")
    return answers


def told(found: list[Candidate], chip: Device, plan: str, wanted: int) -> str:
    """How many models fit and are fast enough, which is the largest, and what a dense model of
    that size would do, in words from the figures."""
    fitting = sum(each.fits for each in found)
    quick = [each for each in found if _enough(each, wanted)]
    sentence = (
        f"{fitting} of {len(found)} models fit {chip.name} in {FORMATS[plan]}. {len(quick)} may "
        f"reach {wanted} tokens/s."
    )
    if not quick:
        return sentence
    best = quick[-1]
    where = "" if best.fits else ", though part of it is read from the disk"
    sentence += (
        f" The largest of these is {best.name} with {count(best.total)} parameters, of which "
        f"{count(best.active)} are active: {_speed(best)} at most{where}."
    )
    dense = [each for each in quick if not each.sparse]
    if dense and best.sparse:
        sentence += f" The largest dense one is {dense[-1].name}: {_speed(dense[-1])} at most."
    elif best.sparse:
        sentence += " No dense one reaches it."
    return sentence


def _disk(chip: Device) -> str:
    if chip.storage_bytes_per_s is None:
        return "It has no disk here."
    return (
        f"Memory {chip.bytes_per_s / 1e9:.3g} GB/s; flash or disk "
        f"{chip.storage_bytes_per_s / 1e9:.3g} GB/s."
    )


def _cells(found: Candidate) -> tuple[object, ...]:
    speed = "" if found.speed is None else three(found.speed)
    sizes = count(found.total), count(found.active), f"{found.bytes / 1e9:,.1f}"
    return found.name, *sizes, "yes" if found.fits else "no", speed
