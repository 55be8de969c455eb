"""The small shipped model, loaded once, in the background: torch takes seconds to import."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from moeviz.host import data_path

if TYPE_CHECKING:
    from moeviz.model.transformer import LanguageModel
    from moeviz.panels.base import Panel
    from moeviz.text.tokenizer import Tokenizer

    Loaded = tuple[LanguageModel, Tokenizer]


class Reader:
    """The shipped model and its tokenizer, once they are there."""

    def __init__(self) -> None:
        self.failed = False  # whether the last try to load them did
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()

    def get(self) -> Loaded:
        """The model and its tokenizer, loaded at the first call: some seconds. ValueError, one
        sentence, where they cannot be; the next call tries again."""
        with self._lock:
            if self._loaded is None:
                self.failed = True
                try:
                    from moeviz.text.tokenizer import Tokenizer
                    from moeviz.watch.text import load_model

                    tokenizer = Tokenizer.default()
                    path = data_path("models", "start_here.safetensors")
                    self._loaded = load_model(path, tokenizer), tokenizer
                except (ImportError, ValueError, OSError) as error:
                    raise ValueError(f"The small model could not be loaded: {error}") from error
                self.failed = False
            return self._loaded

    def ask(self, panel: Panel) -> Loaded | None:
        """The model and its tokenizer. None while they load: the panel says so, and when that has
        ended it draws again, or says what went wrong."""
        if self._loaded is None:
            panel.say("Loading PyTorch and the small model, once: some seconds…")
            panel.worker.ask(lambda: self._load_for(panel))
        return self._loaded

    def _load_for(self, panel: Panel) -> None:
        self.get()
        panel.refresh()


READER = Reader()
