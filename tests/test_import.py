"""`import moeviz` is light, and the first notebook cell stays so."""

import json
import subprocess
import sys

import pytest

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


def measure(statement: str) -> tuple[float, set[str]]:
    command = [sys.executable, "-P", "-c", MEASURE.format(statement=statement)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    took, modules = json.loads(run.stdout.splitlines()[-1])
    return took, set(modules)


def test_import_moeviz_is_light():
    runs = [measure("import moeviz") for _ in range(3)]
    assert not HEAVY & runs[0][1]
    assert min(took for took, _ in runs) < LIMIT_S


def test_the_first_cell_imports_nothing_heavy():
    _, modules = measure("from moeviz import nb; nb.setup()")
    assert not HEAVY & modules


def test_setup_prints_one_line_with_versions(capsys):
    from moeviz import __version__, nb

    nb.setup()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"moeviz {__version__} · Python 3.")
    assert "ipywidgets" in lines[0] and "expert backend" in lines[0]


def test_setup_without_torch_says_what_still_works(monkeypatch, capsys):
    from moeviz import nb

    version = nb.package_version
    monkeypatch.setattr(
        nb, "package_version", lambda name: None if name == "torch" else version(name)
    )
    nb.setup()
    assert "no PyTorch: recorded pictures only" in capsys.readouterr().out


def test_setup_without_ipywidgets_says_what_to_do(monkeypatch):
    from moeviz import nb

    monkeypatch.setattr(nb, "package_version", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install ipywidgets"):
        nb.setup()
