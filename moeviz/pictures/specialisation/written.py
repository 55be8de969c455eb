"""The words that each expert of a layer makes likelier, beside those of a random direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeviz.pictures.plot import expert_box, heading
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten
from moeviz.words import percent

WIDTH, TOP, ROW = 560.0, 62.0, 46.0
WORDS, LETTERS = 4, 11  # words of an expert, and letters of each
PLACE = 130.0  # from one word to the next


def written(
    raised_EV: np.ndarray, null_NEV: np.ndarray, pieces: Sequence[str], layer: int
) -> Picture:
    """raised: by how much each expert raises each word, nats, NaN for an expert that nobody chose;
    null: the same along random directions, for each draw; pieces: the words."""
    most_E, null_NE = raised_EV.max(1), null_NEV.max(2)
    known = ~np.isnan(most_E)
    svg = Svg(WIDTH, TOP + len(raised_EV) * ROW, "What each expert writes",
              told_written(most_E[known], null_NE[:, known], layer))  # fmt: skip
    heading(svg, f"Layer {layer}: the words that an expert raises most",
            "below: along a random direction of the same length")  # fmt: skip
    rows = []
    for expert, raised_V in enumerate(raised_EV):
        y = TOP + expert * ROW
        tip = f"expert {expert}: no token visits it"
        lines = []
        if known[expert]:
            lines = [_words(values_V, pieces) for values_V in (raised_V, null_NEV[0, expert])]
            tip = f"expert {expert}: " + ", ".join(f"{w} {rise:+.2f}" for w, rise in lines[0])
            rows += [(expert, word, f"{rise:+.3f}", f"{null_NE[:, expert].mean():+.3f}")
                     for word, rise in lines[0]]  # fmt: skip
        with svg.thing(f"e{expert}", tip=tip):
            expert_box(svg, 0, y, 30, 24, expert, str(expert))
            for line, words in enumerate(lines):
                for place, (word, rise) in enumerate(words):
                    text = f"{shorten(word, LETTERS)} {rise:+.1f}"
                    svg.text(44 + place * PLACE, y + 12 + 18 * line, text,
                             fill=MUTED if line else INK, bold=not line)  # fmt: skip
    columns = ("expert", "word", "rise, nats", "largest rise along random directions")
    return svg.picture(columns, rows)


def _words(values_V: np.ndarray, pieces: Sequence[str]) -> list[tuple[str, float]]:
    order = np.argsort(-values_V, kind="stable")[:WORDS]
    return [(pieces[v], float(values_V[v])) for v in order]


def told_written(most_E: np.ndarray, null_NE: np.ndarray, layer: int) -> str:
    """How much more an expert says than a random direction does."""
    beyond = int((most_E > null_NE.max(0)).sum())
    return (
        f"An expert of layer {layer} raises its likeliest word by {most_E.mean():.2f} nats, the "
        f"mean over experts; a random direction of the same length by {null_NE.mean():.2f}. "
        f"{beyond} of {len(most_E)} experts raise a word more than any random direction drawn for "
        f"them, {percent(beyond / max(len(most_E), 1))}."
    )
