"""What the tests of live runs share: to wait for their threads, and to read a panel that trains."""

import html
import re
import threading

from helpers.panels import drawn, press, said
from helpers.patience import wait


def live_threads():
    return [t for t in threading.enumerate() if t.name == "moeviz-live"]


def end_of_kernel(kind):
    """Close the run of this kind of panel, if there is one, and forget what its process knew."""
    if kind.run is not None:
        kind.run.close()
        wait(lambda: not kind.run._thread.is_alive(), "the end of its thread")
    fresh = {"run": None, "_asked": None, "_scores": {}, "_before": None, "_killed": []}
    for name, value in fresh.items():
        if hasattr(kind, name):
            setattr(kind, name, value)


def learners(kind):
    """What the run of this kind of panel trains, as of its latest frame."""
    return kind.run.frame.learners if kind.run else ()


def steps(kind):
    return [learner.step for learner in learners(kind)] or [0]


def play(panel, step):
    """Train until a frame of this step."""
    press(panel, "play")
    wait(lambda: min(steps(type(panel))) >= step, f"step {step}")


def until(panel, sentence, condition=lambda: True):
    """Wait until the panel says so, beside the picture that belongs to the sentence."""

    def shown():
        with panel.sentence_last():
            return sentence in said(panel) and condition()

    wait(shown, sentence)


def obey(panel, button, sentence):
    """Press a button and wait until what it leads to is said."""
    press(panel, button)
    until(panel, sentence)


def step(panel, count=1):
    """So many steps, one by one; how far each learner has come."""
    goal = steps(type(panel))[-1] + count
    for _ in range(count):
        press(panel, "step")
    until(panel, "One step done.", lambda: shown_step(panel) == goal and "live" in note(panel))
    return steps(type(panel))


def interrupt(panel, step=1):
    """Train to this step and pause; then the kernel ends. How far each learner had come."""
    kind = type(panel)
    play(panel, step)
    assert learners(kind)[0].total_steps > 1000, "a short run ends before it is paused"
    obey(panel, "pause", "Paused.")
    stood = steps(kind)
    end_of_kernel(kind)
    return stood


def heard_by(panel):
    """All that the panel says from now on, each sentence once."""
    heard = set()

    def hear(change):
        heard.add(html.unescape(re.sub("<[^>]*>", "", change["new"])))

    panel.status.observe(hear, "value")
    return heard


def shown_step(panel):
    return int(drawn(panel).get("data-state").rpartition("step=")[2])


def texts(panel):
    return [t.text for t in drawn(panel).iter("{http://www.w3.org/2000/svg}text")]


def note(panel):
    """Where the runs in the picture come from."""
    return next(t for t in texts(panel) if re.match("(not )?recorded|live", t))


def trained(panel):
    """The run in the picture: its sizes or cures, and its seed."""
    wait(lambda: note(panel).startswith("live"), "the live run in the picture")
    named = note(panel).removeprefix("live").removeprefix(": ").partition(" · ")[0]
    return named or panel.drawn.rows[0][0]
