"""The words that each expert of a layer makes likelier, beside those of a random direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeviz.pictures.plot import expert_box, heading
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten

WIDTH, TOP, ROW = 560.0, 62.0, 46.0
WORDS, LETTERS = 4, 11  # words of an expert, and letters of each
PLACE = 130.0  # from one word to the next


def written(
    raised_EV: np.ndarray, lots_NEV: np.ndarray, fixed_EV: np.ndarray, *, pieces: Sequence[str],
    layer: int,
) -> Picture:  # fmt: skip
    """raised: by how much each expert raises each word, nats, NaN for an expert that nobody chose;
    lots: as many visits drawn by lot, for each draw; fixed: along one direction; pieces: words."""
    known = ~np.isnan(raised_EV[:, 0])
    most_E, fixed_E = (values_EV[known].max(1) for values_EV in (raised_EV, fixed_EV))
    lots_NE = lots_NEV.max(2)
    svg = Svg(WIDTH, TOP + len(raised_EV) * ROW, "What each expert writes",
              told_written(most_E, lots_NE[:, known], fixed_E, layer))  # fmt: skip
    note = "grey: by as many visits drawn by lot · rises in nats, those from 0.1 on"
    heading(svg, f"Layer {layer}: the words that an expert raises most", note)
    rows = []
    for expert, raised_V in enumerate(raised_EV):
        y = TOP + expert * ROW
        tip = f"expert {expert}: no token visits it"
        lines = []
        if known[expert]:
            lines = [_words(values_V, pieces) for values_V in (raised_V, lots_NEV[0, expert])]
            raises = ", ".join(f"{w} {rise:+.2f}" for w, rise in lines[0])
            tip = f"expert {expert}: {raises or 'raises no word'}"
            rows += [(expert, word, f"{rise:+.3f}", f"{lots_NE[:, expert].mean():+.3f}")
                     for word, rise in lines[0]]  # fmt: skip
        with svg.thing(f"e{expert}", tip=tip):
            expert_box(svg, 0, y, 30, 24, expert, str(expert))
            for line, words in enumerate(lines):
                for place, (word, rise) in enumerate(words):
                    text = f"{shorten(word, LETTERS)} {rise:+.1f}"
                    svg.text(44 + place * PLACE, y + 12 + 18 * line, text,
                             fill=MUTED if line else INK, bold=not line)  # fmt: skip
    columns = ("expert", "word", "rise, nats", "largest rise of visits by lot")
    return svg.picture(columns, rows)


def _words(values_V: np.ndarray, pieces: Sequence[str]) -> list[tuple[str, float]]:
    """The words raised most, but none whose rise is 0.0 or below."""
    order = np.argsort(-values_V, kind="stable")[:WORDS]
    return [(pieces[v], float(values_V[v])) for v in order if round(float(values_V[v]), 1) > 0]


def told_written(most_E: np.ndarray, lots_NE: np.ndarray, fixed_E: np.ndarray, layer: int) -> str:
    """Whether experts write words of their own, and whether the same ones for all tokens."""
    count = len(most_E)
    beyond, alike = (
        f"{n} of {count} experts {'raises' if n == 1 else 'raise'} a word"
        for n in (int((most_E > lots_NE.max(0)).sum()), int((most_E >= fixed_E).sum()))
    )
    return (
        f"An expert of layer {layer} raises one word most, by {most_E.mean():.2f} nats in the "
        f"mean over experts; as many visits drawn by lot by {lots_NE.mean():.2f}. "
        f"{beyond} more than any such draw, {count / (1 + len(lots_NE)):.0f} would by chance. One "
        f"direction of the same length, the same for all tokens, would raise its word by "
        f"{fixed_E.mean():.2f}; {alike} as much."
    )
