"""In which order programs take the tiles of a batch: what an order reads, or who computes what."""

from __future__ import annotations

from moeviz.checks import check_choice
from moeviz.pictures.kernels.tile_orders import draw_orders, finding
from moeviz.pictures.kernels.tile_pieces import column_blocks, followed, lanes, moments
from moeviz.pictures.kernels.tile_programs import Starts, draw_programs
from moeviz.pictures.svg import Picture, si
from moeviz.records.dispatch import DispatchTrace

WALKS = (("one program a piece", "one"), ("persistent", "persistent"))
VIEWS = (("what GROUP buys", "orders"), ("programs and starts", "programs"))
GROUPS = (1, 2, 4, 8)
COLUMNS = ("GROUP", "moment", "pieces", "bytes read", "of them different")


def tile_walk(
    trace: DispatchTrace, *, view: str, walk: str, programs: int, group: int, step: int,
    follow: str,
) -> Picture:  # fmt: skip
    """The up-projection of the batch at a moment, `step`, counted from 1.

    view "orders": its pieces as a map, in the order of this GROUP beside another, and what each
    GROUP reads. view "programs": a line for each program that runs at a time, a box for each piece,
    and how often a program starts. follow: as `followed` has it, or another word.
    """
    check_choice("view", view, [name for _, name in VIEWS])
    d_model, columns = trace.x.shape[1], column_blocks(trace)
    walks = {g: lanes(trace, columns, g, programs) for g in GROUPS}
    reads = {g: moments(each, d_model) for g, each in walks.items()}
    now = min(step, len(reads[group])) - 1
    marked = followed(walks[group], follow)
    words = _of_followed(walk, follow, marked)
    if view == "orders":
        summary = " ".join([finding(reads, group), _of_moment(reads[group][now]), *words])
        svg = draw_orders(trace, walks, reads, group, now, follow, marked, summary)
    else:
        launched = len(trace.tile_expert) * columns
        starts = Starts(launched, sum(map(len, walks[group])), min(programs, launched), walk)
        summary = " ".join([starts.sentence, *_idle(reads[group], programs), *words])
        svg = draw_programs(walks[group], now, starts, follow, marked, summary)
    rows = (
        (g, i + 1, n, si(asked, "B"), si(different, "B"))
        for g, each in reads.items()
        for i, (n, asked, different) in enumerate(each)
    )
    return svg.picture(COLUMNS, rows)


def _of_moment(read: tuple[int, int, int]) -> str:
    count, asked, different = read
    who = "1 program asks" if count == 1 else f"{count} programs ask"
    return (
        f"In this moment {who} for {si(asked, 'B')}, of which {si(different, 'B')} must come from "
        "memory."
    )


def _idle(reads: list[tuple[int, int, int]], programs: int) -> list[str]:
    if idle := programs - reads[-1][0]:
        are = "is" if idle == 1 else "are"
        return [f"In the last moment {idle} of {programs} programs {are} idle."]
    return []


def _of_followed(walk: str, follow: str, marked: list[tuple[int, int]]) -> list[str]:
    if follow.startswith("tile ") and marked:
        asked, fetched = len(marked), len({at for _, at in marked})
        times = f"{fetched} time{'s' if fetched > 1 else ''}"
        return [f"The rows of {follow} are asked for {asked} times and come from memory {times}."]
    if follow.startswith("program "):
        name = follow.capitalize()
        if not marked:
            return [f"{name} does not run."]
        started = 1 if walk == "persistent" else len(marked)
        return [f"{name} computes {len(marked)} pieces for {started} start{'s' * (started > 1)}."]
    return []
