"""How an answer is read: what is not an answer yet, and the forms in which one may come."""

from __future__ import annotations

import ast
import inspect
import math
import numbers
import re
from collections.abc import Collection, Iterable
from types import CodeType, FunctionType
from typing import Any

import numpy as np

EMPTY = "def nothing(): ...\ndef dots(): return ..."


def untouched(answer: Any, start: str) -> bool:
    """Whether a cell still holds what the notebook begins with: dots, a function without a body, or
    the code `start`."""
    if answer is ...:
        return True
    if isinstance(answer, dict | list | tuple | set):
        values = answer.values() if isinstance(answer, dict) else answer
        return any(value is ... for value in values)
    found = [_written(code) for code in _codes(answer)]
    if not found:
        return False
    empty = [_written(code) for code in _inside(compile(EMPTY, "", "exec"))]
    if all(one[1:] in [code[1:] for code in empty] for one in found):
        return True
    # A name that the same source imports is called by other bytecode, and a notebook compiles each
    # statement of a cell by itself.
    statements = [ast.Module([node], []) for node in ast.parse(start).body]
    alone = [code for one in statements for code in _inside(compile(one, "", "exec"))]
    begun = (_inside(compile(start, "", "exec")), alone)
    return found in [[_written(code) for code in codes] for codes in begun]


def fingerprint(answer: Any) -> str:
    """The same for the same answer: a cell that is run again is no further try."""
    return repr([_written(code) for code in _codes(answer)] or answer)


def _codes(answer: Any) -> list[CodeType]:
    """The code of a function, of a Triton kernel, or of a class's methods."""
    if isinstance(answer, type):
        methods = [m for m in vars(answer).values() if isinstance(m, FunctionType)]
        return sorted((m.__code__ for m in methods), key=lambda code: code.co_name)
    code = getattr(inspect.unwrap(getattr(answer, "fn", answer)), "__code__", None)
    return [code] if isinstance(code, CodeType) else []


def _inside(code: CodeType) -> list[CodeType]:
    """The functions that a source defines, those of its classes too."""
    found = []
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            is_function = bool(inner.co_flags & inspect.CO_NEWLOCALS)
            found += [inner] if is_function else _inside(inner)
    return sorted(found, key=lambda code: code.co_name)


def _written(code: CodeType) -> tuple[Any, ...]:
    """How many arguments a function takes and what it does, whatever its name and its line are."""
    consts = (_written(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    return code.co_argcount, code.co_code, code.co_names, *consts


def as_number(answer: Any) -> float | None:
    """One finite number, also NumPy's, PyTorch's, or in quotes; None where it is none."""
    if isinstance(answer, str):
        try:
            answer = float(answer.replace(",", ""))
        except ValueError:
            return None
    if getattr(answer, "size", None) == 1 or getattr(answer, "numel", lambda: 0)() == 1:
        answer = answer.item()  # of an array or a tensor
    if not isinstance(answer, numbers.Real) or isinstance(answer, bool):
        return None
    return float(answer) if math.isfinite(answer) else None


def as_truth(answer: Any) -> bool | None:
    """True or False, also NumPy's, PyTorch's, 1 or 0; None where it is neither."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    if getattr(answer, "numel", lambda: 0)() == 1:
        answer = answer.item()
    return bool(answer) if isinstance(answer, numbers.Real) and answer in (0, 1) else None


def as_names(answer: Any, known: Collection[str]) -> list[str] | str:
    """Which of the known names an answer holds, or one sentence on why it is no list of them.

    One name alone or a list, a tuple, a set or an array of them; capitals, spaces, hyphens and
    underscores do not count, and the beginning of a name will do where no other begins so.
    """
    if isinstance(answer, str):
        answer = [answer] if _fitting(answer, known) else re.split(r"[,;]", answer)
    if isinstance(answer, np.ndarray):
        answer = answer.ravel().tolist()
    if not isinstance(answer, list | tuple | set | frozenset):
        return "the answer is a list of names, each in quotes."
    if not all(isinstance(name, str) for name in answer):
        return "the answer is a list of names, each in quotes."
    found: list[str] = []
    for name in answer:
        fitting = _fitting(name, known)
        if not fitting:
            return f"'{name}' is none of the names to choose from: {', '.join(known)}."
        if len(fitting) > 1:
            return f"'{name}' may be each of {', '.join(fitting)}: write it in full."
        found += fitting
    return list(dict.fromkeys(found))


def _fitting(name: str, known: Iterable[str]) -> list[str]:
    """The known name that it is, or all that begin with it."""
    bare = _bare(name)
    exact = [one for one in known if _bare(one) == bare]
    return exact or [one for one in known if bare and _bare(one).startswith(bare)]


def _bare(name: str) -> str:
    return re.sub(r"[\s,_-]", "", name).casefold()
