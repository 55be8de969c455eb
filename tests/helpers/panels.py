"""What the panel tests share: reading a panel, opening it, and checks that hold for any."""

import html
import json
import re
import subprocess
import sys
import threading
import time
from xml.etree import ElementTree

import pytest

NASTY = "<script>alert(\"x\")</script> & 'q' ]]> {{x}}\n\t% + # ="
# What a callback raises, and what a thread raises, would pass unseen otherwise.
LOUD = [
    pytest.mark.usefixtures("nothing_is_swallowed"),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]


def said(panel):
    return html.unescape(re.sub("<[^>]*>", "", panel.status.value))


def drawn(panel):
    return ElementTree.fromstring(panel.picture.value)


def content(panel):
    """The picture without its state, which changes with every control."""
    return re.sub('data-state="[^"]*"', "", panel.picture.value)


def everything(panel):
    controls = {name: control.value for name, control in panel.controls.items()}
    return panel.picture.value, panel.state_box.value, controls


def twin(panel):
    """The table twin: its rows, the heading first, and its caption."""
    table = ElementTree.fromstring(panel.table.value)
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    return rows, table.find(".//caption").text


def family(widget):
    return [widget, *(w for child in getattr(widget, "children", ()) for w in family(child))]


def press(panel, name):
    (found,) = [w for w in family(panel) if f"moeviz-{name}" in getattr(w, "_dom_classes", ())]
    found.click()


def opened(*makes, then=""):
    """Make and show panels in a process of their own, as a notebook's first cell does: its seconds,
    whether it has torch, and of each panel how the picture begins and what the status says."""
    code = f"""
import json, sys, time
started = time.process_time()
from moeviz import panels
shown = [{", ".join(makes)}]
for panel in shown:
    panel._repr_mimebundle_()
{then}
took = time.process_time() - started
found = [p.picture.value[:4] for p in shown], [p.status.value for p in shown]
print(json.dumps([took, "torch" in sys.modules, *found]))
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    return json.loads(run.stdout)


def at_rest(make):
    """The panel made, which moves nothing by itself and starts no thread."""
    threads = threading.active_count()
    panel = make()
    before = everything(panel)
    time.sleep(0.05)
    assert everything(panel) == before and threading.active_count() == threads
    return panel


def check_no_markup(panel):
    """Of a nasty text nothing has become markup."""
    for value in (panel.picture.value, panel.table.value, panel.status.value):
        assert "<script" not in value
        ElementTree.fromstring(value)
