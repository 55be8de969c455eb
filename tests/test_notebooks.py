"""The builder keeps its promises, and every notebook runs from start to end without an error."""

import html
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from moeviz.predictions import PREDICTIONS

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted((NOTEBOOKS / "src").glob("*.md"))
# Those that a browser test plays from start to end need no second run each time.
BROWSER_TESTS = Path(__file__).parent.glob("test_browser*.py")
PLAYED = {
    name
    for path in BROWSER_TESTS
    for name in re.findall(r'"(\w+)\.ipynb"', path.read_text("utf-8"))
}

spec = importlib.util.spec_from_file_location("build", NOTEBOOKS / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

TRIAL = """\
# A trial

```{code-cell}
import ipywidgets

from moeviz.panels.bundle import view_bundle
from moeviz.pictures.static import png

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="9"/></svg>'


class Panel(ipywidgets.VBox):
    _ipython_display_ = None

    def _repr_mimebundle_(self, **options):
        return {**view_bundle(self, "P"), "text/html": SVG, "image/png": png(SVG)}


Panel([ipywidgets.IntSlider()])
```

```{code-cell}
print(1)
print(2)
```

```{code-cell}
:tags: [raises-exception]
1 / 0
```
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty shelf of notebooks; call it with a text to put a source there."""
    (tmp_path / "notebooks" / "src").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nversion = "3.2.1"\n[project.urls]\n'
        'Repository = "https://github.com/someone/moeviz"\n'
    )
    monkeypatch.setattr(build, "HERE", tmp_path / "notebooks")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "notebooks" / "src")
    (tmp_path / "notebooks" / "img").mkdir()
    (tmp_path / "notebooks" / "img" / "colab.svg").touch()

    def put(text: str) -> Path:
        source = build.SOURCES / "90_trial.md"
        source.write_text(text, encoding="utf-8")
        return source

    return put


@pytest.mark.notebook
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(source, marks=[pytest.mark.slow] * (source.stem in PLAYED), id=source.stem)
        for source in SOURCES
    ],
)
def test_runs_from_start_to_end(source):
    """Trainings of 50 steps and more are cut to 20; `make notebooks` has run them in full."""
    notebook = build.compose(source)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"\bsteps=([5-9]\d|[1-9]\d{2,})\b", "steps=20", cell.source)
    build.execute(notebook, source.stem, static=False)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_prediction_is_asked_and_then_resolved(source):
    asked = re.findall(r'panels\.(Predict|Outcome)\("([^"]+)"\)', source.read_text("utf-8"))
    keys = [key for kind, key in asked if kind == "Predict"]
    assert [key for kind, key in asked if kind == "Outcome"] == keys, "each once, in one order"
    assert {*keys} <= PREDICTIONS.keys()
    for key in keys:
        assert asked.index(("Predict", key)) < asked.index(("Outcome", key))
        assert key.startswith(source.stem[:2])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_minutes_at_the_top_are_enough_to_read_to_look_and_to_solve(source):
    text = source.read_text("utf-8")
    top = int(re.search(r"^\*(\d+) minutes", text, re.MULTILINE)[1])
    exercises = sum(map(int, re.findall(r"· (\d+) min\)", text)))
    looks = len(re.findall(r"panels\.(?!Predict|Outcome)[A-Z]\w+\(|\bshow\w*\(", text))
    words = len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())
    assert top >= exercises + looks + words / 150, "a minute a look, 150 words a minute"
    told = re.search(r"of which (\d+) are exercises", text)
    assert told is None or abs(int(told[1]) - exercises) <= 2


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_what_was_measured_stands_nowhere_before_it_is_asked(source):
    """In no text, code or output; and the first notebook shows something before it asks."""
    notebook = nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    before = ""
    for cell in notebook.cells:
        shown = [text for o in cell.get("outputs", []) for text in o.get("data", {}).values()]
        printed = [o.get("text", "") for o in cell.get("outputs", [])]
        before += html.unescape("\n".join([cell.source, *map(str, shown), *printed, ""]))
        for key in re.findall(r'panels\.Predict\("([^"]+)"\)', cell.source):
            assert not key.startswith("00.") or "panels.RouteText()" in before
            try:
                measured = PREDICTIONS[key].measured()
            except ValueError:  # nothing is recorded that could be told
                continue
            assert measured.figure not in before and measured.because not in before, key


def test_no_prediction_is_left_unasked():
    text = "".join(source.read_text("utf-8") for source in SOURCES)
    assert [key for key in PREDICTIONS if f'panels.Predict("{key}")' not in text] == []


def test_two_builds_are_byte_identical_and_read_without_a_kernel(shelf):
    source = shelf(TRIAL)
    build.build(source)
    path = build.HERE / "90_trial.ipynb"
    first = path.read_bytes()
    build.build(source)
    assert path.read_bytes() == first
    assert list(build.check(source)) == []
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    shown = [output for _, output in build.outputs(notebook)]
    assert {*shown[1].data} == {"image/png", "text/plain"}
    assert shown[1].metadata == {"image/png": {"alt": "P"}}
    address = "github/someone/moeviz/blob/v3.2.1/notebooks/90_trial.ipynb"
    assert address in notebook.cells[0].source
    assert "git+https://github.com/someone/moeviz@v3.2.1" in notebook.cells[1].source


