"""Every router, its losses and all gradients against the paper in plain Python: one table of
oracles, one driver. Released code of others and solvers: test_router_peers.py."""

import dataclasses
import math

import pytest
import torch

from helpers.oracles import (
    DOUBLE,
    FF,
    STATE,
    D,
    E,
    K,
    T,
    best,
    check_gradients,
    check_plan,
    check_value,
    cv_squared,
    expert_ffn,
    inputs,
    kept,
    layer,
    relative,
    router,
    share,
    share_times_score,
    sigmoid,
    z,
)
from helpers.routers import inner, visited
from moeviz.routing import RouteContext, build_router
from moeviz.routing.assignment import balanced_assignment

LENGTHS, IDS, VOCAB = (13, 1, 23), (5, 2, 9), 31
SEQUENCE_T = torch.repeat_interleave(torch.tensor(IDS), torch.tensor(LENGTHS))
ORACLES = []


@dataclasses.dataclass
class Want:
    """weight, scores: [T, E]; losses by name; y: of a whole layer."""

    weight: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    losses: dict = dataclasses.field(default_factory=dict)
    y: torch.Tensor | None = None


def oracle(name, *, num_experts=E, top_k=K, **options):
    """An entry of the table: a function of (layer, x_TD, context, options) that returns a Want."""

    def enter(function):
        sizes = dict(num_experts=num_experts, top_k=top_k, options=options)
        label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
        ORACLES.append(pytest.param(name, sizes, function, id=label))
        return function

    return enter


def texts(training, sequences):
    """Three texts, or one; noise from a seed."""
    generator = torch.Generator().manual_seed(3)
    position_T = torch.cat([torch.arange(n) for n in LENGTHS])
    return RouteContext(
        token_ids=torch.randint(VOCAB, (T,), generator=torch.Generator().manual_seed(1)),
        sequence=SEQUENCE_T if sequences else None,
        position=position_T if sequences else torch.arange(T),
        training=training,
        generator=generator,
    )


def sequences_of(given):
    """The tokens of each sequence, in the order of their ids."""
    if given.sequence is None:
        return [list(range(T))]
    rows = given.sequence.tolist()
    return [[t for t in range(T) if rows[t] == i] for i in sorted({*rows})]


def check_against(function, name, sizes, given):
    ours, x_TD = layer(name, **sizes), inputs()
    want = function(ours, x_TD, given(), sizes["options"])
    y_TD, route = ours(x_TD, given())
    leaves = [x_TD, *ours.parameters()]
    if want.y is not None:
        check_value(y_TD, want.y, leaves, 1e-10)
    if want.weight is not None:
        check_plan(route.plan, want.weight)
        if want.weight.requires_grad:
            check_gradients(route.plan.dense_weights(), want.weight, leaves)
    if want.scores is not None:
        assert relative(route.scores, want.scores) < DOUBLE
        assert want.losses.keys() == route.losses.keys()
    for loss, value in want.losses.items():
        check_value(route.losses[loss], value, leaves, 1e-11)


# --- tokens choose ---


@oracle("token_choice")
@oracle("token_choice", weighting="raw", scale=1.7, scope="sequence")
@oracle("token_choice", score="sigmoid")
def token_choice(ours, x_TD, given, options):
    logits_TE = x_TD @ ours.router.weight_ED.T
    scores_TE = sigmoid(logits_TE) if "score" in options else share(logits_TE.exp())
    kept_TE = kept(logits_TE, K)
    weight_TE = scores_TE * kept_TE if "weighting" in options else share(scores_TE, kept_TE)
    pools = sequences_of(given) if "scope" in options else [list(range(T))]
    balance = [share_times_score(share(scores_TE)[pool], kept_TE[pool].sum(0)) for pool in pools]
    losses = {"balance": sum(balance) / len(pools), "z": z(logits_TE)}
    return Want(options.get("scale", 1) * weight_TE, scores_TE, losses)


