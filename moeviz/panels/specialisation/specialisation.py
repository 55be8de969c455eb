"""Which domain likes which expert, and how much of that is noise or only the tokens' identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from moeviz.checks import brief
from moeviz.experiments.recorded import recorded_trace
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, seed_box, slider, steps
from moeviz.pictures import Picture
from moeviz.pictures.specialisation.lift import BESIDE, SHUFFLED, TOKENS_ALONE, specialisation
from moeviz.records.domain_look import Look, Sampled, look, sampled
from moeviz.records.imports import of_domains
from moeviz.records.routes import DomainTrace, Trace

if TYPE_CHECKING:
    from moeviz.watch.pretrained import Pretrained

FEWEST = 16  # tokens of each domain
KEPT = 30  # looks: a slider that is moved back finds them again


class Specialisation(Panel):
    """The lift of every domain and expert of a layer, from as many tokens as the slider says.

    Beside it the same with shuffled sequences, or from the identity of tokens alone. No torch.

    of: another source of routings than the shipped model's recording: a DomainTrace; the traces of
    each domain, by its name, each of one sequence; or a real checkpoint, which then reads the lab's
    own text (some seconds to minutes).
    """

    presets = {
        "Few tokens": {"tokens": 64},
        "Layer 1": {"layer": 1},
        "Token ids alone": {"layer": 1, "beside": TOKENS_ALONE},
    }

    def __init__(
        self, of: DomainTrace | Mapping[str, Sequence[Trace]] | Pretrained | None = None
    ) -> None:
        self.trace = _routed(of)
        if len(self.trace.domains) < 2:
            raise ValueError(
                f"Domains are compared, so two are needed at least, got {len(self.trace.domains)}."
            )
        self._looks: dict[tuple[int, int, int], Look] = {}
        self._samples: dict[tuple[int, int], list[Sampled]] = {}
        self.sizes = sizes_of(self.trace)
        layers = [(f"{layer}", place) for place, layer in enumerate(self.trace.layers)]
        beside = choice("Beside", BESIDE, SHUFFLED, "")
        self.presets = {  # a real model's layers have other numbers
            f"Layer {self.trace.layers[1]}" if words == "Layer 1" else words: values
            for words, values in self.presets.items()
            if values.get("layer", 0) < len(layers)
        }
        super().__init__(
            {"layer": slider("Layer", layers, len(layers) - 1)},
            [{"tokens": steps("Tokens", self.sizes, self.sizes[-1]), "beside": beside}],
            more=[{"seed": seed_box()}],
        )

    def draw(self) -> Picture | None:
        layer, tokens, seed = (self.controls[name].value for name in ("layer", "tokens", "seed"))
        if (layer, seed) not in self._samples:
            self._samples[layer, seed] = sampled(self.trace, layer, self.sizes, seed=seed)
        if (layer, tokens, seed) not in self._looks:
            self._looks[layer, tokens, seed] = look(self.trace, layer, tokens, seed=seed)
        if len(self._looks) > KEPT:
            del self._looks[next(iter(self._looks))]
        return self.shown(
            specialisation(
                self._looks[layer, tokens, seed], self._samples[layer, seed],
                beside=self.controls["beside"].value,
            )
        )  # fmt: skip


def sizes_of(trace: DomainTrace) -> tuple[int, ...]:
    """The sizes of samples on offer: doubled each time, as long as every domain has so many."""
    sizes = [FEWEST]
    while 2 * sizes[-1] <= trace.shortest:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def _routed(of: DomainTrace | Mapping[str, Sequence[Trace]] | Pretrained | None) -> DomainTrace:
    if of is None:
        return recorded_trace(DomainTrace, "domains")
    if isinstance(of, DomainTrace):
        return of
    if isinstance(of, Mapping):
        return of_domains(of)
    if not hasattr(of, "tokenizer"):
        raise ValueError(
            "of must name domains: the traces of each, as {'code': [trace, ...], 'prose': [trace, "
            f"...]}}, a DomainTrace, or what watch.pretrained.load gives, got {brief(of)}."
        )
    from moeviz.text.corpus import load_corpus
    from moeviz.watch.domains import route_checkpoint

    return route_checkpoint(of, load_corpus())
