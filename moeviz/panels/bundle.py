"""What a notebook shows of a widget, and how its controls answer while a cell runs."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets


def view_bundle(widget: widgets.DOMWidget, plain: str) -> dict[str, Any]:
    """What displays a widget, with a text for places that show none."""
    answer_at_once(widget)
    bundle: dict[str, Any] = {"text/plain": plain}
    if widget.comm is not None:  # a closed widget has no view
        bundle["application/vnd.jupyter.widget-view+json"] = {
            "version_major": 2,
            "version_minor": 0,
            "model_id": widget.model_id,
        }
    return bundle


def answer_at_once(widget: widgets.Widget) -> None:
    """Let a widget and its children hear a control while a cell runs.

    JupyterLab sends a control's messages to a thread of their own (a subshell), but ipykernel 7
    passes a new widget's first one to the thread that made it, where it waits for the running
    cell: the learner's first move seems lost. This has the front end's choice honoured.
    """
    if widget.comm is not None and hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = None
    for child in getattr(widget, "children", ()):
        answer_at_once(child)
