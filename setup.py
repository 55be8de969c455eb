"""The one thing that pyproject.toml cannot say: found packages *and* the folder `data`.

A wheel carries `data/` as `moeviz/recorded/`, so that Colab, which installs a wheel, has it too.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(".", include=["moeviz", "moeviz.*"]),
        *find_packages("kernels"),
        "moeviz.recorded",
    ]
)
