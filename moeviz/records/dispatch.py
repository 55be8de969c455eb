"""What the dispatch kernels did with one batch, every intermediate, as numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from moeviz.records.store import Record

STAGES = ("top-k", "histogram", "scan", "scatter", "tiles", "GEMM", "combine")


@dataclass(frozen=True)
class DispatchTrace(Record):
    """One batch on its way through the kernels; a record of what each of them wrote.

    tokens: T readable pieces
    top-k      expert int32 [T, K], weight float32 [T, K]; the N = T K assignments in token order
    histogram  count int32 [P, E]: of each program, which counts sort_block assignments
    scan       before int32 [P, E]: the expert's assignments in earlier programs; total int32 [E]
    scatter    order (row -> assignment), rank (assignment -> row), row_expert, slot: int32 [N];
               offsets int32 [E + 1]
    tiles      tile_expert, tile_row: int32 [G], -1 for a program without a tile; tile_block rows a
               tile
    GEMM       x [T, D], hidden [N, F] (weighted), rows [N, D], float32; gemm_block rows a tile
    combine    y float32 [T, D]
    error: |y - reference| / |reference|, against a plain loop over the experts
    meta: device, where the batch is from, provenance (JSON values)
    """

    kind: ClassVar[str] = "dispatch"
    tokens: tuple[str, ...]
    expert: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    before: np.ndarray
    total: np.ndarray
    order: np.ndarray
    rank: np.ndarray
    row_expert: np.ndarray
    slot: np.ndarray
    offsets: np.ndarray
    tile_expert: np.ndarray
    tile_row: np.ndarray
    x: np.ndarray
    hidden: np.ndarray
    rows: np.ndarray
    y: np.ndarray
    sort_block: int
    tile_block: int
    gemm_block: int
    error: float
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def top_k(self) -> int:
        return self.expert.shape[1]

    @property
    def num_experts(self) -> int:
        return len(self.total)

    def steps_of(self, stage: str) -> int:
        """Into how many steps a stage is cut: one a program, as the kernels are launched."""
        programs, tiles = len(self.count), len(self.tile_expert)
        counts = (1, programs, self.num_experts, programs, 1, tiles, len(self.tokens))
        return counts[STAGES.index(stage)]

    @property
    def steps(self) -> int:
        return sum(self.steps_of(stage) for stage in STAGES)

    def at(self, step: int) -> tuple[str, int]:
        """The stage of a step, counted from 0 over all stages, and the program within it."""
        for stage in STAGES:
            if step < self.steps_of(stage):
                return stage, step
            step -= self.steps_of(stage)
        return STAGES[-1], self.steps_of(STAGES[-1]) - 1

    def step_at(self, stage: str, program: int = 0) -> int:
        """The step of a program of a stage; of its last program where it has fewer."""
        before = sum(self.steps_of(name) for name in STAGES[: STAGES.index(stage)])
        return before + min(program, self.steps_of(stage) - 1)

    def tile_rows(self, tile: int) -> range:
        """The real rows of a tile; none of one behind the last."""
        expert, first = int(self.tile_expert[tile]), int(self.tile_row[tile])
        if expert < 0:
            return range(0)
        return range(first, min(first + self.tile_block, int(self.offsets[expert + 1])))
