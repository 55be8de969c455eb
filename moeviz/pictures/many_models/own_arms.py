"""What an expert of one's own gains and forgets, over texts and beside other ways to learn them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.over_seeds import dots, interval_words, mean_sd, ran_on, recorded_gap
from moeviz.pictures.plot import heading, row
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.words import percent

Figures = dict[str, Any]

WHOLE, ALL, RANK, COPY = "whole", "all weights", "rank 4", "untrained copy"
WITHOUT = "whole, no replay"
WIDTH, TOP, ROW = 560.0, 112.0, 30.0
GAIN, FORGOTTEN = (136.0, 316.0), (356.0, 508.0)  # x of both plots
COLUMNS = (
    "what learns", "gain on the text", "beside a whole expert", "rise over the domains",
    "beside a whole one's", "visits, text", "visits, domains", "bytes", "seconds",
)  # fmt: skip


def own_arms(figures: Figures) -> Picture:
    """Each way to learn the texts: what the texts gain, a tick for each, and by how much the
    domains' losses rise. figures: see experiments.own_expert."""
    arms = figures["arms"]
    bottom = TOP + ROW * len(arms)
    svg = Svg(WIDTH, bottom + 76, "Ways to learn one's own text", told_all(figures))
    heading(svg, "Does it matter how it is learnt?")
    svg.text(0, 38, answer(figures), size=13, bold=True)
    about = [f"{len(figures['texts'])} texts · {figures['steps']:,} steps"]
    svg.text(0, 57, " · ".join([*about, *ran_on(figures["provenance"])]), fill=MUTED)
    most = max(v for of in arms.values() for v in of["gain"]["values"])
    least = min(0.0, *(v for of in arms.values() for v in of["gain"]["values"]))
    worst = max(v for of in arms.values() for v in of["forgotten"]["values"])
    low = min(0.0, *(v for of in arms.values() for v in of["forgotten"]["values"]))
    gain = Scale(1.05 * least, 1.05 * most, *GAIN)
    forgotten = Scale(1.05 * low, 1.05 * worst, *FORGOTTEN)
    svg.text(GAIN[0], TOP - 22, "gain on the text", bold=True)
    svg.text(FORGOTTEN[0], TOP - 22, "rise over six domains", bold=True)
    for scale in (gain, forgotten):
        x_axis(svg, scale, bottom, top=TOP - 12, ticks=scale.ticks(3), zero=True)
    svg.text(WIDTH / 2, bottom + 40, "nats per token · a tick for each text", anchor="middle")
    svg.text(WIDTH / 2, bottom + 60, "bar: one standard deviation", anchor="middle", fill=MUTED)
    for place, (arm, of) in enumerate(arms.items()):
        y = TOP + (place + 0.5) * ROW
        with row(svg, y, ROW, arm, tip=_tip(arm, of)):
            svg.text(0, y + 4, arm, bold=arm == WHOLE)
            dots(svg, gain, y, of["gain"], "#0072b2")
            dots(svg, forgotten, y, of["forgotten"], "#d55e00", "square")
            svg.text(WIDTH - 2, y + 4, f"{of['forgotten']['mean']:+z.2f}", anchor="end")
    return svg.picture(COLUMNS, _rows(figures))


def _tip(arm: str, of: Figures) -> str:
    return (
        f"{arm}: the text gains {mean_sd(of['gain'], 2)} nats per token, the domains change by "
        f"{mean_sd(of['forgotten'], 3, '+')}"
    )


def _rows(figures: Figures) -> Iterator[tuple[object, ...]]:
    judged = figures["judged"]
    for arm, of in figures["arms"].items():
        beside = [
            f"{judged[t][arm]['mean']:+z.3f}, {judged[t][arm]['verdict']}" if arm != WHOLE else ""
            for t in ("own", "forgotten")
        ]
        visits = [percent(of[n]["mean"]) if n in of else "" for n in ("visits", "elsewhere")]
        yield (
            arm, mean_sd(of["gain"], 2), beside[0], mean_sd(of["forgotten"], 3, "+"), beside[1],
            *visits, f"{of['bytes']['mean']:,.0f}", mean_sd(of["seconds"], 1),
        )  # fmt: skip


# In words.


def answer(figures: Figures) -> str:
    """Whether other text must be replayed, by the verdict."""
    rises = [f"{figures['arms'][arm]['forgotten']['mean']:+z.2f}" for arm in (WITHOUT, WHOLE)]
    told = f"without replay the domains change by {rises[0]}, with it by {rises[1]}."
    shown = figures["judged"]["forgotten"][WITHOUT]["verdict"] == "higher"
    return f"Yes: {told}" if shown else f"Open: {told}"


def told_gain(figures: Figures) -> Iterator[str]:
    """What the texts gain by a whole expert, and how sure that is of texts in general."""
    of, gap = figures["arms"][WHOLE], figures["judged"]["gain"][WHOLE]
    gains = of["gain"]["values"]
    each = ", ".join(f"{n} {g:.2f}" for n, g in zip(figures["texts"], gains, strict=True))
    better = sum(gain > 0 for gain in gains)
    yield (
        f"After {figures['steps']:,} steps a whole expert lowers the loss of its text by "
        f"{mean_sd(of['gain'], 2)} nats per token. {better} of {len(gains)} texts gain: {each}."
    )
    interval = interval_words(recorded_gap(gap))
    if gap["verdict"] == "open":
        yield (
            f"Texts differ so much that the mean for such texts is uncertain ({interval} of the "
            "change), and with so many comparisons its verdict is open."
        )
    else:
        yield f"The change of the mean is {gap['verdict']} than zero ({interval})."
    yield (
        f"Training took {mean_sd(of['seconds'], 1)} seconds of one thread where it was recorded. "
        f"The expert has {of['bytes']['mean']:,.0f} bytes."
    )


