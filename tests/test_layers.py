"""The floors of the house: an import only ever goes down, and never in a circle."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "moeviz"
KERNELS = ROOT / "kernels" / "moeviz_kernels"

# A room is a file or a folder of moeviz/. It may import from its own floor and from those below.
FLOORS = [
    {
        "machine",
        "paths",
        "files",
        "provenance",
        "snapshot",
        "dispatch_trace",
        "metrics",
        "published",
        "arithmetic",
    },
    {"domains", "sources", "tokenizer", "corpus", "backend"},
    {"routing"},
    {"experts"},
    {"layer"},
    {"model"},
    {
        "train_config",
        "tracing",
        "deciding",
        "dispatching",
        "trainer",
        "experiments",
        "systems",
        "compress",
        "pretrained",
    },
    {"pictures", "live", "exercises"},
    {"panels"},
    {"nb", "lab", "cli", "doctor", "__main__", "__init__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
GROUND = FLOORS[0]
# What each side of the snapshot line must not know.
WIDGETS = {"ipywidgets", "IPython", "ipykernel", "anywidget"}
COMPUTE = {"torch", "triton", "transformers", "moeviz_kernels"}


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever it does so."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *filter(None, [node.module])])
            # `from a import b` may name a module b or something inside a.
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def inner(name: str) -> set[str]:
    """The modules of moeviz that a module imports."""
    targets = set()
    for imported in IMPORTS[name]:
        while imported and imported not in MODULES:
            imported = imported.rpartition(".")[0]
        targets |= {imported} - {"", name}
    # The version is the one name that anyone may take from the top.
    return targets - ({"moeviz"} if "moeviz.__version__" in IMPORTS[name] else set())


def outer(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in IMPORTS[name]}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


@pytest.mark.parametrize("name", MODULES)
def test_an_import_only_goes_down(name):
    assert room(name) in FLOOR_OF, f"give {room(name)!r} a floor in {Path(__file__).name}"
    for target in inner(name):
        assert FLOOR_OF[room(target)] <= FLOOR_OF[room(name)], f"{name} imports {target}, above it"


def test_there_are_no_circles():
    # A folder's own __init__ gathers names from its files, which may not import it back.
    try:
        TopologicalSorter({name: inner(name) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "pictures"])
def test_pictures_stand_on_the_ground_alone(name):
    assert {room(target) for target in inner(name)} <= GROUND | {"pictures"}
    assert not outer(name) & (WIDGETS | COMPUTE)


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in GROUND])
def test_the_ground_needs_no_torch(name):
    assert not outer(name) & (WIDGETS | COMPUTE)


@pytest.mark.parametrize("name", MODULES)
def test_widgets_live_in_panels_and_exercises_only(name):
    if room(name) not in {"panels", "exercises", "nb"}:
        assert not outer(name) & WIDGETS


def test_only_backend_knows_the_kernels():
    assert {name for name in MODULES if "moeviz_kernels" in outer(name)} <= {"moeviz.backend"}


def test_the_kernels_know_torch_and_triton_only():
    allowed = {"torch", "triton", "moeviz_kernels", *sys.stdlib_module_names}
    for path in KERNELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.partition(".")[0] in allowed


def test_nothing_is_unpickled():
    for name, imported in IMPORTS.items():
        assert not {"pickle", "dill", "joblib"} & outer(name), name
        assert not {"torch.load", "numpy.load"} & imported, name
