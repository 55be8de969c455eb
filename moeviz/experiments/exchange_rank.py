"""One process of an exchange that is measured: python -m this, started by systems.pool.

Commands: `links` times messages of several sizes, `batch` runs the small shipped model on a batch
and notes each exchange. Both are answered for this process alone; records.exchanged puts together
what all of them answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moeviz.systems.pool import Command, serve

if TYPE_CHECKING:
    from moeviz.systems.ranks import Ranks

LENGTH = 64  # tokens of a sequence
MOST_SEQUENCES = 64  # of all processes together


def commands(ranks: Ranks) -> dict[str, Command]:
    """What there is to call; the model is loaded first."""
    import copy

    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch import Tensor

    from moeviz.experiments.recording import recorded_model
    from moeviz.routing import BaseRouter, Capacity, Plan, RouteContext, SoftPlan
    from moeviz.routing.capacity import WithCapacity
    from moeviz.routing.token_choice import TokenChoice
    from moeviz.systems.exchange import all_to_all
    from moeviz.systems.shared import SharedDivision
    from moeviz.systems.watched import Watched, now

    class Skewed(TokenChoice):
        """Scores of expert e times 1 / (e + 1)^skew, and then as ever: softmax(x W^T + log)."""

        skew = 0.0

        def logits(self, x_TD: Tensor, context: RouteContext) -> Tensor:
            logits_TE = super().logits(x_TD, context)
            place_E = torch.arange(1, self.num_experts + 1).to(logits_TE)
            return logits_TE - self.skew * place_E.log()

    class Noted(SharedDivision):
        """Keeps the plans of the tokens that are worked on here."""

        plans: list[Plan]

        def own_plan(self, plan: Plan | SoftPlan) -> Plan | SoftPlan:
            own = super().own_plan(plan)
            assert isinstance(own, Plan)
            self.plans.append(own)
            return own

    model, tokenizer = recorded_model()
    alone = copy.deepcopy(model)
    experts = model.config.moe
    assert experts is not None
    held = experts.num_experts // ranks.size
    division = Noted(ranks)
    division.plans = []
    division.divide(model)
    ids_BS = torch.zeros(MOST_SEQUENCES, LENGTH + 1, dtype=torch.int64)
    if ranks.leads:
        from moeviz.text.corpus import load_corpus

        corpus = load_corpus(tokenizer=tokenizer)
        each = -(-MOST_SEQUENCES // len(corpus.domains))
        found = corpus.windows("validation", seq_len=LENGTH, windows_per_domain=each).tokens
        # Domains take turns, so that every process has some of each.
        mixed = found.reshape(len(corpus.domains), each, -1).swapaxes(0, 1)
        ids_BS = torch.from_numpy(mixed.reshape(-1, LENGTH + 1)[:MOST_SEQUENCES].copy())
    dist.broadcast(ids_BS, 0)

    def router_of(gate_ED: Tensor, skew: float, capacity: float, limit: int) -> BaseRouter:
        groups = ranks.size if limit else 1
        router = Skewed(
            d_model=model.config.d_model, num_experts=experts.num_experts, top_k=experts.top_k,
            num_groups=groups, top_groups=limit or 1,
        )  # fmt: skip
        router.skew = skew
        router.weight_ED.data.copy_(gate_ED)
        if not capacity:
            return router
        return WithCapacity(router, Capacity(capacity, eval_factor=capacity))

    gates = [block.ffn.router.gate_matrix().detach().clone() for block in model.blocks]

    def batch(
        tokens: int, skew: float, capacity: float, limit: int, copies: Any, passes: int
    ) -> dict[str, Any]:
        """Forward and backward of `tokens` tokens a process, `passes` times."""
        ids = ids_BS[: ranks.size * tokens // LENGTH]
        given, wanted = ids[:, :-1], ids[:, 1:]
        for whole in (model, alone):
            for block, gate_ED in zip(whole.blocks, gates, strict=True):
                block.ffn.router = router_of(gate_ED, skew, capacity, limit).eval()
        division.copies = copies
        kept = []
        for turn in range(passes + 1):  # the first warms up
            division.plans.clear()
            dist.barrier()
            with Watched(ranks.expert_group) as watch:
                begun = now()
                loss_bS = model(given, targets_BS=wanted).loss
                loss_bS.mean().backward()
                ended = now()
            model.zero_grad()
            if turn:
                kept.append((begun, ended, watch.sent))
        loss_BS = division.all_rows(loss_bS.detach())
        error = 0.0
        if ranks.leads:
            with torch.no_grad():
                error = float((loss_BS - alone(given, targets_BS=wanted).loss).abs().max())
        visits_LR = [_visits(plan, held, ranks.size) for plan in division.plans]
        width = model.config.d_model
        return {
            "sizes": {"d_model": width, "num_experts": experts.num_experts, "top_k": experts.top_k,
                      "d_expert": experts.d_expert},
            "load": [plan.load().tolist() for plan in division.plans],
            "visits": visits_LR,
            "sent": [each.bytes for each in kept[0][2] if each.width == width],
            "beside": sum(sum(each.bytes) for each in kept[0][2] if each.width != width),
            "passes": [
                [begun, ended, [each.times for each in sent if each.width == width]]
                for begun, ended, sent in kept
            ],
            "error": error,
        }  # fmt: skip

    def _visits(plan: Plan, held: int, size: int) -> list[int]:
        """Tokens that visit each process."""
        visited_TR = F.one_hot(plan.expert.long() // held, size).new_zeros(plan.num_tokens, size)
        visited_TR[plan.token.long(), plan.expert.long() // held] = 1
        return visited_TR.sum(0).tolist()

    def links(rows: list[int], repeats: int) -> list[list[list[float]]]:
        """When messages of so many rows from each process to each came, began and ended."""
        found = []
        for count in rows:
            x_ND = torch.ones(count * ranks.size, model.config.d_model)
            each = [count] * ranks.size
            with torch.no_grad(), Watched(ranks.expert_group) as watch:
                for _ in range(repeats + 1):
                    all_to_all(x_ND, each, each, ranks.expert_group)
            found.append([sent.times for sent in watch.sent[1:]])
        return found

    return {"batch": batch, "links": links}


if __name__ == "__main__":
    serve(commands)