def told_forgotten(figures: Figures) -> Iterator[str]:
    """What the domains lose, how much of it is no learning, and what replay is for."""
    of, copy = figures["arms"][WHOLE], figures["arms"][COPY]
    means = [figure["mean"] for figure in of["domains"]]
    worst = max(range(len(means)), key=means.__getitem__)
    yield (
        f"The six domains change by {mean_sd(of['forgotten'], 3, '+')} nats per token on average, "
        f"{figures['domains'][worst]} most: {means[worst]:+z.3f}. Of their tokens "
        f"{percent(of['elsewhere']['mean'])} visit the new expert, of the text's own "
        f"{percent(of['visits']['mean'])}."
    )
    yield (
        f"A copy that has learnt nothing costs {mean_sd(copy['forgotten'], 3, '+')} already: who "
        "chooses an expert chooses its copy too, in place of another expert."
    )
    yield told_replay(figures)


def told_replay(figures: Figures) -> str:
    """What becomes of the domains where no other text is replayed."""
    gap = figures["judged"]["forgotten"][WITHOUT]
    rise = mean_sd(figures["arms"][WITHOUT]["forgotten"], 3, "+")
    verdict = gap["verdict"] if gap["verdict"] == "open" else f"{gap['verdict']} than with it"
    return f"Without replay the domains change by {rise}, {gap['mean']:+z.3f} more ({verdict})."


def told_forms(figures: Figures) -> Iterator[str]:
    """Ranks and all weights beside a whole expert."""
    judged, arms = figures["judged"], figures["arms"]
    for arm in ("rank 1", RANK, "rank 16", ALL):
        own, rise = judged["own"][arm], judged["forgotten"][arm]
        share = arms[arm]["bytes"]["mean"] / arms[WHOLE]["bytes"]["mean"]
        size = f"{share:.1f} times the bytes" if share >= 1 else f"{percent(share)} of the bytes"
        yield (
            f"{arm[0].upper()}{arm[1:]}, {size}: beside a whole expert the text's loss is "
            f"{_gap(own)}, the domains' {_gap(rise)}."
        )


def told_all(figures: Figures) -> str:
    """All weights beside one expert, in figures."""
    own, rise = (figures["judged"][t][ALL] for t in ("own", "forgotten"))
    return f"Where all weights learn, the text's loss is {_gap(own)}. The domains' is {_gap(rise)}."


def _gap(gap: Figures) -> str:
    return f"{gap['mean']:+z.3f} ({gap['verdict']})"


def told_settings(figures: Figures) -> Iterator[str]:
    """Which learning rates were chosen, and what less and more replay than was taken would do."""
    for form in (WHOLE, RANK, ALL):
        tried = _scores(figures["grid"][form])
        scores, chosen = _listed(tried), figures["grid"][form]["chosen"]
        yield f"{form}, learning rate: score {scores}; chosen {chosen}{_beyond(chosen, tried)}."
    tried, taken = _scores(figures["replay"]), figures["replay"]["chosen"]
    best = max(tried, key=tried.__getitem__)
    end = _beyond(best, tried)
    told = f"pieces of other text for each own one: score {_listed(tried)}; taken {taken}"
    if best == taken:
        yield f"{told}, which is the best{end}."
    elif float(best) > float(taken):
        more = f"{(1 + float(best)) / (1 + float(taken)):.1f} times as much text"
        yield f"{told}. {best} is the best{end}, but a step then reads {more}."
    else:
        yield f"{told}, though {best} is the best{end}."


def told_without(figures: Figures) -> Iterator[str]:
    """What no replay and the replay that was taken do where each has the best rate for it."""
    replay = figures["replay"]
    without, beside = (
        f"{of['rate']}, where the texts gain {of['gain']['mean']:.2f} and the domains change by "
        f"{of['forgotten']['mean']:+z.2f}"
        for of in (replay["0"], replay[replay["chosen"]])
    )
    yield (
        f"Each amount has the best of the rates here. Without replay it is {without}; with "
        f"{replay['chosen']} pieces {beside}."
    )


def _scores(settings: Figures) -> dict[str, float]:
    return {name: of["score"]["mean"] for name, of in settings.items() if name != "chosen"}


def _listed(scores: dict[str, float]) -> str:
    return ", ".join(f"{name}: {score:.2f}" for name, score in scores.items())


def _beyond(best: str, tried: dict[str, float]) -> str:
    """Whether the best is the largest or the smallest of what was tried."""
    values = [float(each) for each in tried]
    edge = float(best) in (min(values), max(values)) and float(best) > 0
    return " (the lowest or highest that was tried, so that a better one may lie beyond)" * edge


def told_together(figures: Figures) -> Iterator[str]:
    """What two experts at once cost each other, over all pairs of texts."""
    pairs, gap = figures["together"], figures["judged"]["together"]["clash"]
    texts, clash_TT = figures["texts"], pairs["clash_TT"]
    verdict = {"higher": "higher", "lower": "lower", "open": "a difference is open"}[gap["verdict"]]
    yield (
        f"Beside a second expert a text's loss is {mean_sd(pairs['clash'], 2, '+')} nats per token "
        f"({verdict}; {interval_words(recorded_gap(gap))}), the mean over its partners."
    )
    cost, text, partner = max(
        (clash_TT[i][j], texts[i], texts[j])
        for i in range(len(texts)) for j in range(len(texts)) if i != j
    )  # fmt: skip
    yield f"The worst pair: {text} beside the expert of {partner}, {cost:+z.2f}."
    yield (
        f"The domains change by {mean_sd(pairs['forgotten'], 3, '+')} with two experts, and by "
        f"{mean_sd(pairs['alone'], 3, '+')} with one of them."
    )
