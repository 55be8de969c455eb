"""Plumbing of the notebooks: the first cell's check, and showing a picture."""

from __future__ import annotations

import functools
import io
import platform
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz import __version__
from moeviz.experiments.recorded import recorded_figures
from moeviz.host import has_gpu, package_version
from moeviz.pictures import Picture
from moeviz.pictures.hand import HAND
from moeviz.pictures.static import with_still
from moeviz.pictures.training.at_scale import at_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moeviz.watch.pretrained import Pretrained

PROOF = "The cat sat on the mat. 12 + 7 = 19"  # what a checkpoint is tried on


def setup() -> None:
    """Check that widgets are there and print one line: versions, device, expert backend.

    torch is looked up, not imported: the first picture must not wait for it.

    Raises ModuleNotFoundError where ipywidgets is missing.
    """
    widgets = package_version("ipywidgets")
    if widgets is None:
        raise ModuleNotFoundError(
            "ipywidgets is missing from this kernel's Python: run '%pip install ipywidgets', "
            "then restart the kernel."
        )
    torch = package_version("torch")
    parts = [
        f"moeviz {__version__}",
        f"Python {platform.python_version()}",
        f"PyTorch {torch}" if torch else "no PyTorch: recorded pictures only, no training",
        f"ipywidgets {widgets}",
    ]
    if torch:
        device = "NVIDIA GPU" if has_gpu() else "CPU"
        # Which one a GPU runs hangs on its compute capability, and asking would import torch.
        backend = "grouped" if device == "CPU" else "Triton or matmul (see python -m moeviz doctor)"
        parts.append(f"{device}, {backend} expert backend")
    print(" · ".join(parts))


def show(picture: Picture) -> None:
    """Display a picture that needs no controls, and print what it says in words."""
    from IPython.display import display

    bundle = {"text/html": HAND + picture.svg, "text/plain": picture.summary}
    display(with_still(picture, bundle), raw=True)
    print(picture.summary)


def show_gpu_run(name: str) -> None:
    """Display a training that was recorded on a GPU, by its experiment's name, or say that there is
    none yet."""
    recorded = recorded_figures(name)
    if recorded is None:
        print(
            f"Not recorded yet: this needs an NVIDIA GPU. On one, 'python -m moeviz experiment "
            f"{name} --seconds 100' records it."
        )
    else:
        show(at_scale(name, recorded))


def show_run(name: str, draw: Callable[[dict[str, Any]], Picture]) -> None:
    """Display a picture of an experiment's figures, or say that none are recorded yet."""
    if recorded := _recorded(name):
        show(draw(recorded))


def tell_run(name: str, told: Callable[[dict[str, Any]], str | Iterable[str]]) -> None:
    """Print what an experiment's figures say, or that none are recorded yet."""
    if recorded := _recorded(name):
        words = told(recorded)
        print(words if isinstance(words, str) else "\n".join(words))


def _recorded(name: str) -> dict[str, Any] | None:
    recorded = recorded_figures(name)
    if recorded is None:
        print(f"Not recorded yet: 'python -m moeviz experiment {name}' records it.")
    return recorded


def show_figure(figure: Figure) -> None:
    """Display a matplotlib figure; its axes' titles are what a screen reader says."""
    from IPython.display import Image, display

    data = io.BytesIO()
    figure.savefig(data, format="png")
    titles = [axes.get_title() for axes in figure.axes]
    display(Image(data.getvalue(), alt="; ".join(title for title in titles if title)))


def exported(name: str) -> str:
    """The folder of the lab's small model, written as a Hugging Face checkpoint of a format of
    `python -m moeviz export`, which lasts as long as the kernel."""
    from moeviz.host import data_path
    from moeviz.model.export import write_checkpoint
    from moeviz.text.tokenizer import Tokenizer
    from moeviz.watch.text import load_model

    tokenizer = Tokenizer.default()
    model = load_model(data_path("models", "start_here.safetensors"), tokenizer)
    folder = Path(_kept().name) / f"small_model_as_{name}"
    if not folder.exists():
        write_checkpoint(model, tokenizer, name, folder)
    return str(folder)


@functools.cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    """A folder that is taken away when the kernel ends."""
    return tempfile.TemporaryDirectory(prefix="moeviz-")


def real_model(name: str) -> Pretrained | None:
    """A checkpoint by its name on the Hub or its folder, tried on a short text: prints how large it
    is, its weighting rule and how exactly its routing was recorded; or why there is none, and then
    returns None, for which panels show the lab's own model."""
    from moeviz.watch import pretrained

    try:
        real = pretrained.load(name, say=print)
        print(pretrained.describe(pretrained.trace(real, PROOF)))
    except ValueError as refusal:
        print(f"{refusal} The panels below show the lab's own model instead.")
        return None
    return real
