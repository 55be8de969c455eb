"""What each stage of a dispatch asks, answers and computes, in words and in figures."""

from __future__ import annotations

from moeviz.records.dispatch import DispatchTrace

QUESTIONS = {
    "top-k": "Which experts does each token ask for?",
    "histogram": "How many rows will each expert get?",
    "scan": "How many rows come before a program's own?",
    "scatter": "Where does each row go?",
    "tiles": "Which rows does one program compute?",
    "GEMM": "What does one program compute?",
    "combine": "How does a token get its results back?",
}
ANSWERS = {
    "top-k": "For those of the highest scores. Each choice is one assignment, and will be a row.",
    "histogram": "Each program counts its own block of assignments; nobody waits for another.",
    "scan": "As many as stand above its count in the column of the expert: they are added up.",
    "scatter": "To its expert's first row + rows of earlier programs + earlier ones of its block.",
    "tiles": "A tile: some rows of one expert. One that is not full is filled with padding.",
    "GEMM": "One tile: it gathers the rows and multiplies them by its expert's weights.",
    "combine": "Its program fetches its own rows and adds them up, always in one order.",
}
FORMULAS = {
    "top-k": "expert_TK, weight_TK = top-k of softmax(logits_TE)",
    "histogram": "count[p, e] = how many of program p's assignments ask for expert e",
    "scan": "before[p, e] = count[0, e] + … + count[p - 1, e];  total[e] = the sum",
    "scatter": "row = offsets[e] + before[p, e] + how many for e came earlier in the block",
    "tiles": "expert e gets ⌈rows / BLOCK_M⌉ tiles; a tile never mixes experts",
    "GEMM": "out = (weight · silu(gate) · up) W2ᵀ,  [gate, up] = x[token] W13ᵀ",
    "combine": "y[token] = the sum of its rows, always in one order",
}


def summary(trace: DispatchTrace, stage: str, program: int) -> str:
    """What this step does, in words and with its numbers."""
    num_rows, count = len(trace.order), trace.steps_of(stage)
    of = f"program {program} of {count}"
    if stage == "top-k":
        experts = _plural(trace.top_k, "expert")
        words = f"{len(trace.tokens)} tokens ask for {experts} each: {num_rows} assignments"
        return f"{words}, in token order."
    if stage == "histogram":
        asked = _plural(int(trace.count[program].sum()), "assignment")
        expert, most = trace.count[program].argmax(), trace.count[program].max()
        times = _plural(int(most), "time")
        return (
            f"Histogram, {of}: counts {asked}; expert {expert} is asked for {times}, and none more."
        )
    if stage == "scan":
        rows = _plural(int(trace.total[program]), "row")
        return f"Scan, {of}: adds up the column of expert {program}; it will have {rows}."
    if stage == "scatter":
        first = program * trace.sort_block
        last = min(first + trace.sort_block, num_rows) - 1
        return f"Scatter, {of}: sends assignments {first} to {last} to their rows."
    if stage == "tiles":
        real, grid = int((trace.tile_expert >= 0).sum()), len(trace.tile_expert)
        computed = real * trace.tile_block
        return (
            f"{_plural(real, 'tile')} of {trace.tile_block} rows hold {num_rows} rows. "
            f"{computed - num_rows} of {computed} computed rows are padding. {grid - real} of the "
            f"GEMM's {grid} programs find no tile."
        )
    if stage == "GEMM":
        count_rows = len(trace.tile_rows(program))
        if not count_rows:
            return f"Grouped GEMM, {of}: no tile is left, it returns at once."
        expert, padding = trace.tile_expert[program], trace.tile_block - count_rows
        rows = _plural(count_rows, "row")
        return f"Grouped GEMM, {of}: {rows} of expert {expert}, {padding} padding."
    rows = " and ".join(map(str, trace.rank[program * trace.top_k : (program + 1) * trace.top_k]))
    plural = "s" if trace.top_k > 1 else ""
    sentence = f"Combine, {of}: token {program} adds up row{plural} {rows}."
    if program == count - 1:
        sentence += f" Against a plain loop y differs by {trace.error:.0e} of its length."
    return sentence


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
