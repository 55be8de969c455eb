"""What nvidia-smi says of a GPU meanwhile, with a stand-in that writes as it does."""

import sys
import time

import pytest

from moeviz.watch import chip
from moeviz.watch.chip import Chip, read_line

# Python keeps back what it writes into a pipe, as nvidia-smi may; to a terminal it does not.
STAND_IN = """#!{python} -S
import sys, time
print(*sys.argv[1:], sep=" ", file=open({words!r}, "w"))
while True:
    print("1980, 412.50, 700.00, [N/A]")
    time.sleep(0.01)
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    program, words = tmp_path / "nvidia-smi", tmp_path / "words"
    program.write_text(STAND_IN.format(python=sys.executable, words=str(words)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    return words


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of Unix")
def test_samples_come_while_it_runs_and_end_with_it(nvidia_smi):
    begun = time.monotonic()
    with Chip() as watch:
        while (found := watch.medians([(begun, time.monotonic())])) is None:
            assert time.monotonic() < begun + 60
            time.sleep(0.01)
        process = watch._process
        assert watch.medians([(begun - 9, begun - 1)]) is None
    assert found.pop("samples") >= 1
    assert found == {"sm_mhz": 1980.0, "power_w": 412.5, "power_limit_w": 700.0}
    assert process.poll() is not None and not watch._thread.is_alive()
    assert nvidia_smi.read_text().startswith("--id=2 --query-gpu=clocks.sm,power.draw,")


def test_without_nvidia_smi_there_is_no_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with Chip() as watch:
        assert watch.medians([(0.0, time.monotonic())]) is None
    assert str(watch) == "no samples of clock, power and temperature from nvidia-smi"


def test_medians_are_over_the_samples_of_the_spans():
    watch = Chip()
    for at, mhz in enumerate((1980, 1700, 1500, 900)):
        watch._samples.append((float(at), {"sm_mhz": float(mhz)}))
    assert watch.medians([(0.0, 0.5), (1.5, 2.5)]) == {"samples": 2, "sm_mhz": 1740.0}
    assert watch.medians([]) is None
    # A span between two samples takes its neighbours, and no others.
    assert watch.medians([(1.05, 1.07)]) == {"samples": 1, "sm_mhz": 1700.0}
    assert watch.medians([(1.2, 1.3)]) is None


def test_a_line_that_is_none_has_no_figure():
    assert read_line('Field "clocks.sm" is not a valid field to query.') == {}
    assert read_line("345, 71.2, 700.0, 28") == dict(
        zip(chip.QUERY, (345, 71.2, 700, 28), strict=True)
    )
