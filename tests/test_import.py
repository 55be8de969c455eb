"""`import moeviz` is light, and the first notebook cell stays so."""

import json
import subprocess
import sys

import pytest

from moeviz import __version__, nb

HEAVY = {"torch", "triton", "matplotlib", "datasets", "pandas", "transformers"}
LIMIT_S = 0.3
# CPU time of the statement alone: it does not wait for other jobs of a busy machine.
MEASURE = """
import json, sys, time
started = time.process_time()
{statement}
took = time.process_time() - started
print("\\n" + json.dumps([took, sorted({{name.split(".")[0] for name in sys.modules}})]))
"""


def measure(statement):
    """CPU seconds of a statement in a new process, and the modules that it brings along."""
    command = [sys.executable, "-P", "-c", MEASURE.format(statement=statement)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    took, modules = json.loads(run.stdout.splitlines()[-1])
    return took, set(modules)


def test_the_package_and_the_first_cell_are_light():
    assert not HEAVY & measure("from moeviz import nb; nb.setup()")[1]
    assert min(measure("import moeviz")[0] for _ in range(3)) < LIMIT_S


def test_every_panel_comes_without_what_only_calculation_needs():
    modules = measure("from moeviz import panels; [getattr(panels, n) for n in panels.__all__]")[1]
    assert "ipywidgets" in modules and not {*HEAVY, "scipy"} & modules


@pytest.mark.parametrize("torch", ["2.11.0+cpu", None])
def test_setup_prints_one_line_with_versions(torch, monkeypatch, capsys):
    monkeypatch.setattr(nb, "package_version", {"torch": torch, "ipywidgets": "8.1"}.get)
    nb.setup()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"moeviz {__version__} · Python 3.") and "ipywidgets 8.1" in line
    assert ("no PyTorch: recorded pictures only" in line) == (torch is None)
    assert ("CPU, grouped expert backend" in line) == (torch is not None)


def test_setup_without_ipywidgets_says_what_to_do(monkeypatch):
    monkeypatch.setattr(nb, "package_version", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install ipywidgets"):
        nb.setup()
