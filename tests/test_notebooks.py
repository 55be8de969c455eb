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


SWALLOWED = """import sys, ipywidgets
print('oh', file=sys.stderr)
with ipywidgets.Output():
    1 / 0
box = ipywidgets.HTML('<b class="moeviz-unexpected">lost</b>')"""


@pytest.mark.parametrize(
    ("code", "complaints"),
    [
        ("1 / 0", "ZeroDivisionError"),
        (SWALLOWED, "wrote to stderr: oh|Output widget holds ZeroDivisionError|unexpected error"),
        ("import ipywidgets\nipywidgets.IntSlider()", "no still picture"),
        ("object()", "memory address"),
        ("from IPython.display import HTML\n\nHTML('x' * 500_000)", "at most 400000 are allowed"),
    ],
)
def test_what_must_not_be_published_stops_the_build(shelf, code, complaints):
    with pytest.raises(build.BuildError) as stopped:
        build.build(shelf(f"# A trial\n\n```{{code-cell}}\n{code}\n```\n"))
    assert [words for words in complaints.split("|") if words not in str(stopped.value)] == []
    assert not (build.HERE / "90_trial.ipynb").exists()
