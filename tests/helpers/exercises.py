"""What the exercise tests share: a stated solution run, and the contract of all."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from moeviz.exercises import EXERCISES, check, solution

SOURCE_FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "src"
# Of no exercise the answer: other types, other shapes, functions of other things.
VALUES = (
    None, True, float("nan"), float("inf"), -1e9, "", "seven", [], [None], (1,), {"a": 1}, {1},
    [1, 2, 3], object(), np.zeros((2, 3)), np.array(["a"]), torch.zeros(2, 3), torch.zeros(0),
)  # fmt: skip
FUNCTIONS = (
    *(lambda *_, value=value: value for value in VALUES), lambda: 0, int, dict, torch.nn.Module,
    lambda *_: 1 / 0, lambda first, *_: first, lambda *_: torch.zeros(2, 3) / 0,
)  # fmt: skip


def run_solution(number, **names):
    """The stated solution, run where a notebook's cell would know these names."""
    stated = EXERCISES[number].solution
    if "def " not in stated:
        return eval(stated, names)
    exec(textwrap.dedent(stated), names)
    return names[re.search(r"^def (\w+)", stated, re.M).group(1)]


@pytest.mark.usefixtures("no_tries_yet")
class Contract:
    """What every exercise keeps. A subclass gives `wrong`, for each exercise of its notebooks the
    answers that people arrive at, besides those that the exercise lists itself, with a part of the
    sentence that each is told."""

    wrong: dict

    def solved(self, number):
        return run_solution(number)

    def wrong_answer(self, number, case):
        return case

    def pytest_generate_tests(self, metafunc):
        if "sentence" in metafunc.fixturenames:
            cases = [(number, *case) for number, each in self.wrong.items() for case in each]
            metafunc.parametrize(("number", "case", "sentence"), cases)
        elif "number" in metafunc.fixturenames:
            notebooks = {number[:2] for number in self.wrong}
            metafunc.parametrize("number", sorted(n for n in EXERCISES if n[:2] in notebooks))

    def refused(self, number, answer, capsys):
        check(number, answer)
        out = capsys.readouterr().out
        assert out.startswith(f"✘ {number}: ") and "\n" not in out.strip(), out
        assert not re.search(r"Traceback|TensorHandle|\.\.$", out), out
        return out

    def test_the_stated_solution_passes(self, number, capsys):
        check(number, self.solved(number))
        assert capsys.readouterr().out == f"✔ {number}: right. {EXERCISES[number].praise}\n"

    def test_a_wrong_answer_is_told_what_is_wrong(self, number, case, sentence, capsys):
        assert sentence in self.refused(number, self.wrong_answer(number, case), capsys)

    def test_each_known_mistake_has_its_sentence(self, number):
        told = [EXERCISES[number].fault(answer) for answer, _ in EXERCISES[number].mistakes]
        assert told == [sentence for _, sentence in EXERCISES[number].mistakes]

    def test_whatever_is_answered_gets_one_sentence(self, number, capsys, monkeypatch):
        for answer in VALUES + FUNCTIONS:
            monkeypatch.setattr("moeviz.exercises._wrong", {})
            out = self.refused(number, answer, capsys)
            assert callable(answer) or "Your code raised" not in out, (answer, out)

    def test_help_comes_in_order(self, number, capsys):
        """Two hints one after the other, then the offer of the solution; a right answer ends it."""
        exercise, told = EXERCISES[number], []
        assert len(exercise.hints) == 2 and all(exercise.hints) and exercise.praise
        for _ in range(5):
            check(number, ...)
            first, *rest = capsys.readouterr().out.splitlines()
            assert first.startswith(f"✘ {number}: the answer is "), "what a notebook begins with"
            told.append(rest)
        offer = f'The solution: run solution("{number}").'
        first, second = (f"Hint: {hint}" for hint in exercise.hints)
        assert told == [[], [first], [second], [second, offer], [second, offer]]
        solution(number)
        assert capsys.readouterr().out == exercise.solution + "\n"
        check(number, self.solved(number))
        check(number, ...)
        assert "Hint" not in capsys.readouterr().out
