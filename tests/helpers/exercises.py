"""What the exercise tests share: a stated solution run, and the contract of all."""

import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from moeviz import exercises
from moeviz.exercises import EXERCISES, check, solution

SOURCE_FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "src"
# Of no exercise the answer: other types, other shapes, functions of other things.
VALUES = (
    None, True, float("nan"), float("inf"), -1e9, "", "seven", [], [None], (1,), {"a": 1}, {1},
    [1, 2, 3], object(), np.zeros((2, 3)), np.array(["a"]), torch.zeros(2, 3), torch.zeros(0),
)  # fmt: skip
FUNCTIONS = (
    *(lambda *_, value=value: value for value in VALUES), lambda: 0, int, dict, torch.nn.Module,
    lambda *_: 1 / 0, lambda first, *_: [first][0], lambda *_: torch.zeros(2, 3) / 0,
)  # fmt: skip


def run_solution(number, **names):
    """The stated solution, run where a notebook's cell would know these names."""
    stated = EXERCISES[number].solution
    if not EXERCISES[number].is_code:
        return eval(stated, names)
    exec(stated, names)
    return names[re.search(r"^(?:def|class) (\w+)", stated, re.M).group(1)]


def normalised(weight_TK):
    return weight_TK / weight_TK.sum(-1, keepdim=True)


def biased(x_TD, gate_ED, bias_E, top_k, within=0.0, norm=True):
    """A router with a bias; within: a bias in the weights."""
    scores_TE = (x_TD @ gate_ED.T).softmax(-1)
    expert_TK = (scores_TE + bias_E).topk(top_k).indices
    weight_TK = (scores_TE + within).gather(1, expert_TK)
    return expert_TK, normalised(weight_TK) if norm else weight_TK


@pytest.mark.filterwarnings("error::UserWarning")  # a learner would read it
@pytest.mark.filterwarnings("error::UserWarning")  # a learner would read it
@pytest.mark.usefixtures("no_tries_yet")
class Contract:
    """What every exercise keeps. A subclass gives `wrong`, for each exercise of its notebooks the
    answers that people arrive at, besides those that the exercise lists itself, with a part of the
    sentence that each is told; and `right`, answers that are right and not the stated ones.
    in_parts: whether other files test the other exercises of the notebook."""

    wrong: dict
    right: dict
    in_parts = False

    def solved(self, number):
        return run_solution(number)

    def answer(self, number, case):
        """What a case of `wrong` or `right` stands for."""
        return case

    def pytest_generate_tests(self, metafunc):
        if "sentence" in metafunc.fixturenames:
            cases = [(number, *case) for number, each in self.wrong.items() for case in each]
            metafunc.parametrize(("number", "case", "sentence"), cases)
        elif "other" in metafunc.fixturenames:
            cases = [(number, case) for number, each in self.right.items() for case in each]
            metafunc.parametrize(("number", "other"), cases)
        elif "number" in metafunc.fixturenames:
            notebooks = {number[:2] for number in self.wrong}
            named = [n for n in EXERCISES if n[:2] in notebooks]
            own = [n for n in named if n in self.wrong] if self.in_parts else named
            metafunc.parametrize("number", sorted(own))

    def refused(self, number, answer, capsys):
        check(number, answer)
        out = capsys.readouterr().out
        assert out.startswith(f"✘ {number}: ") and "\n" not in out.strip(), out
        assert not re.search(r"Traceback|TensorHandle|\.\.$", out), out
        return out

    def test_the_stated_solution_passes(self, number, capsys):
        check(number, self.solved(number))
        first, second = capsys.readouterr().out.splitlines()
        assert first == f"✔ {number}: right. {EXERCISES[number].praise}"
        assert re.fullmatch(rf"1 of \d+ exercises of {number[:2]} are solved\.", second)

    def test_a_wrong_answer_is_told_what_is_wrong(self, number, case, sentence, capsys):
        assert sentence in self.refused(number, self.answer(number, case), capsys)

    def test_another_right_answer_passes(self, number, other):
        answer = self.answer(number, other)
        assert EXERCISES[number].fault(answer) is None
        assert EXERCISES[number].fault(answer) is None, "nor has it spoilt the next try"

    def test_there_are_two_wrong_answers_and_another_right_one(self, number):
        mistakes = len(EXERCISES[number].mistakes) + len(self.wrong.get(number, ()))
        assert mistakes >= 2 and self.right.get(number)

    def test_each_known_mistake_has_its_sentence(self, number):
        told = [EXERCISES[number].fault(answer) for answer, _ in EXERCISES[number].mistakes]
        assert told == [sentence for _, sentence in EXERCISES[number].mistakes]

    def test_whatever_is_answered_gets_one_sentence(self, number, capsys, monkeypatch):
        for answer in VALUES + FUNCTIONS:
            monkeypatch.setattr("moeviz.exercises._records", {})
            out = self.refused(number, answer, capsys)
            assert callable(answer) or "Your code raised" not in out, (answer, out)

    def test_help_comes_in_order(self, number, capsys):
        """Two hints one after the other, then the offer of the solution; a right answer ends it.
        The same answer again is no further try."""
        exercise, told = EXERCISES[number], []
        assert len(exercise.hints) == 2 and all(exercise.hints) and exercise.praise
        for answer in ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}, {"a": 5}):
            check(number, answer)
            first, *rest = capsys.readouterr().out.splitlines()
            assert first.startswith(f"✘ {number}: the answer is "), first
            told.append(rest)
        offer = f'The solution: run solution("{number}").'
        first, second = (f"Hint: {hint}" for hint in exercise.hints)
        assert told == [[], [], [first], [second], [second, offer], [second, offer]]
        solution(number)
        assert capsys.readouterr().out == exercise.solution + "\n"
        check(number, self.solved(number))
        check(number, {"a": 6})
        assert "Hint" not in capsys.readouterr().out

    def test_dots_count_as_no_try(self, number, capsys):
        for answer in (..., [...], {"a": ...}, lambda x: ...):
            check(number, answer)
            out = capsys.readouterr().out
            effort = re.escape(EXERCISES[number].effort)
            assert re.fullmatch(rf"○ {number} \({effort}\): not tried yet\. [A-Z].+\.\n", out), out
        assert exercises._records[number].tries == 0 and not exercises._records[number].wrong

    @pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of English, read as Python
    def test_no_hint_holds_the_answer(self, number):
        """Nothing in a hint, taken by itself, is the answer or the solution's decisive line."""
        exercise = EXERCISES[number]
        lines = [_bare(line).removeprefix("return") for line in exercise.solution.splitlines()]
        for hint in exercise.hints:
            assert not [line for line in lines if len(line) > 20 and line in _bare(hint)]
            words = hint.split()
            for i, j in combinations(range(len(words) + 1), 2):
                try:
                    value = eval(" ".join(words[i:j]).strip(".,:;?"), {"math": math})
                except Exception:
                    continue
                assert exercise.is_code or exercise.judge(value) is not None, words[i:j]


def _bare(text):
    return re.sub(r"\s", "", text)