@oracle("gshard", top_k=2, capacity_factor=0.5, eval_capacity_factor=0.5)
@oracle("gshard", top_k=2, capacity_factor=3.5, eval_capacity_factor=3.5)
def gshard(ours, x_TD, given, options):
    """Algorithm 1. The paper's loss is 1/E sum_e (c_e / S) m_e; its authors' code multiplies it by
    E^2, as we do."""
    logits_TE = x_TD @ inner(ours.router).weight_ED.T
    gates_TE = share(logits_TE.exp())
    weight_TE = share(gates_TE, kept(gates_TE, 2))
    coin_TK = torch.rand(T, 2, generator=given.generator, dtype=torch.float64)
    taken, placed_TE = [0] * E, torch.zeros(T, E, dtype=torch.bool)
    for choice in (0, 1):
        for t in range(T):
            e = best(gates_TE[t], 2)[choice]
            if choice and given.training and 2 * weight_TE[t, e] <= coin_TK[t, 1]:
                continue
            placed_TE[t, e] = taken[e] < math.ceil(options["capacity_factor"] * 2 * T / E)
            taken[e] += 1
        if not choice:
            balance = share_times_score(gates_TE, taken)
    return Want(weight_TE * placed_TE, gates_TE, {"balance": balance, "z": z(logits_TE)})


@oracle("noisy_topk")
def noisy_topk(ours, x_TD, given, options):
    """Shazeer et al. 2017, eq. 3-11. The bar of eq. 9 leaves the expert itself out (V-MoE's code
    takes the K-th largest of all)."""
    clean_TE = noisy_TE = x_TD @ ours.router.weight_ED.T
    if given.training:
        spread_TE = (1 + (x_TD @ ours.router.noise_ED.T).exp()).log()
        eps_TE = torch.randn(T, E, generator=given.generator, dtype=torch.float64)
        noisy_TE = clean_TE + eps_TE * spread_TE
    weight_TE = share(noisy_TE.exp(), kept(noisy_TE, K))
    losses = {"importance": cv_squared(weight_TE.sum(0))}
    if given.training:
        load = []
        for e in range(E):
            others = [i for i in range(E) if i != e]
            bar_T = noisy_TE[:, others].sort(1, descending=True).values[:, K - 1]
            chance_T = 0.5 * (1 + torch.erf((clean_TE[:, e] - bar_T) / spread_TE[:, e] / 2**0.5))
            load.append(chance_T.sum())
        losses["load"] = cv_squared(torch.stack(load))
    return Want(weight_TE, share(noisy_TE.exp()), losses)


@oracle("expert_prototyping", num_experts=15)
def prototypes(ours, x_TD, given, options):
    logits_TKe = (x_TD @ ours.router.weight_ED.T).view(T, K, 5)
    scores_TKe = share(logits_TKe.exp())
    kept_TKe = kept(logits_TKe, 1)
    losses = {
        "balance": sum(share_times_score(scores_TKe[:, k], kept_TKe[:, k].sum(0)) for k in range(K))
        / K,
        "z": sum(z(logits_TKe[:, k]) for k in range(K)) / K,
    }
    return Want((scores_TKe * kept_TKe).flatten(1), scores_TKe.flatten(1) / K, losses)


@oracle("hierarchical", num_experts=15, top_k=6, num_groups=5, top_groups=3)
def hierarchy(ours, x_TD, given, options):
    group_TG, own_TE = x_TD @ ours.router.group_GD.T, x_TD @ ours.router.weight_ED.T
    own_TGe = own_TE.view(T, 5, 3)
    part_TG1 = share(group_TG.exp(), kept(group_TG, 3))[..., None]
    weight_TGe = part_TG1 * share(own_TGe.exp(), kept(own_TGe, 2))
    chance_TG1 = share(group_TG.exp())[..., None]
    scores_TE = (chance_TG1 * share(own_TGe.exp())).flatten(1)
    weight_TE = weight_TGe.flatten(1)
    losses = {
        "importance": cv_squared(weight_TE.sum(0)) + cv_squared(weight_TGe.sum((0, 2))),
        "balance": share_times_score(scores_TE, (weight_TE != 0).sum(0)),
        "z": z((chance_TG1.log() + own_TGe).flatten(1)),
    }
    return Want(weight_TE, scores_TE, losses)


