"""Build the notebooks: notebooks/src/NN_name.md (MyST) -> executed notebooks/NN_name.ipynb.

python notebooks/build.py [NAME ...]      execute the sources and write the notebooks
python notebooks/build.py --check         do sources and written notebooks agree?
python notebooks/build.py --execute-only  run every notebook for real, write nothing

A written notebook reads well with no kernel: a PNG stands where a widget lives, no widget state,
no timings, cell ids that follow from the text. Two builds are byte-identical. The glossary beside
them is written from moeviz/glossary.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from moeviz.glossary import as_markdown

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
README = HERE.parent / "README.md"
MAX_BYTES = 400_000
CELL_TIMEOUT_S = 300
# What a panel writes into its own HTML when it meets an error that nobody foresaw.
UNEXPECTED = "moeviz-unexpected"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# Something that can be read where no kernel runs; the bare text of a widget cannot.
READABLE = {"image/png", "image/svg+xml", "text/html", "text/markdown"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FIRST_CELL = """\
import sys
from importlib.util import find_spec


class NotInstalled(Exception):
    def _render_traceback_(self):  # this sentence, and no traceback
        return [str(self)]


if "google.colab" in sys.modules and find_spec("moeviz") is None:
{install}

from moeviz import nb

nb.setup()"""
# Not %pip: on Colab that asks for a restart, whatever it did. Colab's PyTorch and widgets stay.
INSTALL = """\
    import subprocess

    source = "git+{repository}@{tag}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source]
    if subprocess.run(pip, capture_output=True).returncode:
        raise NotInstalled(
            "moeviz could not be installed: run this cell again, or let a cell with "
            f"'!pip install {{source}}' say why."
        )
    print("moeviz {tag} is installed, nothing needs a restart.")"""
NO_ADDRESS = """\
    raise NotInstalled("Colab cannot install moeviz: the project has no public address yet.")"""


class BuildError(Exception):
    """What is wrong with a notebook, in one sentence for its author."""


def project() -> dict[str, Any]:
    """What pyproject.toml says of the project."""
    text = (HERE.parent / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"])


def repository() -> str:
    """The project's address, from the one place where it stands."""
    return str(project()["urls"]["Repository"])


def has_address() -> bool:
    """Whether it is a real one."""
    return "/OWNER/" not in repository()


def tag() -> str:
    """The release that Colab opens and installs, so that a notebook and its code are of one."""
    return f"v{project()['version']}"


def first_cell() -> str:
    install = INSTALL.format(repository=repository(), tag=tag()) if has_address() else NO_ADDRESS
    return FIRST_CELL.format(install=install)


def badge(name: str, images: str = "img") -> str:
    """What opens a notebook in Colab, or says that nothing can yet."""
    if not has_address():
        return "*In Colab once the project has a public address*"
    path = f"{repository().removeprefix('https://github.com/')}/blob/{tag()}"
    colab = f"https://colab.research.google.com/github/{path}/notebooks/{name}.ipynb"
    return f"[![Open in Colab]({images}/colab.svg)]({colab})"


def readme_with_addresses(text: str, names: list[str]) -> str:
    """The README with the project's address where it stands in a command or a badge."""
    text = re.sub(r"git clone \S+", f"git clone {repository()}", text)
    for name in names:
        text = row(name).sub(rf"\g<1>{badge(name, 'notebooks/img')}\g<2>", text)
    return text


def row(name: str) -> re.Pattern[str]:
    """A notebook's row in the README, around its last column: the badge."""
    return re.compile(rf"^(\|.*\(notebooks/{name}\.ipynb\).* \| ).*?( \|)$", re.MULTILINE)


def readme_problems(names: list[str]) -> Iterator[str]:
    text = README.read_text(encoding="utf-8")
    if text != readme_with_addresses(text, names):
        yield "README.md has another address than pyproject.toml: run 'make notebooks'."
    yield from (
        f"README.md has no row for {name}: add one to the shelf."
        for name in names
        if not row(name).search(text)
    )
    for target in re.findall(r"(?:\]\(|src=\")([^)\s\"]+)", text):
        path = target.split("#")[0]
        if path and "://" not in path and not (README.parent / path).exists():
            yield f"README.md links to {target}, which does not exist."