def test_check_sees_a_changed_source_a_broken_link_and_a_stray(shelf, capsys, monkeypatch):
    monkeypatch.setattr(build, "execute", lambda *given, static: None)
    source = shelf("# A trial\n\nSee [this](nowhere.md) and [that](https://example.org).\n")
    build.build(source)
    shelf(source.read_text() + "\nMore.\n")
    (build.HERE / "99_stray.ipynb").write_text("{}")
    assert build.main(["--check"]) == 1
    complaints = capsys.readouterr().err
    assert "90_trial.ipynb differs from src/90_trial.md" in complaints
    assert "links to nowhere.md" in complaints and "example.org" not in complaints
    assert "99_stray.ipynb has no source" in complaints
    assert "glossary.md is not that of" in complaints


# Runs a cell in IPython as on Colab, where moeviz is not installed yet and pip ends as it is told.
ON_COLAB = """\
import importlib.util, subprocess, sys, types
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell()
sys.modules["google.colab"] = types.ModuleType("google.colab")
importlib.util.find_spec = lambda name: None
subprocess.run = lambda command, **options: asked.append(command) or ends
asked, ends = [], types.SimpleNamespace(returncode=int(sys.argv[1]))
assert shell.run_cell(sys.argv[2]).success == (sys.argv[1] == "0")
print(*asked[0][1:] if asked else ["nothing asked"])"""


def on_colab(code, pip=0):
    """What is shown of a cell, line by line, and last what pip was asked."""
    command = [sys.executable, "-P", "-c", ON_COLAB, str(pip), code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return run.stdout.splitlines()


def test_on_colab_the_first_cell_installs_one_release_and_says_how_that_went(shelf):
    code = build.compose(shelf(TRIAL)).cells[1].source
    source = "git+https://github.com/someone/moeviz@v3.2.1"
    said, versions, asked = on_colab(code)
    assert said == "moeviz v3.2.1 is installed, nothing needs a restart."
    assert versions.startswith("moeviz ") and "PyTorch" in versions
    assert asked == f"-m pip install --quiet --no-deps {source}"
    said, asked = on_colab(code, pip=1)
    assert said.startswith("moeviz could not be installed: run this cell again, or ")
    assert source in said and source in asked


def test_without_a_public_address_badge_and_first_cell_say_so(shelf, monkeypatch):
    where = build.HERE.parent / "pyproject.toml"
    where.write_text(where.read_text().replace("someone", "OWN" + "ER"))
    title, first = build.compose(shelf(TRIAL)).cells[:2]
    assert title.source.startswith("*In Colab once the project has a public address*")
    assert "](" not in title.source.split("#")[0]
    said, asked = on_colab(first.source, pip=1)
    assert said == "Colab cannot install moeviz: the project has no public address yet."
    assert asked == "nothing asked"


def test_the_readme_follows_the_address(shelf):
    readme = "git clone {} && cd x\n| <img> | **[90](notebooks/90_trial.ipynb)** It | {} |\n"
    where = build.HERE.parent / "pyproject.toml"
    real = where.read_text()
    text = readme.format("anything", "no badge")
    for owner, badge in (
        ("OWN" + "ER", "*In Colab once the project has a public address*"),
        (
            "someone",
            "[![Open in Colab](notebooks/img/colab.svg)](https://colab.research.google.com/"
            "github/someone/moeviz/blob/v3.2.1/notebooks/90_trial.ipynb)",
        ),
    ):
        where.write_text(real.replace("someone", owner))
        text = build.readme_with_addresses(text, ["90_trial"])
        assert text == readme.format(f"https://github.com/{owner}/moeviz", badge)


SWALLOWED = """import sys, ipywidgets
print('oh', file=sys.stderr)
with ipywidgets.Output():
    1 / 0
box = ipywidgets.HTML('<b class="moeviz-unexpected">lost</b>')"""


def refused(source):
    """Why the build of a notebook stops."""
    with pytest.raises(build.BuildError) as stopped:
        build.build(source)
    assert not (build.HERE / "90_trial.ipynb").exists()
    return str(stopped.value)


@pytest.mark.parametrize(
    ("code", "complaints"),
    [
        ("1 / 0", "ZeroDivisionError"),
        (SWALLOWED, "wrote to stderr: oh|Output widget holds ZeroDivisionError|unexpected error"),
    ],
)
def test_an_error_stops_the_build_wherever_it_is_shown(shelf, code, complaints):
    said = refused(shelf(f"# A trial\n\n```{{code-cell}}\n{code}\n```\n"))
    assert [words for words in complaints.split("|") if words not in said] == []


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({build.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "IntSlider()"}, "no still picture"),
        ({"text/plain": "<object object at 0x7f2e4d5c3a10>"}, "memory address"),
        ({"text/html": "x" * build.MAX_BYTES}, f"at most {build.MAX_BYTES} are allowed"),
    ],
)
def test_what_must_not_be_published_stops_the_build(shelf, monkeypatch, data, complaint):
    """Whatever cell has shown it."""

    def shows(notebook, name, *, static):
        notebook.cells[-1].outputs = [nbformat.v4.new_output("display_data", data)]

    monkeypatch.setattr(build, "execute", shows)
    assert complaint in refused(shelf("# A trial\n\n```{code-cell}\nshow()\n```\n"))
