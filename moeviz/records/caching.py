"""What a cache of experts in fast memory is worth: its policies, and their replay over any trace.

numpy only. One step asks a cache for all experts of a token at once. Those that it holds are hits;
the others are loaded, and all of them are held when the step ends. For what then is too much, the
policy names the experts to give up. Columns: members [0, M), and one more where -1 (a choice that
was not served) falls and is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_choice, check_whole
from moeviz.records.arrays import check_array, ratio

PolicyName = Literal["lru", "lfu", "least_stale", "next_layer", "belady"]
NEVER = 2**31  # a step that does not come


class LRU:
    """Give up what was asked for longest ago."""

    def __init__(self, groups: int, members: int) -> None:
        self.step = -1
        self.last_GM = np.full((groups, members + 1), -1, np.int64)

    def see(self, asked_GK: np.ndarray) -> None:
        """Take note of what one more step asks for."""
        self.step += 1
        np.put_along_axis(self.last_GM, asked_GK, self.step, 1)

    def value(self) -> np.ndarray:
        """What each member is worth keeping, int64 [G, M + 1]: the lowest goes first."""
        return self.last_GM


class LFU(LRU):
    """Give up what was asked for least often since the beginning; of several, longest ago."""

    def __init__(self, groups: int, members: int) -> None:
        super().__init__(groups, members)
        self.count_GM = np.zeros_like(self.last_GM)

    def see(self, asked_GK: np.ndarray) -> None:
        super().see(asked_GK)
        count_GK = np.take_along_axis(self.count_GM, asked_GK, 1)
        np.put_along_axis(self.count_GM, asked_GK, count_GK + 1, 1)

    def value(self) -> np.ndarray:
        return self.count_GM * (self.step + 2) + self.last_GM


class LeastStale(LRU):
    """Give up what its layer did without most often since it last asked for it; of several, what
    belongs to the layer that comes again last. In the spirit of SpecMD's Least-Stale (2602.03921):
    in a cache that all layers share, LRU gives up what comes next. A layer's own cache is LRU."""

    def __init__(self, groups: int, members: int, layers: int) -> None:
        super().__init__(groups, members)
        self.layers = layers
        self.layer_M = np.arange(members + 1) * layers // max(members, 1)

    def value(self) -> np.ndarray:
        turn, layer = divmod(self.step, self.layers)
        # The last turn of a member's layer that is over.
        turn_M = np.where(self.layer_M <= layer, turn, turn - 1)
        stale_GM = turn_M - self.last_GM // self.layers
        wait_M = (self.layer_M - layer - 1) % self.layers
        return -(stale_GM * self.layers + wait_M)


class Belady(LRU):
    """Give up what is asked for again last (Belady 1966): it knows the stream, so no policy that
    can be built loads less. Optimal because all experts are equally large."""

    def __init__(self, asked_SGK: np.ndarray, members: int) -> None:
        super().__init__(asked_SGK.shape[1], members)
        self.next_SGK = next_asked(asked_SGK, members)
        self.next_GM = np.full_like(self.last_GM, NEVER)

    def see(self, asked_GK: np.ndarray) -> None:
        super().see(asked_GK)
        np.put_along_axis(self.next_GM, asked_GK, self.next_SGK[self.step], 1)

    def value(self) -> np.ndarray:
        return -self.next_GM


def next_asked(asked_SGK: np.ndarray, members: int) -> np.ndarray:
    """The step in which each of these is asked for again, NEVER where it is not."""
    coming_GM = np.full((asked_SGK.shape[1], members + 1), NEVER, np.int64)
    next_SGK = np.empty(asked_SGK.shape, np.int64)
    for step in range(len(asked_SGK) - 1, -1, -1):
        next_SGK[step] = np.take_along_axis(coming_GM, asked_SGK[step], 1)
        np.put_along_axis(coming_GM, asked_SGK[step], step, 1)
    return next_SGK


class NextLayer:
    """What the layer before says of a layer's experts, learned on the way: for each expert that it
    chose, the share of its tokens that went to each expert of the next layer; the K likeliest."""

    def __init__(self, layers: int, num_experts: int) -> None:
        self.together_LEE = np.zeros((layers - 1, num_experts + 1, num_experts + 1), np.float32)

    def guess(self, asked_LK: np.ndarray) -> np.ndarray:
        """The experts of all layers but the first, int64 [L, K]: -1 where there is no ground for a
        guess. Of asked_LK only the layer before is looked at."""
        layers, K = asked_LK.shape
        place_L1 = np.arange(layers - 1)[:, None]
        row_LKE = self.together_LEE[place_L1, asked_LK[:-1]][..., :-1]
        tokens_LK1 = np.maximum(row_LKE.sum(-1, keepdims=True), 1)
        score_LE = (row_LKE / tokens_LK1).sum(1)
        best_LK = np.argsort(-score_LE, axis=1, kind="stable")[:, :K]
        known_LK = np.take_along_axis(score_LE, best_LK, 1) > 0
        return np.vstack([np.full((1, K), -1), np.where(known_LK, best_LK, -1)])

    def see(self, asked_LK: np.ndarray) -> None:
        place_L11 = np.arange(len(asked_LK) - 1)[:, None, None]
        self.together_LEE[place_L11, asked_LK[:-1, :, None], asked_LK[1:, None]] += 1
        self.together_LEE[:, -1] = 0  # where -1 fell


