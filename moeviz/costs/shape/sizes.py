"""The sizes and flags of a part, checked by what its fields are annotated as."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from moeviz.checks import check_flag, check_whole


def check_sizes(part: Any, *, zero: tuple[str, ...] = ()) -> None:
    """ValueError, naming it, for a field that is no whole number of at least 1, or of at least 0
    where `zero` names it, and for a flag that is none; None is a size where its type allows it."""
    for field in fields(part):
        value = getattr(part, field.name)
        if field.type == "bool":
            check_flag(field.name, value)
        elif field.type == "int" or (field.type == "int | None" and value is not None):
            check_whole(field.name, value, 0 if field.name in zero else 1)
