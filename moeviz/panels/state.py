"""A panel's state as one readable line, `kind?name=value&name=value`, and the way back."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

ODD_TEXT = "surrogatepass"  # half of a surrogate pair has a place in a state too
# What would end a value, be read as another letter, or need care in HTML or in a Python string.
SPECIAL = '%&=+<>"\\'


def written(kind: str, values: Mapping[str, Any]) -> str:
    """The state of these values; only what could be misread is percent-encoded."""
    return f"{kind}?{'&'.join(f'{name}={_safe(str(v))}' for name, v in values.items())}"


def _safe(value: str) -> str:
    plain = (
        letter
        if letter.isprintable() and letter not in SPECIAL
        else quote(letter, safe="", errors=ODD_TEXT)
        for letter in value
    )
    return re.sub(r"^ | $", "%20", "".join(plain))  # a state is pasted with spaces around it


def read(kind: str, text: str) -> dict[str, str]:
    """The values of a state, still as texts; ValueError where it is of another kind."""
    given, _, query = text.strip().partition("?")
    if given != kind:
        raise ValueError(f"This panel's states begin with '{kind}?', this one with '{given}'.")
    return dict(parse_qsl(query, keep_blank_values=True, errors=ODD_TEXT))


def parsed(name: str, control: Any, given: str) -> Any:
    """A control's value from its text; ValueError where the control cannot take it."""
    options = getattr(control, "options", None)
    if options is not None:
        values = [o[1] if isinstance(o, tuple) else o for o in options]
        for value in values:
            if str(value) == given:
                return value
        raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, got '{given}'.")
    if isinstance(control.value, str):
        return given
    if isinstance(control.value, bool):
        if given not in ("True", "False"):
            raise ValueError(f"{name} must be True or False, got '{given}'.")
        return given == "True"
    try:
        value = type(control.value)(given)
    except ValueError:
        raise ValueError(f"{name} must be a number, got '{given}'.") from None
    if not control.min <= value <= control.max:
        raise ValueError(f"{name} must lie in {control.min} to {control.max}, got {given}.")
    return value


def opens_by_state(make: Callable[..., None]) -> Callable[..., None]:
    """A panel's __init__ that takes `state=` besides; ValueError, and no panel, where it does not
    fit."""

    @functools.wraps(make)
    def init(self: Any, *given: Any, state: str = "", **options: Any) -> None:
        make(self, *given, **options)
        if state:
            try:
                self.open_at(state)
            except ValueError:
                self.close()
                raise

    signature = inspect.signature(make)
    keyword = inspect.Parameter("state", inspect.Parameter.KEYWORD_ONLY, default="")
    names = [*signature.parameters.values(), keyword]
    init.__signature__ = signature.replace(parameters=names)  # type: ignore[attr-defined]
    return init