class Cache:
    """G caches side by side, each with room for `slots` of its M members."""

    def __init__(self, groups: int, members: int, slots: int, policy: LRU) -> None:
        self.slots, self.policy = slots, policy
        self.held_GM = np.zeros((groups, members + 1), bool)

    def take(self, asked_GK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step: how many of the asked were held, int64 [G], and what is loaded, bool [G, M]."""
        self.policy.see(asked_GK)
        wanted_GM = self._wanted(asked_GK)
        hits_G = (wanted_GM & self.held_GM).sum(1)
        return hits_G, self._fill(wanted_GM)

    def prefetch(self, guess_GK: np.ndarray) -> np.ndarray:
        """Load on a guess: what is loaded, bool [G, M]. It counts as asked for by nobody."""
        return self._fill(self._wanted(guess_GK))

    def _wanted(self, asked_GK: np.ndarray) -> np.ndarray:
        wanted_GM = np.zeros_like(self.held_GM)
        np.put_along_axis(wanted_GM, asked_GK, True, 1)
        wanted_GM[:, -1] = False
        return wanted_GM

    def _fill(self, wanted_GM: np.ndarray) -> np.ndarray:
        loaded_GM = wanted_GM & ~self.held_GM
        self.held_GM |= wanted_GM
        if (self.held_GM.sum(1) > self.slots).any():
            columns = self.held_GM.shape[1]
            value_GM = self.policy.value() * columns + np.arange(columns)  # no two alike
            value_GM[wanted_GM] = NEVER * NEVER
            value_GM[~self.held_GM] = -NEVER * NEVER
            kept_GM = np.argpartition(-value_GM, self.slots - 1, axis=1)[:, : self.slots]
            keep_GM = np.zeros_like(self.held_GM)
            np.put_along_axis(keep_GM, kept_GM, True, 1)
            self.held_GM &= keep_GM
        return loaded_GM[:, :-1]


@dataclass(frozen=True)
class Replay:
    """What a policy did with a trace. asked, hits, loads: int64 [T, L], experts that each layer
    asked for, those that lay in the cache when it did, and those that were brought there, guesses
    included."""

    asked: np.ndarray
    hits: np.ndarray
    loads: np.ndarray

    @property
    def hit_rate(self) -> float:
        return ratio(self.hits.sum(), self.asked.sum())

    @property
    def loads_per_token(self) -> float:
        """Experts that cross the link for one token, over all layers: what takes the time."""
        return ratio(self.loads.sum(), len(self.loads))


def replay(
    expert_TLK: ArrayLike, num_experts: int, slots: int, policy: PolicyName, *, shared: bool = False
) -> Replay:
    """A trace's choices through a cache that is empty at first.

    slots: experts of each layer's own cache, or, shared, of one cache for all layers together, with
    slots × L places. policy: "next_layer" is LRU that loads a guess before each layer asks.
    ValueError for a cache that does not hold what one step asks for.
    """
    expert_TLK = check_array("expert_TLK", expert_TLK, -1, num_experts - 1, np.int64)
    check_choice("policy", policy, get_args(PolicyName))
    T, L, K = expert_TLK.shape
    check_room(slots * L if shared else slots, K)
    if policy == "next_layer" and (shared or L < 2):
        raise ValueError("policy must not be next_layer with one layer or a shared cache.")
    steps, members = expert_TLK, num_experts
    if shared:
        members, slots = num_experts * L, slots * L
        first_L1 = np.arange(L)[:, None] * num_experts
        steps = np.where(expert_TLK >= 0, expert_TLK + first_L1, -1).reshape(T * L, 1, K)
    cache = Cache(steps.shape[1], members, slots, _policy(policy, steps, members, L))
    guesses = NextLayer(L, num_experts) if policy == "next_layer" else None
    hits, loads = np.zeros((2, *steps.shape[:2]), np.int64)
    for step, asked_GK in enumerate(steps):
        if guesses:
            loads[step] = cache.prefetch(guesses.guess(asked_GK)).sum(1)
            guesses.see(asked_GK)
        hits[step], loaded_GM = cache.take(asked_GK)
        loads[step] += loaded_GM.sum(1)
    asked = (expert_TLK >= 0).sum(2)
    return Replay(asked, hits.reshape(T, L), loads.reshape(T, L))


def _policy(name: str, asked_SGK: np.ndarray, members: int, layers: int) -> LRU:
    groups = asked_SGK.shape[1]
    if name == "belady":
        return Belady(asked_SGK, members)
    if name == "least_stale":
        return LeastStale(groups, members, layers // groups)
    return LFU(groups, members) if name == "lfu" else LRU(groups, members)


def check_room(slots: int, top_k: int) -> None:
    """ValueError for a cache that does not hold the experts of one token."""
    check_whole("slots", slots)
    if slots < top_k:
        raise ValueError(
            f"slots must be at least top_k = {top_k}, the experts that one token needs at once, "
            f"got {slots}."
        )
