"""What a process of helpers.ranks runs, beside the same in one process."""

import dataclasses
import datetime
import errno
import json
import sys
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.training import MOE, TRAIN, run, tiny_corpus
from moeviz.model import MoEConfig
from moeviz.routing import Capacity
from moeviz.systems.ranks import Ranks
from moeviz.systems.shared import EXPERTS, SharedDivision
from moeviz.text.corpus import load_corpus
from moeviz.training import Trainer
from moeviz.training.shared import SharedTrainer, from_folder


def serve():
    """Answer every line of stdin, a case and what it is given, by one line on stdout."""
    ranks = Ranks()
    folder = Path(sys.argv[1], str(ranks.rank))
    folder.mkdir()
    corpus = tiny_corpus(folder)
    for line in sys.stdin:
        case, given = json.loads(line)
        try:
            answer = CASES[case](ranks, corpus, **given)
        except (ValueError, RuntimeError, OSError) as error:
            answer = str(error)
        except Exception:
            answer = traceback.format_exc()
        print(json.dumps(answer), flush=True)


def model_of(router="token_choice", capacity=None, **changes):
    if capacity is not None:
        changes["capacity"] = Capacity(**capacity)
    moe = MoEConfig(**dict(num_experts=4, top_k=2, d_expert=8, router=router) | changes)
    return dataclasses.replace(MOE, moe=moe)


def trainer_of(ranks, corpus, model, data, expert, sharded=False, copies="expert", **train):
    ranks.arrange(data, expert)
    division = SharedDivision(ranks, sharded=sharded, copies=copies)
    return SharedTrainer(model, dataclasses.replace(TRAIN, **train), corpus, division)


def equal(ranks, corpus, *, dtype="float64", **given):
    """The largest relative error of losses, norms and gradients, that of every buffer, and whether
    all tokens went to the same experts. In float64 by default: in float32 rounding turns, now and
    then, a choice that is nearly tied, and two runs part."""
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        return _equal(ranks, corpus, **given)
    finally:
        torch.set_default_dtype(torch.float32)


def _equal(
    ranks, corpus, *, data, expert, steps=3, train=(), killed=(), sharded=False, copies="expert",
    **changes,
):  # fmt: skip
    model = model_of(**changes)
    train = dict(steps=steps, validate_every=steps) | dict(train)
    shared = trainer_of(ranks, corpus, model, data, expert, sharded, copies, **train)
    alone = Trainer(model, dataclasses.replace(TRAIN, **train), corpus)
    for expert_id in killed:
        for trainer in (shared, alone):
            trainer.kill(0, expert_id)
    errors, same = {"gradient": 0.0}, True
    for _ in range(steps):
        got, want = next(shared), next(alone)
        pairs = {"loss": (got.loss, want.loss), "norm": (got.grad_norm, want.grad_norm)}
        pairs |= {n: (got.router_losses[n], v) for n, v in want.router_losses.items()}
        for name, (ours, theirs) in pairs.items():
            error = abs(ours - theirs) / max(abs(theirs), 1e-3)
            errors[name] = max(errors.get(name, 0.0), error)
        same = same and bool((got.load == want.load).all())
        for name, parameter in alone.model.named_parameters():
            gradient = parameter.grad
            if gradient is not None and gradient.norm() > 1e-6 * want.grad_norm:
                if name.endswith(EXPERTS) and expert > 1:
                    gradient = gradient.chunk(expert)[dist.get_rank(ranks.expert_group)]
                ours = shared.model.get_parameter(name).grad
                ours = ours.full_tensor() if isinstance(ours, DTensor) else ours
                error = float((ours - gradient).norm() / parameter.grad.norm())
                errors["gradient"] = max(errors["gradient"], error)
    for name, buffer in alone.model.named_buffers():
        difference = (shared.model.get_buffer(name).double() - buffer.double()).abs().max()
        errors["state"] = max(errors.get("state", 0.0), float(difference))
    ours, theirs = shared.history.curve().validation[-1], alone.history.curve().validation[-1]
    errors["validation"] = abs(ours - theirs) / theirs
    return {"errors": errors, "same experts": same}


