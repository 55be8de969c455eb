"""What panels share that look into the shipped model: recordings at first, then any text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from moeviz.checks import brief
from moeviz.panels import shipped_model
from moeviz.panels.base import Panel, Row
from moeviz.pictures import Picture
from moeviz.records.routes import Trace

if TYPE_CHECKING:
    from moeviz.panels.shipped_model import Loaded
    from moeviz.watch.pretrained import Pretrained

KEPT = 30  # records: a slider that is moved back finds them again

Values = dict[str, Any]


def proof(error: float) -> str:
    """How far a record is from the model's own output."""
    return (
        "Computed again from this record, the layer's output differs from the model's own by "
        f"{error:.0e} of it, at the token where it is furthest."
    )


def check_source(of: object, *, trace: bool = False) -> None:
    """ValueError where a panel is given what it cannot read: neither a real checkpoint, nor, where
    `trace`, a Trace."""
    if of is None or hasattr(of, "tokenizer") or (trace and isinstance(of, Trace)):
        return
    if isinstance(of, Trace):
        raise ValueError(
            "of must be what watch.pretrained.load gives, got a Trace: it says whom each token "
            "visits, and holds none of the layer's numbers; RouteText shows it."
        )
    allowed = "a Trace or what" if trace else "what"
    raise ValueError(f"of must be {allowed} watch.pretrained.load gives, got {brief(of)}.")


class ReadingPanel(Panel):
    """A panel of one record. It opens on recordings, without torch; any other text or value loads
    the model, and what is computed with it is kept.

    recorded: recordings, each with the values that it was made of.
    of: another source: a real checkpoint (see watch.pretrained.load), which reads any text; or a
    Trace, whose own text alone is shown.
    hangs_on: the controls that a record hangs on. of_source: those that it hangs on besides, by
    the value of the control "source"; the others' are hidden.
    """

    hangs_on: tuple[str, ...]
    of_source: ClassVar[dict[str, tuple[str, ...]]] = {}
    of: Pretrained | Trace | None = None

    def __init__(
        self, recorded: Iterable[tuple[Values, Any]], *rows: Row, more: Sequence[Row] = ()
    ) -> None:
        self._recorded = {frozenset(values.items()): record for values, record in recorded}
        self._kept: dict[frozenset[Any], Any] = {}
        self._long: dict[str, str] = {}  # what is said of texts that are not read to their end
        super().__init__(*rows, more=more)

    def picture_of(self, record: Any) -> Picture:
        """The picture of a record, said in words too."""
        raise NotImplementedError

    def compute(self, wanted: Values, loaded: Loaded) -> Any:
        """The record of these values."""
        raise NotImplementedError

    def read(self, real: Pretrained, wanted: Values) -> Any:
        """The record of these values, of a real checkpoint."""
        raise NotImplementedError

    def begin(self) -> None:
        """Of a real checkpoint the first record is made at once, so that the panel opens on it; one
        that fails its proof is refused in a sentence, and nothing is drawn."""
        if self.of is not None and not isinstance(self.of, Trace):
            try:
                self.keep(self.wanted(), self.read(self.of, self.wanted()))
            except ValueError as refusal:
                self.say(str(refusal))
                return
        super().begin()

    def draw(self) -> Picture | None:
        record = self.record()
        return None if record is None else self.picture_of(record)

    def wanted(self) -> Values:
        """The values that the record hangs on, by their controls' names."""
        values = self.values
        names = (*self.hangs_on, *self.of_source.get(values.get("source", ""), ()))
        return {name: values[name] for name in names}

    def record(self) -> Any | None:
        """What is to be shown; None while it is on its way."""
        wanted = self.wanted()
        for source, names in self.of_source.items():
            for name in names:
                off = source != wanted["source"]
                self.controls[name].disabled = off
                self.controls[name].layout.display = "none" if off else ""
        key = frozenset(wanted.items())
        record = self._recorded.get(key, self._kept.get(key))
        return self.make(wanted) if record is None else record

    def make(self, wanted: Values) -> Any | None:
        """Compute the record, or see to it that it comes."""
        if isinstance(self.of, Trace):
            raise ValueError("This panel shows a record: only the text that was recorded is there.")
        if self.of is not None:
            real = self.of
            self.say(f"{real.name} reads the text…")
            self.worker.ask(lambda: self._read(real, wanted))
            return None
        loaded = shipped_model.READER.ask(self)
        if not loaded:
            return None
        record = self.keep(wanted, self.compute(wanted, loaded))
        text = wanted.get("text", "")
        self._tell_length(text, len(loaded[1].encode(text)))
        return record

    def _read(self, real: Pretrained, wanted: Values) -> None:
        self.keep(wanted, self.read(real, wanted))
        self._tell_length(wanted["text"], len(real.encode(wanted["text"])))
        self.refresh()

    def _tell_length(self, text: str, count: int) -> None:
        from moeviz.watch.text import MAX_TOKENS

        if count > MAX_TOKENS:
            self._long[text] = f" Only the first {MAX_TOKENS} of {count:,} tokens are read."

    def shown(self, picture: Picture, error: float | None = None) -> Picture:
        """A picture and what it says, how exact a real model's record is (error), and how much of
        a long text it has read."""
        proven = "" if error is None else f" {proof(error)}"
        self.say(picture.summary + proven + self._long.get(self.wanted().get("text", ""), ""))
        return picture

    def keep(self, wanted: Values, record: Any) -> Any:
        """The record, to be found again while it is among the latest."""
        self._kept[frozenset(wanted.items())] = record
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return record