@oracle("hash", vocab_size=VOCAB)
@oracle("hash", vocab_size=VOCAB, variant="bigram")
def hashing(ours, x_TD, given, options):
    """A sequence's first token has nobody before it."""
    ids, weight_TE = given.token_ids.tolist(), torch.zeros(T, E, dtype=torch.float64)
    for pool in sequences_of(given):
        for before, t in zip([None, *pool], pool, strict=False):
            row = ids[t]
            if "variant" in options:
                row = (31 * row + 1 + 17 * (-1 if before is None else ids[before])) % VOCAB
            weight_TE[t, ours.router.table_VK[row]] = 1 / K
    return Want(weight_TE, weight_TE)


# --- experts choose, assignment ---


@oracle("expert_choice")
@oracle("expert_choice", capacity_factor=1.3)
@oracle("expert_choice", capacity_factor=50.0)
@oracle("expert_choice", capacity_factor=0.1)
@oracle("expert_choice", chunk=10)
@oracle("expert_choice", chunk=10, shuffle=True)
def expert_choice(ours, x_TD, given, options):
    logits_TE = x_TD @ ours.router.weight_ED.T
    scores_TE = share(logits_TE.exp())
    pools = [list(range(T))]
    if "chunk" in options:
        pools = sequences_of(given)
        if "shuffle" in options and given.training:
            pools = [torch.randperm(T, generator=given.generator).tolist()]
        pools = [pool[i : i + 10] for pool in pools for i in range(0, len(pool), 10)]
    taken_TE = torch.zeros(T, E, dtype=torch.bool)
    for pool in pools:
        room = math.ceil(options.get("capacity_factor", K) * len(pool) / E)
        for e in range(E):
            taken_TE[[pool[i] for i in best(scores_TE[pool, e], room)], e] = True
    return Want(scores_TE * taken_TE, scores_TE, {"z": z(logits_TE)})


@oracle("expert_threshold")
def expert_threshold(ours, x_TD, given, options):
    logits_TE = x_TD @ ours.router.weight_ED.T
    scores_TE = share(logits_TE.exp())
    taken_TE = scores_TE >= ours.router.threshold_E
    return Want(scores_TE * taken_TE, scores_TE, {"z": z(logits_TE)})


@oracle("base", top_k=1)
@oracle("base", top_k=2)
def base(ours, x_TD, given, options):
    """fairseq's layer: alpha = sigmoid(x . c) of the expert that was assigned."""
    logits_TE, top_k = x_TD @ ours.router.weight_ED.T, ours.router.top_k
    kept_TE = kept(logits_TE, top_k)
    if given.training:  # the assignment itself has an oracle in test_router_peers.py
        expert_TK = balanced_assignment(logits_TE.detach(), top_k)
        kept_TE = torch.zeros(T, E, dtype=torch.bool).scatter(1, expert_TK, True)
    return Want(sigmoid(logits_TE) * kept_TE / top_k, sigmoid(logits_TE))


# --- soft, and a variable number ---


@oracle("dense_mixture")
def dense_mixture(ours, x_TD, given, options):
    """DS-MoE (Pan et al. 2024, eq. 3-4): minus the mutual information of experts and tokens."""
    logits_TE = x_TD @ ours.router.weight_ED.T
    scores_TE = share(logits_TE.exp())
    mean_E = scores_TE.mean(0)
    information = (mean_E * mean_E.log()).sum() - (scores_TE * scores_TE.log()).sum(1).mean()
    return Want(scores_TE, scores_TE, {"information": 0.01 * information, "z": z(logits_TE)})


@oracle("sequence_level")
def sequence_level(ours, x_TD, given, options):
    rows = [None] * T
    for pool in sequences_of(given):
        for t in pool:
            rows[t] = sum(x_TD[pool]) @ ours.router.weight_ED.T / len(pool)
    logits_TE = torch.stack(rows)
    scores_TE, kept_TE = share(logits_TE.exp()), kept(logits_TE, K)
    balance = share_times_score(scores_TE, kept_TE.sum(0))
    weight_TE = share(scores_TE, kept_TE)
    return Want(weight_TE, scores_TE, {"balance": balance, "z": z(logits_TE)})


@oracle("remoe", start=2**-10)
def remoe(ours, x_TD, given, options):
    """Wang et al. 2024, eq. 3 and 8-10: L = lambda E / (K T) sum_e count_e mean_t w_te."""
    weight_TE = x_TD @ ours.router.weight_ED.T
    weight_TE = weight_TE * (weight_TE > 0)
    parts = (weight_TE > 0).sum(0) * weight_TE.mean(0)
    return Want(weight_TE, weight_TE, {"l1": ours.router.strength * (parts.sum() * E / (K * T))})


