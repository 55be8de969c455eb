"""What a panel adds to its page: a style and scripts, in one widget that no redraw touches."""

from __future__ import annotations

import ipywidgets as widgets

from moeviz.pictures.hand import HAND, runs
from moeviz.pictures.svg import PAGE_INK

# JupyterLab gives widgets without a kernel the class jupyter-widgets-disconnected. Its broken link
# on each of them explains nothing: one sentence stands for all.
STYLE = f"""
.moeviz-panel.jupyter-widgets-disconnected::after {{
    content: "No kernel stands behind this picture: run its cell again (Shift+Enter).";
    order: -1; margin: 2px; padding: 4px 8px; color: {PAGE_INK}; border-left: 4px solid #d55e00;
}}
.moeviz-panel.jupyter-widgets-disconnected::before,
.moeviz-panel .jupyter-widgets-disconnected::before {{ display: none; }}
/* What stands in place of a widget whose parts the page did not get, of a panel or a whole one. */
.jupyter-widgets-error-widget::before {{
    content: "This did not reach the page whole: run its cell again (Shift+Enter).";
    flex: none; margin: 2px; padding: 4px 8px; color: {PAGE_INK}; border-left: 4px solid #d55e00;
}}
/* A pressed button is told by more than a grey, and is not wider than before. */
.moeviz-panel .mod-active, .moeviz-predict .mod-active {{
    box-shadow: inset 0 -3px 0 currentColor; text-shadow: 0.4px 0 currentColor;
}}
.moeviz-panel :focus-visible:not([data-press]), .moeviz-predict :focus-visible {{
    outline: 2px solid {PAGE_INK} !important; outline-offset: 1px;
}}
/* The words beside a slider are neither cut off nor touched by its handle at the end. */
.moeviz-panel .widget-readout {{ margin-left: 10px; max-width: none; flex-shrink: 0; }}
/* A picture that is wider than its cell scrolls by itself, and buttons go on in another line. */
.moeviz-panel .moeviz-picture, .moeviz-picture > .widget-html-content {{
    min-width: 0; max-width: 100%;
}}
.moeviz-picture > .widget-html-content {{ flex: 1 1 100%; }}
.moeviz-panel .widget-toggle-buttons {{ max-width: calc(100% - 4px); }}
.moeviz-panel .widget-toggle-buttons > div {{ flex-wrap: wrap; }}
.moeviz-panel .widget-toggle-button {{
    max-width: calc(100% - 4px); height: auto; white-space: normal;
}}
.moeviz-stale {{ opacity: 0.4; }}
/* A sentence lies over as many letters, unseen, as it is given room for. */
.moeviz-status [data-room] {{ display: grid; }}
.moeviz-status [data-room]::after {{ content: attr(data-room); visibility: hidden; }}
.moeviz-status [data-room] > *, .moeviz-status [data-room]::after {{ grid-area: 1 / 1; }}
/* One that the picture says too is for screen readers, and for pages too narrow for the picture,
beside a file browser: there its lines go on beyond the edge. It takes four lines there. */
.moeviz-panel {{ position: relative; }}
.moeviz-status:has([data-unseen]) {{ max-height: 6em; overflow-y: auto; }}
.moeviz-status [data-unseen]::after {{ max-height: 6em; overflow: hidden; }}
@media (min-width: 840px) {{ .moeviz-status:has([data-unseen]) {{
    position: absolute; width: 1px; height: 1px; min-height: 0; margin: 0; overflow: hidden;
    clip-path: inset(50%);
}} }}
.moeviz-files .widget-html-content > div {{ display: flex; }}
.moeviz-panel .moeviz-button {{ width: auto; margin: 2px; text-decoration: none; }}
"""


def page() -> widgets.HTML:
    """The widget of all of it; what hands do on pictures is of the pictures."""
    html = f"<style>{STYLE}</style>{runs('speak.js', 'moeviz.panels')}{HAND}"
    return widgets.HTML(html, layout=widgets.Layout(display="none"))
