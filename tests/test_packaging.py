"""What a wheel carries, and that the folder `kernels` is in nobody's way."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import moeviz

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What Google Colab has preinstalled; moeviz is added there without its dependencies.
COLAB = {
    "torch": "2.11.0",
    "triton": "3.6.0",
    "ipywidgets": "7.7.1",
    "matplotlib": "3.10.0",
    "seaborn": "0.13.2",
    "datasets": "4.0.0",
}
BUILT_FROM = [
    *("pyproject.toml", "setup.py", "MANIFEST.in", "requirements.txt", "README.md", "LICENSE"),
    *("moeviz", "kernels", "data", "tests"),
]


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources, because a build leaves folders beside them."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for source in (ROOT / name for name in BUILT_FROM):
        if source.is_dir():
            shutil.copytree(source, tree / source.name, ignore=ignored)
        else:
            shutil.copy(source, tree)
    return tree


def built(tree: Path, kind: str, target: Path) -> tuple[Path, str]:
    """The file that setuptools builds, and all that it says."""
    code = f"import setuptools.build_meta as b, sys; b.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-P", "-c", code, str(target)]
    run = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    return next(target.iterdir()), run.stdout + run.stderr


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory) -> Path:
    return built(tree, "sdist", tmp_path_factory.mktemp("sdist"))[0]


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Of the sdist, as pip builds it where it finds no wheel."""
    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(sdist, folder, filter="data")
    path, said = built(next(folder.iterdir()), "wheel", tmp_path_factory.mktemp("wheel"))
    assert "Warning" not in said and "would be ignored" not in said, said
    return path


def test_the_sdist_leaves_out_what_needs_a_checkout(sdist):
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    ours = {"moeviz", "kernels", "data", "setup.py", "pyproject.toml", "requirements.txt"}
    assert ours <= tops and not tops & {"tests", "notebooks", "benchmarks"}


def test_the_wheel_holds_the_packages_and_the_data(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        "moeviz": "moeviz",
        "kernels/moeviz_kernels": "moeviz_kernels",
        "data": "moeviz/recorded",
    }
    expected = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in sources.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == expected


def test_an_installed_wheel_finds_its_data_from_anywhere(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from moeviz.host import data_path\n"
        "print(data_path('tokenizer', 'tokenizer.json'))"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "site")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = tmp_path / "site" / "moeviz" / "recorded" / "tokenizer" / "tokenizer.json"
    assert run.stdout.strip() == str(expected)


def test_the_repository_root_is_not_on_the_path(tmp_path):
    command = [sys.executable, "-P", "-c", "import moeviz, sys; print(*sys.path, sep='\\n')"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ROOT not in {Path(line).resolve() for line in run.stdout.splitlines() if line}


@pytest.mark.parametrize(("name", "version"), COLAB.items())
def test_the_ranges_admit_what_colab_has(name, version):
    ranges = {r.name: r.specifier for r in map(Requirement, lines("requirements.txt"))}
    assert version in ranges[name]


def test_every_direct_dependency_is_pinned_inside_its_range():
    pins = dict(line.split("==") for line in lines("constraints.txt"))
    for line in [*lines("requirements.txt"), *PROJECT["optional-dependencies"]["test"]]:
        requirement = Requirement(line)
        assert pins[requirement.name] in requirement.specifier, line


def test_the_version_is_said_once():
    assert PROJECT["version"] == moeviz.__version__


def test_the_address_stands_in_one_place_only():
    address = "github.com/" + "OWNER"
    files = [*ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("moeviz/**/*.py")]
    held = [path.name for path in files if address in path.read_text(encoding="utf-8")]
    assert set(held) <= {"pyproject.toml", "README.md"}