@oracle("mixture_of_depths", capacity_factor=0.3)
@oracle("mixture_of_depths", capacity_factor=0.3, num_experts=1, top_k=1)
def mixture_of_depths(ours, x_TD, given, options):
    """With E = 1 it is the paper's router, by sigmoid(r) instead of r; with more it is staged."""
    depth_T, logits_TE = x_TD @ ours.router.depth_D, x_TD @ ours.router.weight_ED.T
    by_rank_T = torch.zeros(T, dtype=torch.bool)
    for pool in sequences_of(given):
        by_rank_T[[pool[i] for i in best(depth_T[pool], math.ceil(0.3 * len(pool)))]] = True
    goes_T = by_rank_T if given.training else depth_T > 0
    scores_TE, kept_TE = share(logits_TE.exp()), kept(logits_TE, ours.router.top_k)
    weight_TE = share(scores_TE, kept_TE) * (goes_T * sigmoid(depth_T))[:, None]
    right_T = torch.where(by_rank_T, sigmoid(depth_T), sigmoid(-depth_T))
    losses = {
        "balance": share_times_score(scores_TE, kept_TE[goes_T].sum(0)),
        "z": z(logits_TE),
        "predictor": -0.01 * right_T.log().mean(),
    }
    return Want(weight_TE, scores_TE, losses)


@oracle("null_experts", zero=2, copy=1, constant=3)
def null_experts(ours, x_TD, given, options):
    """zero adds nothing, copy w x, constant w (a_1 x + a_2 v) with a = softmax(W_c x) (MoE++)."""
    made = ours.router
    logits_TA = x_TD @ torch.cat((made.weight_ED, made.null_ZD)).T
    scores_TA, kept_TA = share(logits_TA.exp()), kept(logits_TA, K)
    assert kept_TA.any(0).all()
    weight_TA = share(scores_TA, kept_TA)
    y_TD = weight_TA[:, E + 2 : E + 3] * x_TD
    for e in range(E):
        y_TD = y_TD + weight_TA[:, e : e + 1] * expert_ffn(ours, e, x_TD)
    for c in range(3):
        mix_T2 = share((x_TD @ made.mix_c2D[c].T).exp())
        value_TD = mix_T2[:, :1] * x_TD + mix_T2[:, 1:] * made.value_cD[c]
        y_TD = y_TD + weight_TA[:, E + 3 + c : E + 4 + c] * value_TD
    count = kept_TA.sum(0).tolist()
    shared = [sum(count[E:]) / 6] * 6
    losses = {"balance": share_times_score(scores_TA, count[:E] + shared), "z": z(logits_TA)}
    return Want(weight_TA[:, :E], scores_TA[:, :E], losses, y_TD)


