"""What every test module needs before it is imported."""

import importlib.util
import os

import pytest
import torch

# Triton decides when a kernel is defined, that is at the import of moeviz_kernels, whether it will
# be compiled or interpreted. No test module stands before this one, so here it can still be said;
# processes that tests start inherit it. A GPU compiles, and what the caller has set stays.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Triton has wheels for Linux. CI has it and insists.
if importlib.util.find_spec("triton") is None and not os.environ.get("CI"):
    collect_ignore_glob = ["test_kernels*.py"]


@pytest.fixture(scope="module")
def poisoned_memory():
    """New memory is full of NaN, or of the largest integer, and not of zeros as it often is by
    chance: what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
