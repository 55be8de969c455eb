"""Words for a small corpus, and a text of them."""

import random

WORDS = "the cat dog sat on a mat log red blue big saw ran to from with one two three".split()


def prose(seed, lines=200):
    draw = random.Random(seed)
    return "\n".join(" ".join(draw.choice(WORDS) for _ in range(12)) for _ in range(lines))