@oracle("soft_moe", slots=2)
def soft_moe(ours, x_TD, given, options):
    """Puigcerver et al. 2023, algorithms 1 and 2, sequence by sequence, on x as it is."""

    def direction(values):
        return values / values.square().sum(-1, keepdim=True).sqrt()

    phi_SD = ours.router.scale * direction(ours.router.phi_EPD.flatten(0, 1))
    rows = [None] * T
    for pool in sequences_of(given):
        logits_mS = direction(x_TD[pool]) @ phi_SD.T
        slots_SD = share(logits_mS.T.exp()) @ x_TD[pool]
        outputs = [expert_ffn(ours, s // 2, slots_SD[s]) for s in range(2 * E)]
        for t, y_D in zip(pool, share(logits_mS.exp()) @ torch.stack(outputs), strict=True):
            rows[t] = y_D
    return Want(y=torch.stack(rows))


@oracle("mixture_of_tokens", group_size=2)
@oracle("mixture_of_tokens", group_size=4)
def mixture_of_tokens(ours, x_TD, given, options):
    """Antoniak et al. 2023, section 3: position by position, so many sequences at a time; a single
    sequence in runs of so many tokens (our rule)."""
    size, pools = options["group_size"], sequences_of(given)
    groups = [pools[0][i : i + size] for i in range(0, T, size)]
    if len(pools) > 1:
        parts = [pools[i : i + size] for i in range(0, len(pools), size)]
        groups = [[pool[s] for pool in part if s < len(pool)] for s in range(T) for part in parts]
    rows = [None] * T
    for members in filter(None, groups):
        weight_gE = share((x_TD[members] @ ours.router.weight_ED.T).T.exp()).T
        outputs = [expert_ffn(ours, e, weight_gE[:, e] @ x_TD[members]) for e in range(E)]
        for t, y_D in zip(members, weight_gE @ torch.stack(outputs), strict=True):
            rows[t] = y_D
    return Want(y=torch.stack(rows))


@pytest.mark.parametrize(("name", "sizes", "function"), ORACLES)
@pytest.mark.parametrize(("training", "sequences"), [(False, True), (True, True), (True, False)])
def test_a_router_its_losses_and_gradients_equal_its_oracle(
    name, sizes, function, training, sequences
):
    check_against(function, name, sizes, lambda: texts(training, sequences))


def test_a_residual_moe_equals_its_formula():
    """PR-MoE (Rajbhandari et al. 2022): c_1 MoE(x) + c_2 MLP(x), c a softmax of two scores of x;
    DeepSpeed's own has a bias, which is left at 0."""
    ours, bare = layer("token_choice", num_shared=2, shared_gate="softmax"), layer("token_choice")
    bare.load_state_dict(ours.state_dict(), strict=False)
    x_TD = inputs()
    moe_TD, _ = bare(x_TD, RouteContext())
    gate_TF, up_TF = (x_TD @ ours.shared.w13_2FD.T).chunk(2, dim=-1)
    assert gate_TF.shape == (T, 2 * FF)
    mlp_TD = (gate_TF * sigmoid(gate_TF) * up_TF) @ ours.shared.w2_DF.T
    part_T2 = share((x_TD @ ours.shared_gate_GD.T).exp())
    want_TD = part_T2[:, :1] * moe_TD + part_T2[:, 1:] * mlp_TD
    leaves = [x_TD, ours.shared_gate_GD, ours.shared.w2_DF, ours.shared.w13_2FD]
    check_value(ours(x_TD, RouteContext())[0], want_TD, leaves)


# --- what steps change ---


def test_a_threshold_moves_to_the_batch_quantile_and_is_expert_choice_there():
    made, want = router("expert_threshold", memory=0.75), router("expert_choice")
    x_TD = inputs()
    scores_TE = share((x_TD @ want.weight_ED.T).exp()).detach()
    room = math.ceil(K * T / E)
    quantile_E = torch.stack([column.sort().values[-room] for column in scores_TE.T])
    before_E = made.threshold_E.clone()
    made.post_step(made(x_TD, RouteContext(training=True)).stats)
    assert relative(made.threshold_E, 0.75 * before_E + 0.25 * quantile_E) < STATE
    assert relative(quantile_E, before_E) > 0.1
    made.threshold_E.copy_((1 - STATE) * quantile_E)  # the last token taken is just above it
    out, peer = made(x_TD, RouteContext()), want(x_TD, RouteContext())
    check_plan(out.plan, peer.plan.dense_weights())


def test_lambda_grows_where_a_batch_is_denser_than_its_aim():
    """Wang et al. 2024: by 1.2 where the batch is denser than K/E, else it shrinks by as much."""
    made, strength, directions = router("remoe", start=1e-3), 1e-3, set()
    with torch.no_grad():
        made.weight_ED[:, -1] = 1.0
    for step in range(6):
        # Shifted along a common direction, so that batches are denser and sparser than K/E.
        x_TD = inputs(seed=step).detach()
        x_TD[:, -1] = 2.0 if step % 3 else -2.0
        made.post_step(made(x_TD, RouteContext(training=True)).stats)
        denser = (x_TD @ made.weight_ED.T > 0).sum().item() > K * T
        strength *= 1.2 if denser else 1 / 1.2
        directions.add(denser)
        assert made.strength.item() == pytest.approx(strength, rel=1e-6)
    assert directions == {True, False}


@pytest.mark.parametrize("num_groups,top_groups", [(1, 1), (4, 2)])
def test_the_sign_bias_and_the_sequence_loss_equal_a_plain_loop(num_groups, top_groups):
    """Wang et al. 2024, algorithm 1, over 25 steps of DeepSeek-V3's router, groups included; and
    DeepSeek-V3's eq. 17-20, one sequence after the other: f counts the K best scores without the
    bias, and without the groups; P is of scores divided by their sum."""
    made = router(
        "deepseek_v3", num_experts=12, num_groups=num_groups, top_groups=top_groups, bias_rate=0.03
    )
    bias_E, moved = torch.zeros(12, dtype=torch.float64), set()
    for step in range(25):
        x_TD = inputs(seed=step)
        out = made(x_TD, texts(True, True))
        scores_TE = sigmoid(x_TD @ made.weight_ED.T)
        biased_TGe = (scores_TE + bias_E).detach().view(T, num_groups, -1)
        group_TG = biased_TGe.sort(-1).values[..., -2:].sum(-1)
        open_TGe = kept(group_TG, top_groups)[..., None].expand_as(biased_TGe)
        kept_TE = kept(biased_TGe.masked_fill(~open_TGe, -9.0).flatten(1), K)
        check_plan(out.plan, 2.5 * share(scores_TE, kept_TE))
        made.post_step(out.stats)
        difference_E = K * T / 12 - kept_TE.sum(0)
        bias_E = bias_E + 0.03 * difference_E.sign()
        moved |= {*difference_E.sign().tolist()}
        assert made.bias.bias_E.tolist() == pytest.approx(bias_E.tolist(), abs=STATE)
    assert moved == {1.0, -1.0}
    best_TE = kept(scores_TE, K)
    assert not torch.equal(best_TE, visited(out.plan))
    parts = [
        share_times_score(share(scores_TE)[pool], best_TE[pool].sum(0))
        for pool in sequences_of(texts(True, True))
    ]
    check_value(out.losses["balance"], sum(parts) / 3, [x_TD, made.weight_ED])


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_the_quantile_bias_equals_a_plain_loop(rate):
    """J. Su 2025: at rate 1, q = K T / E tokens are then above the bars that stood, give or take
    those of which the expert itself was the bar."""
    made, bias_E, quota = router("quantile_balanced", bias_rate=rate), torch.zeros(E).double(), 15
    for step in range(6):
        x_TD = inputs(35, seed=step).detach()
        out = made(x_TD, RouteContext(training=True))
        scores_TE = sigmoid(x_TD @ made.weight_ED.T).detach()
        biased_TE = scores_TE + bias_E
        check_plan(out.plan, share(scores_TE, kept(biased_TE, K)), STATE)
        made.post_step(out.stats)
        above_TE = biased_TE - biased_TE.sort(1).values[:, -(K + 1), None]
        cut_E = above_TE.sort(0).values[-(quota + 1)]
        bias_E = bias_E - rate * cut_E
        assert made.bias.bias_E.tolist() == pytest.approx(bias_E.tolist(), abs=STATE)
        over_E = (above_TE - cut_E > STATE).sum(0)
        assert (over_E <= quota).all() and ((above_TE - cut_E > -STATE).sum(0) > quota).all()


def test_random_tables_are_even_and_their_hashes_never_agree():
    sizes = dict(d_model=D, num_experts=E, top_k=K, vocab_size=100)
    torch.manual_seed(0)
    table_VK, other_VK = (build_router("hash", **sizes).table_VK for _ in range(2))
    assert all(len({*row}) == K and 0 <= min(row) and max(row) < E for row in table_VK.tolist())
    first_E = table_VK[:, 0].bincount(minlength=E)
    assert first_E.max() - first_E.min() == 1 and first_E.sum() == 100
    assert table_VK[:, 0].tolist() != [v % E for v in range(100)]
    assert not torch.equal(other_VK, table_VK), "every layer draws its own"
    torch.manual_seed(0)
    assert torch.equal(build_router("hash", **sizes).table_VK, table_VK)


def test_a_soft_plan_gives_each_token_a_whole():
    plan = router("soft_moe")(inputs(), texts(False, True)).plan
    assert relative(plan.by_token(plan.combine).sum((1, 2)), torch.ones(T)) < DOUBLE
