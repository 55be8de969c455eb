"""One question to every law, and how far their answers lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from moeviz.costs.laws.law import Law, LossLaw, Model, size
from moeviz.costs.laws.published import LAWS
from moeviz.words import percent


@dataclass(frozen=True)
class Answer:
    """What one law says of a sparse model. dense: the parameters of the dense model of equal loss
    on the same tokens; inf where no dense model is as good."""

    law: Law
    model: Model
    dense: float

    @property
    def fewer_flops(self) -> float:
        """How many times fewer FLOPs than that dense model it takes."""
        return self.dense / self.model.active

    @property
    def keeps_all(self) -> bool:
        """Whether it is as good as a dense model of all its parameters."""
        return self.dense >= self.model.total

    @property
    def losses(self) -> tuple[float, float] | None:
        """Its loss and that of a dense model of all its parameters, nats a token; None of a law
        without a loss."""
        if not isinstance(self.law, LossLaw):
            return None
        return self.law.loss(self.model), self.law.loss(self.model.dense(self.model.total))

    @property
    def saving(self) -> str:
        """Its FLOPs beside those of that dense model, in words."""
        times = self.fewer_flops
        if f"{times:.3g}" == "1":
            return "at as many FLOPs"
        if times < 1:
            return f"which takes {1 / times:.3g} times fewer FLOPs itself"
        return f"at {times:.3g} times fewer FLOPs"

    @property
    def sentences(self) -> str:
        """What the law says, and how far it was asked beyond its runs."""
        words = f"{self.law.short}: as good as a dense model of {size(self.dense)}, {self.saving}."
        if self.losses is not None:
            own, dense = self.losses
            words += (
                f" A dense model of all its parameters, at {1 / self.model.share:.3g} times its "
                f"FLOPs, has {abs(dense - own):.2f} nats {'less' if dense < own else 'more'}: "
                f"{percent(dense / own, 1)} of its loss."
            )
        return f"{words} {self.law.beyond(self.model)}".rstrip()


@lru_cache(maxsize=1024)  # a picture asks about 42 shares at every move
def answers(model: Model) -> tuple[Answer, ...]:
    """What each law says of a sparse model, in the order of LAWS. ValueError of a dense one."""
    if model.share == 1:
        raise ValueError("share is 1, a dense model; the laws compare one below 1 with it.")
    return tuple(Answer(law, model, law.dense_of_equal_loss(model)) for law in LAWS.values())


def disagreement(told: tuple[Answer, ...]) -> str:
    """How far the answers lie apart, what they say of the claim that fewer FLOPs cost nothing, and
    how many of them know such a model at all."""
    model, count = told[0].model, len(told)
    least, most = (pick(told, key=lambda each: each.dense) for pick in (min, max))
    keeps = sum(each.keeps_all for each in told)
    known = sum(not each.law.beyond(model) for each in told)
    return (
        f"{size(model.total)} parameters, {percent(model.share, 1)} of them for a token, "
        f"{size(model.tokens)} tokens. The lowest law, {least.law.short}, holds it to be as good "
        f"as a dense model of {size(least.dense)}. The highest, {most.law.short}, says "
        f"{size(most.dense)}, {most.dense / least.dense:.3g} times as large. {keeps} of {count} "
        f"laws say that {1 / model.share:.3g} times fewer FLOPs than a dense model of its size "
        f"cost no loss. {known} of {count} were fitted on runs that reach so far."
    )
