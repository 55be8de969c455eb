"""Made runs of an expert of one's own, with known figures."""

import numpy as np

from moeviz.records.own_runs import OwnRun

DOMAINS = ("python", "english", "c", "arithmetic", "hex", "brackets")


def made_run(name="notes", others=(), *, plugged=True, steps=120, done=120, tokens=None):
    """Its text's loss falls from 6 to 5, that of a friend's from 7 to 6 (5.5 alone), and the
    domains' rise by 0.05 n. others: the names of friends' experts; in layer 0 token t visits expert
    t mod (experts + 1), where there is one."""
    names = (name, *others) if plugged else ()
    own, count = 1 + len(others), done // 10 + 1
    tokens = tuple(f"tok{t}" for t in range(24)) if tokens is None else tokens
    chose = np.zeros((len(tokens), 3, len(names)))
    for t in range(len(tokens)):
        if t % (len(names) + 1) < len(names):
            chose[t, 0, t % (len(names) + 1)] = 0.25 + t / 64
    before = np.array([6.0, *[7.0] * len(others), *np.full(6, 3.0)])
    rise = np.array([-1.0, *[-1.0] * len(others), *(0.05 * np.arange(6))]) * plugged
    alone = np.array([4.75, *[5.5] * len(others), *[np.nan] * 6])
    steps_N = np.arange(done)[:, None] + np.arange(1, 4)
    return OwnRun(
        name=name, form="rank 4", replay=3.0, seed=0, step=done, steps=steps, num_bytes=24_576,
        loss_step=np.arange(count) * 10, loss=6 - np.arange(count) / 12.0,
        visits=steps_N / (steps_N + 20.0), visits_elsewhere=steps_N / (steps_N + 200.0),
        rows=(name, *others, *DOMAINS), own=own, before=before, after=before + rise,
        alone=alone if plugged else np.full(own + 6, np.nan), plugged=names, tokens=tokens,
        chose=chose, layers=(0, 1, 2), base="ab12cd34" * 8,
        now="ab12cd34" * 8 if not plugged else "ef56ab78" * 8,
    )  # fmt: skip