def compose(source: Path) -> NotebookNode:
    """The notebook without outputs: badge, the source's title, the common first cell, the rest."""
    cells = jupytext.read(source, fmt="md:myst").cells
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise BuildError(f"{source.name} must begin with a text cell that opens with '# Title'.")
    title = nbformat.v4.new_markdown_cell(f"{badge(source.stem)}\n\n{cells[0].source}")
    setup = nbformat.v4.new_code_cell(first_cell())
    # JupyterLab folds the plumbing away; its output, one line, stays in sight.
    setup.metadata = NotebookNode({"jupyter": {"source_hidden": True}})
    cells = [title, setup, *cells[1:]]
    for cell in cells:
        if cell.cell_type == "code" and shows_panels_alone(cell.source):
            cell.metadata = setup.metadata
    # An id from the text: it moves with its cell, so that a new cell changes no other.
    seen: dict[str, int] = {}
    for cell in cells:
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[key] = seen.get(key, 0) + 1
        cell.id = key if seen[key] == 1 else f"{key}-{seen[key]}"
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def shows_panels_alone(code: str) -> bool:
    """Whether there is nothing to read in a cell: it calls a panel, and no more."""
    lines = [line for line in code.splitlines() if line.strip()]
    return all(re.match(r"from moeviz import panels$|panels\.\w+\(", line) for line in lines)


def execute(notebook: NotebookNode, name: str, *, static: bool) -> None:
    """Run all cells in place, in a folder and with settings of their own; BuildError if any failed.

    static: panels put a PNG beside their widget (MOEVIZ_STATIC=1).
    """
    with tempfile.TemporaryDirectory(prefix="moeviz-notebook-") as folder:
        manager = AsyncKernelManager(kernel_name="python3")
        # No folders to look in: what is left is the interpreter that runs this file.
        manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        # Sockets in the folder, not ports: between its choice and the kernel's start a port may be
        # taken by another process, and the kernel then dies.
        manager.transport, manager.ip = "ipc", str(Path(folder) / "kernel")
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=CELL_TIMEOUT_S,
            startup_timeout=CELL_TIMEOUT_S,
            record_timing=False,
            # Without this, how prints fall into messages depends on the moment.
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--IPKernelApp.log_level=40"],  # errors, not its word on encryption
        )
        client.owns_km = True  # so that it ends the kernel when it is done
        environment = {
            **os.environ,
            "IPYTHONDIR": str(Path(folder) / "ipython"),
            "PYTHONHASHSEED": "0",
        }
        environment.pop("MOEVIZ_STATIC", None)
        environment.pop("TRITON_INTERPRET", None)  # set by the tests for themselves
        if static:
            environment["MOEVIZ_STATIC"] = "1"
        try:
            client.execute(env=environment)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise BuildError(f"{name}: {error}") from None
    problems = [*output_problems(notebook), *swallowed_errors(client.widget_state)]
    if problems:
        raise BuildError("\n".join(f"{name}: {problem}" for problem in problems))


def output_problems(notebook: NotebookNode) -> Iterator[str]:
    """Errors and stderr among a notebook's outputs."""
    for cell, output in outputs(notebook):
        tags = cell.metadata.get("tags", [])
        if output.output_type == "error" and "raises-exception" not in tags:
            yield f"{excerpt(cell)} raised {output.ename}: {output.evalue}"
        elif output.output_type == "stream" and output.name == "stderr":
            yield f"{excerpt(cell)} wrote to stderr: {output.text.strip()}"


