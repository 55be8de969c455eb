"""What the exercise tests share: a stated solution run, and answers checked as a learner would."""

import re
import textwrap
from pathlib import Path

from moeviz.exercises import EXERCISES, check

SOURCE_FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "src"


def run_solution(number, **names):
    """The stated solution, run where a notebook's cell would know these names."""
    stated = EXERCISES[number].solution
    if "def " not in stated:
        return eval(stated, names)
    exec(textwrap.dedent(stated), names)
    return names[re.search(r"^def (\w+)", stated, re.M).group(1)]


def check_right(number, answer, capsys):
    check(number, answer)
    assert capsys.readouterr().out == f"✔ {number}: right. {EXERCISES[number].praise}\n"


def check_wrong(number, answer, sentence, capsys):
    """Check a first answer, which is told what is wrong with it in one line; returns the line."""
    check(number, answer)
    out = capsys.readouterr().out
    assert out.startswith(f"✘ {number}: ") and out.count("\n") == 1, out
    assert sentence in out and "Traceback" not in out, out
    return out


def check_help(number, wrong, capsys):
    """Two hints come one after the other, then the offer of the solution, and they stay."""
    exercise = EXERCISES[number]
    assert len(exercise.hints) == 2 and all(exercise.hints) and exercise.praise
    said = []
    for _ in range(5):
        check(number, wrong)
        said.append(capsys.readouterr().out.splitlines()[1:])
    offer = f'The solution: run solution("{number}").'
    first, second = (f"Hint: {hint}" for hint in exercise.hints)
    assert said == [[], [first], [second], [second, offer], [second, offer]]


def check_asked(notebook, numbers):
    """The notebook asks for each of these exercises and for no other."""
    text = (SOURCE_FOLDER / f"{notebook}.md").read_text("utf-8")
    assert sorted(set(re.findall(r'check\("([^"]+)"', text))) == numbers
    assert all(f"**{number}**" in text for number in numbers)
