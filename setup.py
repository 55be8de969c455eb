"""The one thing that pyproject.toml cannot say: found packages *and* the folder `data`.

A wheel carries `data/` as `moeviz/recorded/`, so that Colab, which installs a wheel, has it too.
"""

from pathlib import Path

from setuptools import find_packages, setup

data = Path(__file__).parent / "data"

setup(
    packages=[
        *find_packages(".", include=["moeviz", "moeviz.*"]),
        *find_packages("kernels"),
        "moeviz.recorded",
        *(f"moeviz.recorded.{folder.name}" for folder in sorted(data.iterdir()) if folder.is_dir()),
    ]
)
