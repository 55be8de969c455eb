"""The small shipped model, loaded once, in the background: torch takes seconds to import."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from moeviz.host import data_path

if TYPE_CHECKING:
    from moeviz.model.transformer import LanguageModel
    from moeviz.panels.base import Panel
    from moeviz.text.tokenizer import Tokenizer

log = logging.getLogger("moeviz")


class Reader:
    """The shipped model and tokenizer, once they are there."""

    def __init__(self) -> None:
        self.model: LanguageModel | None = None
        self.tokenizer: Tokenizer | None = None
        self.error = ""
        self.unexpected = False  # whether the error is moeviz's own fault
        self._waiting: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ask(self, panel: Panel) -> tuple[LanguageModel, Tokenizer] | None:
        """The model and its tokenizer. None while they load: the panel says so, and when that has
        ended it draws again, or says what went wrong."""
        if self.model is not None and self.tokenizer is not None:
            return self.model, self.tokenizer
        panel.say("Loading PyTorch and the small model, once: some seconds…")
        self.load(lambda: self._answer(panel))
        return None

    def _answer(self, panel: Panel) -> None:
        if self.error:
            panel.say(self.error, unexpected=self.unexpected)
        else:
            panel.refresh()

    def load(self, when_done: Callable[[], None]) -> None:
        """Call when_done once, when the model is there or could not be loaded (`error` says why).

        A model that is there stays: when_done is called at once. Else it is called on the loading
        thread; calls while it loads wait for the same end, and one after a failure tries again.
        """
        with self._lock:
            loaded = self.model is not None
            if not loaded:
                self._waiting.append(when_done)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._load, daemon=True)
                    self._thread.start()
        if loaded:
            when_done()

    def _load(self) -> None:
        try:
            from moeviz.text.tokenizer import Tokenizer
            from moeviz.watch.text import load_model

            self.tokenizer = Tokenizer.default()
            path = data_path("models", "start_here.safetensors")
            self.model = load_model(path, self.tokenizer)
            self.error, self.unexpected = "", False
        except (ImportError, ValueError, OSError) as error:
            self.error, self.unexpected = f"The small model could not be loaded: {error}", False
        except Exception as error:  # said too, or the panel would wait for ever
            log.exception("The small model could not be loaded")
            self.error = f"Something broke inside moeviz: {error!r}."
            self.unexpected = True
        with self._lock:
            waiting, self._waiting, self._thread = self._waiting, [], None
        for when_done in waiting:
            when_done()


READER = Reader()
