"""What the tests of the kernels share: where they run, and in which dtypes."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# How far a result may be from float64, relative to its norm. Triton's interpreter computes bfloat16
# wrongly.
DTYPES = {torch.float32: 2e-6, torch.float16: 2e-3}
if DEVICE == "cuda":
    DTYPES[torch.bfloat16] = 1.5e-2
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def with_dtypes(names, cases, quick):
    """Each case in each dtype; slow where it is neither float32 nor one of the quick."""
    return pytest.mark.parametrize(
        (*names, "dtype"),
        [
            pytest.param(
                *case,
                dtype,
                id="-".join([*map(str, case), str(dtype)[6:]]),
                marks=() if dtype == torch.float32 or case in quick else pytest.mark.slow,
            )
            for case in cases
            for dtype in DTYPES
        ],
    )
