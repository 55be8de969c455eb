"""What holds of all exercises, and of the notebooks that ask them.

The answers of each notebook have files of their own: test_exercises_*.py.
"""

import ast
import linecache
import math
import re

import numpy as np
import pytest
import torch

from helpers.exercises import SOURCE_FOLDER
from moeviz import exercises
from moeviz.exercises import (
    EXERCISES,
    check,
    dense_vs_moe,
    solution,
)
from moeviz.exercises.answers import as_names
from moeviz.records import metrics

SOURCES = sorted(SOURCE_FOLDER.glob("*.md"))
CELL = re.compile(r"```\{code-cell\} ipython3\n(.*?)```", re.S)
pytestmark = pytest.mark.usefixtures("no_tries_yet")


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("hash, quiet", ["hash, quiet"]),
        ("hash, Z-loss", ["hash", "z_loss 0.1"]),
        (np.array([["HASH"], ["hash_quiet"]]), ["hash", "hash, quiet"]),
        (("hash", "hash"), ["hash"]),
        ([], []),
    ],
)
def test_names_are_known_by_their_beginning_and_whatever_their_case(answer, names):
    assert as_names(answer, ["hash", "hash, quiet", "z_loss 0.1"]) == names


@pytest.mark.parametrize(
    ("answer", "words"),
    [("z", "may be each of z_loss 0.1, z_loss 0.2"), ([""], "'' is none of"), ([1], "a list of")],
)
def test_what_names_nothing_or_two_things_is_told_so(answer, words):
    assert words in as_names(answer, ["hash", "z_loss 0.1", "z_loss 0.2"])


def test_exercises_are_counted_apart(capsys):
    check("01.1", 1)
    check("02.2", "no")
    check("01.1", 2)
    check("01.1", 2)  # the same cell again
    assert capsys.readouterr().out.count("Hint:") == 2, "it stays"
    tries = {number: record.tries for number, record in exercises._records.items()}
    assert tries == {"01.1": 2, "02.2": 1}


@pytest.mark.parametrize("call", [lambda n: check(n, 1), solution])
@pytest.mark.parametrize("number", ["00.9", "3", 1.1, ""])
def test_an_unknown_number_is_refused_in_one_sentence(call, number):
    with pytest.raises(
        ValueError, match=rf"^There is no exercise '{number}'; there is 00.1, .*\.$"
    ):
        call(number)


def test_notebooks_and_exercises_name_each_other():
    found = [
        n for path in SOURCES for n in re.findall(r'check\("([^"]+)"', path.read_text("utf-8"))
    ]
    assert sorted(set(found)) == sorted(EXERCISES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_has_three_exercises_and_has_one_piece_written(path):
    text = path.read_text("utf-8")
    number = path.stem.partition("_")[0]
    found = re.findall(r'^check\("([\d.]+)", (\S+)\)', text, flags=re.M)
    assert len({n for n, _ in found}) >= 3
    # A chapter in parts (03, 03b, …) counts on.
    assert all(n.startswith(f"{number[:2]}.") and f"**{n}**" in text for n, _ in found)
    for n, name in found:
        assert not EXERCISES[n].is_code or f" {name}" in EXERCISES[n].asks, "one name for one thing"
    pieces = [name for _, name in found if re.search(rf"^(?:def|class) {name}\b", text, re.M)]
    assert pieces, "no exercise has the learner write a function or a class"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "by_statement"])
def test_a_notebook_run_as_it_stands_counts_no_try(path, whole, capsys):
    """Its exercise cells are stubs that the check knows, and it says how hard each one is. A cell
    is compiled as a whole, or each statement by itself, as IPython does."""
    text = path.read_text("utf-8")
    names = dict(np=np, torch=torch, math=math, metrics=metrics, check=check)
    dense, moe = dense_vs_moe.recorded()[:2]
    names |= dict(recorded=[dense, moe])
    if path.stem.startswith("12"):
        triton = pytest.importorskip("triton")
        names |= dict(triton=triton, tl=triton.language)
    asked = 0
    for cell in CELL.findall(text):
        numbers = re.findall(r'^check\("([^"]+)"', cell, re.M)
        if not numbers:
            continue
        name = f"<exercise {numbers[0]}>"  # Triton reads a kernel's source
        linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
        tree = ast.parse(cell)
        for part in [tree] if whole else [ast.Module([node], []) for node in tree.body]:
            exec(compile(part, name, "exec"), names)
        out = capsys.readouterr().out
        for number in numbers:
            asked += 1
            assert f"○ {number} " in out and "✘" not in out, out
            assert f"**{number}** ({EXERCISES[number].effort})\n" in text
    assert asked >= 3 and not any(record.tries for record in exercises._records.values())


def test_progress_is_of_the_notebook_that_runs_and_can_be_copied():
    check("01.1", 1)
    check("01.1", 32)
    check("01.1", 256)
    check("01.1", 7)  # what comes after is no longer counted
    check("01.3", ...)
    solution("01.2")
    table = exercises.progress()
    assert table.caption == "1 of 3 exercises of 01 are solved."
    assert [(row[0], *row[2:]) for row in table.rows] == [
        ("01.1", "answer", 3, "solved"),
        ("01.2", "answer", 0, "not tried yet, solution seen"),
        ("01.3", "code", 0, "not tried yet"),
    ]
    assert table.csv.splitlines()[1] == "01.1,★☆☆ · 1 min,answer,3,solved"


def test_progress_before_anything_is_tried_lists_all_of_them():
    numbers = [row[0] for row in exercises.progress().rows]
    assert sorted(numbers) == sorted(EXERCISES)
    assert numbers.index("03.10") == numbers.index("03.9") + 1
