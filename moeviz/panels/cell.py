"""A cell that runs again makes new panels: those that it made before are closed."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from moeviz.panels.pulse import family

# By cell: the run of it that made panels last, and these.
_made: dict[str, tuple[str, list[widgets.Widget]]] = {}


def replaces(panel: widgets.Widget) -> None:
    """This panel is new in the cell that runs now: close those of the cell's runs before."""
    shell = _shell()
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    metadata = parent.get("metadata", {})
    cell = metadata.get("cellId") or metadata.get("colab", {}).get("cell_id")
    if cell is None:  # no cell, or one that is not told from its copies
        return
    run = parent["header"]["msg_id"]
    before, panels = _made.get(cell, (run, []))
    if before != run:
        for old in panels:
            old.close()
            _forget(shell, old)
        panels = []
    _made[cell] = run, [*panels, panel]


def close_parts(panel: widgets.Widget) -> None:
    """Close all that a panel holds; ipywidgets keeps what is not closed, whoever held it."""
    for widget in family(panel)[1:]:
        for part in (widget.layout, getattr(widget, "style", None), widget):
            if part is not None:
                part.close()
    panel.layout.close()


def _shell() -> Any:
    from IPython import get_ipython

    return get_ipython()


def _forget(shell: Any, panel: widgets.Widget) -> None:
    """IPython keeps what a cell has shown, as Out[1] and _1: not what is closed."""
    outputs = shell.user_ns.get("_oh", {})
    for number in [n for n, output in outputs.items() if output is panel]:
        del outputs[number]
        shell.drop_by_id({f"_{number}": panel})