class Moved(TorchDispatchMode):
    """The bytes that this process hands over in every all_to_all_single of rows, by receiver."""

    def __init__(self):
        super().__init__()
        self.exchanges = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "all_to_all_single" in func.name() and args[0].is_floating_point():
            rows, _, sends, *_ = args
            self.exchanges.append([n * rows.shape[1] * rows.element_size() for n in sends])
        return func(*args, **(kwargs or {}))


def moved(ranks, corpus, **changes):
    """The bytes of each exchange of one step by receiver, and this process's share of tokens for
    each expert in each layer."""
    trainer = trainer_of(ranks, corpus, model_of(**changes), 1, ranks.size)
    shares, division = [], trainer.division
    own_plan = division.own_plan

    def seen(plan):
        own = own_plan(plan)
        shares.append((own.load() / own.num_tokens).tolist())
        return own

    division.own_plan = seen
    with Moved() as hook:
        run(trainer, 1)
    return {"exchanges": hook.exchanges, "shares": shares}


def saved(ranks, corpus, folder, *, data, expert, steps, sharded=False, **changes):
    """Train and save; the names of what lies in the folder."""
    trainer = trainer_of(ranks, corpus, model_of(**changes), data, expert, sharded)
    run(trainer, steps)
    trainer.save(folder)
    dist.barrier()
    return sorted(path.name for path in Path(folder).iterdir())


def resumed(ranks, corpus, folder, *, data, expert, text=None, steps=3, sharded=False):
    """The largest relative error of losses and gradients after a resume, against one process that
    was never interrupted; and the step at which the checkpoint was made."""
    corpus = load_corpus(text) if text else corpus
    ranks.arrange(data, expert)
    shared = SharedTrainer.resume(folder, corpus, SharedDivision(ranks, sharded=sharded))
    return compared(shared, corpus, steps)


def compared(shared, corpus, steps):
    """A run that goes on beside one that was never interrupted."""
    start = shared.step
    alone = Trainer(shared.model_config, shared.config, corpus)
    run(alone, start)
    pairs = zip(run(shared, steps), run(alone, steps), strict=True)
    loss = max(abs(ours.loss - theirs.loss) / theirs.loss for ours, theirs in pairs)
    ours, theirs = (trainer._model_arrays() for trainer in (shared, alone))
    model = max(float(abs(ours[name] - theirs[name]).max()) for name in theirs)
    return {"step": start, "errors": {"loss": loss, "model": model}, "same experts": True}


def saved_alone(ranks, corpus, file, *, steps, **changes):
    """One process trains and saves a file, and the others wait for it."""
    if ranks.leads:
        trainer = Trainer(model_of(**changes), TRAIN, corpus)
        run(trainer, steps)
        trainer.save(file)
    dist.barrier()


def resumed_alone(ranks, corpus, folder, *, steps=3):
    """As `resumed`, of one process that goes on from what several have saved."""
    return compared(from_folder(Trainer, folder, corpus), corpus, steps)


def full(ranks, corpus, folder):
    """The last process finds the disk full; what lies in the folder then."""
    trainer = trainer_of(ranks, corpus, model_of(), 1, ranks.size)

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        if not ranks.leads:
            patch.setattr(HuggingFaceStorageWriter, "write_data", no_space)
        with pytest.raises(OSError) as refusal:
            trainer.save(folder)
    dist.barrier()
    return str(refusal.value), sorted(path.name for path in Path(folder).glob("[!.]*"))


def disagree(ranks, corpus):
    """Two processes with different seeds."""
    trainer_of(ranks, corpus, model_of(), 1, ranks.size, seed=ranks.rank)


def hang(ranks, corpus):
    """What a process hears of another that does not come to an exchange until it gives up."""
    group = dist.new_group()
    _set_pg_timeout(datetime.timedelta(seconds=0.5), group)
    try:
        if ranks.leads:
            dist.all_reduce(torch.zeros(1), group=group)
    finally:
        dist.barrier()


CASES = {
    "equal": equal, "moved": moved, "saved": saved, "resumed": resumed,
    "saved_alone": saved_alone, "resumed_alone": resumed_alone, "disagree": disagree,
    "full": full, "hang": hang,
}  # fmt: skip
