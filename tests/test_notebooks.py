"""The builder keeps its promises, and every notebook runs from start to end without an error."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted((NOTEBOOKS / "src").glob("*.md"))

spec = importlib.util.spec_from_file_location("build", NOTEBOOKS / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

TRIAL = """\
# A trial

```{code-cell}
import ipywidgets

from moeviz.pictures.static import png

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="9"/></svg>'


class Panel(ipywidgets.VBox):
    def _repr_mimebundle_(self, **options):
        return {**super()._repr_mimebundle_(**options), "image/png": png(SVG), "text/plain": "P"}


Panel([ipywidgets.IntSlider()])
```

```{code-cell}
print(1)
print(2)
```
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty shelf of notebooks; call it with a text to put a source there."""
    (tmp_path / "notebooks" / "src").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[project.urls]\nRepository = "https://github.com/someone/moeviz"\n'
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


def code(text: str) -> str:
    return f"# A trial\n\n```{{code-cell}}\n{text}\n```\n"


@pytest.mark.notebook
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_runs_from_start_to_end(source):
    build.execute(build.compose(source), source.stem, static=False)


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
    shown = [output.get("data", {}) for _, output in build.outputs(notebook)]
    assert "image/png" in shown[1] and build.WIDGET_VIEW not in shown[1]
    assert "github/someone/moeviz/blob/main/notebooks/90_trial.ipynb" in notebook.cells[0].source
    assert "git+https://github.com/someone/moeviz" in notebook.cells[1].source


def test_check_sees_a_changed_source_a_broken_link_and_a_stray(shelf, capsys):
    source = shelf("# A trial\n\nSee [this](nowhere.md) and [that](https://example.org).\n")
    build.build(source)
    shelf(source.read_text() + "\nMore.\n")
    (build.HERE / "99_stray.ipynb").write_text("{}")
    assert build.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "90_trial.ipynb differs from src/90_trial.md" in said
    assert "links to nowhere.md" in said and "example.org" not in said
    assert "99_stray.ipynb has no source" in said


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nprint('oh', file=sys.stderr)", "wrote to stderr: oh"),
        (
            "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    1 / 0",
            "an Output widget holds ZeroDivisionError",
        ),
        (
            "import ipywidgets\nbox = ipywidgets.HTML('<b class=\"moeviz-unexpected\">lost</b>')",
            "a panel shows an unexpected error",
        ),
        ("import ipywidgets\nipywidgets.IntSlider()", "no still picture"),
        ("object()", "memory address"),
        ("from IPython.display import HTML\n\nHTML('x' * 500_000)", "at most 400000 are allowed"),
    ],
    ids=lambda value: value[:20].replace("\n", " "),
)
def test_what_must_not_be_published_stops_the_build(shelf, cell, said):
    with pytest.raises(build.BuildError, match=said):
        build.build(shelf(code(cell)))
    assert not (build.HERE / "90_trial.ipynb").exists()


def test_an_expected_error_is_no_problem(shelf):
    text = code("1 / 0").replace("{code-cell}", "{code-cell}\n:tags: [raises-exception]")
    build.build(shelf(text))


def test_a_source_opens_with_its_title(shelf):
    with pytest.raises(build.BuildError, match="must begin with a text cell"):
        build.compose(shelf("Text.\n"))