def swallowed_errors(widget_state: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Errors that only a widget saw: callbacks, interact, threads and Output keep cells green."""
    for state in widget_state.values():
        for output in state.get("outputs", []) if isinstance(state.get("outputs"), list) else []:
            if output.get("output_type") == "error":
                yield f"an Output widget holds {output.get('ename')}: {output.get('evalue')}"
            elif output.get("output_type") == "stream" and output.get("name") == "stderr":
                yield f"an Output widget holds stderr: {output.get('text', '').strip()}"
        for value in state.values():
            if isinstance(value, str) and UNEXPECTED in value:
                at = value.index(UNEXPECTED)
                yield f"a panel shows an unexpected error: {value[at : at + 400]}"


def outputs(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, NotebookNode]]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield cell, output


def excerpt(cell: NotebookNode) -> str:
    return f"the cell {cell.source.strip().splitlines()[-1]!r}"


def clean(notebook: NotebookNode, name: str) -> None:
    """Leave only what reads without a kernel and does not change from build to build."""
    notebook.metadata = NotebookNode(METADATA)
    for cell, output in outputs(notebook):
        data = output.get("data", {})
        if data.pop(WIDGET_VIEW, None) is not None and not READABLE & data.keys():
            raise BuildError(
                f"{name}: {excerpt(cell)} shows a widget and no still picture; give the widget's "
                "_repr_mimebundle_ an image/png (or text/html) beside it."
            )
        if "image/png" in data:
            # An untrusted notebook shows no SVG, and JupyterLab would prefer its empty place.
            data.pop("text/html", None)
            image = output.metadata.setdefault("image/png", NotebookNode())
            image.setdefault("alt", data.get("text/plain", ""))
        if re.search(r" at 0x[0-9a-f]{6,}", data.get("text/plain", "") + output.get("text", "")):
            raise BuildError(f"{name}: {excerpt(cell)} shows a memory address.")


def build(source: Path) -> int:
    """Execute one source and write its notebook; returns the size in bytes."""
    notebook = compose(source)
    execute(notebook, source.stem, static=True)
    clean(notebook, source.stem)
    nbformat.validate(notebook)
    data = f"{nbformat.writes(notebook)}\n".encode()
    if len(data) > MAX_BYTES:
        raise BuildError(f"{source.stem}: {len(data)} bytes, at most {MAX_BYTES} are allowed.")
    (HERE / f"{source.stem}.ipynb").write_bytes(data)
    return len(data)


def check(source: Path) -> Iterator[str]:
    """What is wrong with a written notebook, one sentence each."""
    path = HERE / f"{source.stem}.ipynb"
    if not path.is_file():
        yield f"{path.name} is missing: run 'make notebooks'."
        return
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if inputs(notebook) != inputs(compose(source)):
        yield f"{path.name} differs from src/{source.name}: run 'make notebooks'."
    if path.stat().st_size > MAX_BYTES:
        yield f"{path.name} has {path.stat().st_size} bytes, at most {MAX_BYTES} are allowed."
    if notebook.metadata != METADATA:
        yield f"{path.name} was saved from JupyterLab: run 'make notebooks'."
    if any(cell.get("execution_count", 0) is None for cell in notebook.cells):
        yield f"{path.name} has a cell that was not executed: run 'make notebooks'."
    if any(WIDGET_VIEW in output.get("data", {}) for _, output in outputs(notebook)):
        yield f"{path.name} holds widgets, which no viewer can show: run 'make notebooks'."
    for problem in output_problems(notebook):
        yield f"{path.name}: {problem}"
    for target in broken_links(notebook):
        yield f"{path.name} links to {target}, which does not exist."


def inputs(notebook: NotebookNode) -> list[tuple[str, str, str, Any]]:
    return [(cell.id, cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]


def broken_links(notebook: NotebookNode) -> Iterator[str]:
    """Relative targets of Markdown links and pictures that are no file."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", cell.source):
                path = target.split("#")[0]
                if path and "://" not in path and not (HERE / path).exists():
                    yield target


def strays() -> Iterator[str]:
    """Notebooks that no source stands behind."""
    for path in sorted(HERE.glob("*.ipynb")):
        if not (SOURCES / f"{path.stem}.md").is_file():
            yield f"{path.name} has no source: write src/{path.stem}.md."


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="which notebooks, as 00_start_here (default: all)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare, execute nothing")
    mode.add_argument("--execute-only", action="store_true", help="execute, write nothing")
    options = parser.parse_args(argv)

    sources = [SOURCES / f"{name}.md" for name in options.names] or sorted(SOURCES.glob("*.md"))
    missing = [source.name for source in sources if not source.is_file()]
    if missing or not sources:
        print(f"No source {', '.join(missing)} in {SOURCES}.", file=sys.stderr)
        return 1

    names = [source.stem for source in sorted(SOURCES.glob("*.md"))]
    problems = [*strays(), *readme_problems(names)] if options.check else []
    for source in sources:
        started = time.monotonic()
        try:
            if options.check:
                problems += check(source)
            elif options.execute_only:
                execute(compose(source), source.stem, static=False)
                print(f"{source.stem}: ran in {time.monotonic() - started:.0f} s", flush=True)
            else:
                size = build(source)
                took = time.monotonic() - started
                print(f"{source.stem}: {size / 1000:.0f} KB in {took:.0f} s", flush=True)
        except BuildError as error:
            problems.append(str(error))
    glossary = HERE / "glossary.md"
    written = glossary.read_text(encoding="utf-8") if glossary.is_file() else ""
    if options.check and written != as_markdown():
        problems.append("glossary.md is not that of moeviz/glossary.py: run 'make notebooks'.")
    if not (options.check or options.execute_only or problems):
        glossary.write_text(as_markdown(), encoding="utf-8", newline="\n")
        text = readme_with_addresses(README.read_text(encoding="utf-8"), names)
        README.write_text(text, encoding="utf-8", newline="\n")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
