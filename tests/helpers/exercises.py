"""What the exercise tests share: a stated solution run, and the contract of all."""

import re
import textwrap
from pathlib import Path

import pytest

from moeviz.exercises import EXERCISES, check, solution

SOURCE_FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "src"


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
    answers that people arrive at with a part of the sentence that each is told."""

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
            metafunc.parametrize("number", self.wrong)

    def test_no_exercise_is_left_out(self):
        notebooks = {number[:2] for number in self.wrong}
        assert list(self.wrong) == [n for n in EXERCISES if n[:2] in notebooks]

    def test_the_stated_solution_passes(self, number, capsys):
        check(number, self.solved(number))
        assert capsys.readouterr().out == f"✔ {number}: right. {EXERCISES[number].praise}\n"

    def test_a_wrong_answer_is_told_what_is_wrong(self, number, case, sentence, capsys):
        check(number, self.wrong_answer(number, case))
        out = capsys.readouterr().out
        assert out.startswith(f"✘ {number}: ") and out.count("\n") == 1, out
        assert sentence in out and not re.search(r"Traceback|TensorHandle|\.\.$", out), out

    def test_wrong_answers_are_told_apart(self, number):
        sentences = {sentence for _, sentence in self.wrong[number]}
        assert len(sentences) >= (2 if number == "02.2" else 3), "02.2 chooses between two words"

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
