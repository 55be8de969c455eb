"""The floors of the house: an import only ever goes down, and never in a circle."""

import ast
import functools
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("floors")  # on one worker: 500 files are read once
ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "moeviz"
KERNELS = ROOT / "kernels" / "moeviz_kernels"

# A room is a file or a folder of moeviz/. It imports from the floors below its own alone.
FLOORS = [
    {"checks", "glossary", "words"},
    {"host", "leaving", "power", "records"},
    {"costs"},
    {"text", "backend", "pictures"},
    {"ops"},
    {"routing"},
    {"model"},
    {"watch", "systems", "surgery"},
    {"training"},
    {"experiments"},
    {"predictions"},
    {"exercises", "panels", "nb", "figures"},
    {"app"},
    {"__main__", "__init__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
GROUND = FLOORS[0] | FLOORS[1] | FLOORS[2]
# What each side of the record line must not know.
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


@functools.cache
def imports_of(name: str) -> set[str]:
    return imports(MODULES[name])


def inner(name: str) -> set[str]:
    """The modules of moeviz that a module imports."""
    targets = set()
    for imported in imports_of(name):
        while imported and imported not in MODULES:
            imported = imported.rpartition(".")[0]
        targets |= {imported} - {"", name}
    # The version is the one name that anyone may take from the top.
    return targets - ({"moeviz"} if "moeviz.__version__" in imports_of(name) else set())


def outer(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in imports_of(name)}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def arrows() -> set[tuple[str, str]]:
    """Which room imports from which other."""
    return {(room(n), room(t)) for n in MODULES for t in inner(n) if room(n) != room(t)}


def test_every_room_has_a_floor():
    assert not {room(name) for name in MODULES} - set(FLOOR_OF)


def test_an_import_only_goes_down():
    climbs = [
        f"{name} imports {target}"
        for name in MODULES
        for target in inner(name)
        if room(name) != room(target) and FLOOR_OF[room(target)] >= FLOOR_OF[room(name)]
    ]
    assert not climbs


def test_there_are_no_circles():
    # A folder's own __init__ gathers names from its files, which may not import it back.
    try:
        TopologicalSorter({name: inner(name) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_pictures_stand_on_records_and_costs_alone():
    below = {target for start, target in arrows() if start == "pictures"}
    assert below <= {"records", "costs", "checks", "glossary", "words"}


def test_nothing_above_the_record_line_needs_torch():
    for name in MODULES:
        if room(name) in GROUND | {"pictures"}:
            assert not outer(name) & (WIDGETS | COMPUTE), name


def test_widgets_live_in_panels_and_exercises_only():
    for name in MODULES:
        if room(name) not in {"panels", "exercises", "nb"}:
            assert not outer(name) & WIDGETS, name


def test_only_backend_knows_the_kernels():
    assert {name for name in MODULES if "moeviz_kernels" in outer(name)} <= {"moeviz.backend"}


def test_one_file_asks_whether_an_operation_has_a_kernel():
    asks = {name for name in MODULES if "moeviz.backend.kernels_for" in imports_of(name)}
    assert asks == {"moeviz.ops"}


def test_the_kernels_know_torch_and_triton_only():
    allowed = {"torch", "triton", "moeviz_kernels", *sys.stdlib_module_names}
    for path in KERNELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.partition(".")[0] in allowed


def test_nothing_is_unpickled():
    for name in MODULES:
        imported = imports_of(name)
        assert not {"pickle", "dill", "joblib"} & outer(name), name
        assert not {"torch.load", "numpy.load"} & imported, name
