"""Predictions of 00_start_here."""

from __future__ import annotations

from collections import defaultdict

from moeviz.experiments.recorded import recorded_trace
from moeviz.predictions.prediction import Measured, prediction
from moeviz.records import Trace


@prediction(
    "00.same_token",
    "The same token stands twice in a text. Does the router send it to the same expert both times?",
    "always", "often", "hardly ever",
)  # fmt: skip
def same_token() -> Measured:
    trace = recorded_trace(Trace, "start_here")
    keep_L, repeated = keeping(trace)
    share = sum(keep_L) / (repeated * len(keep_L))
    option = "always" if share == 1 else "often" if share >= 0.5 else "hardly ever"
    because = "what a router reads holds the token itself and, through attention, its context"
    least, most = min(keep_L), max(keep_L)
    count = f"{least}" if least == most else f"{least} to {most}, depending on the layer,"
    figure = f"of {repeated} tokens that the recorded text repeats, {count} keep one first expert"
    return Measured(option, figure, because)


def keeping(trace: Trace) -> tuple[list[int], int]:
    """In each layer, how many of the repeated tokens have one first expert wherever they stand;
    and how many tokens are repeated."""
    places = defaultdict(list)
    for place, token in enumerate(trace.tokens):
        places[token].append(place)
    repeated = [at for at in places.values() if len(at) > 1]
    first_TL = trace.expert[:, :, 0]
    keep_L = [
        sum(len({*first_TL[at, layer].tolist()}) == 1 for at in repeated)
        for layer in range(len(trace.layers))
    ]
    return keep_L, len(repeated)
