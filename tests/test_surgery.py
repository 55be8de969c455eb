"""Pruning, merging and factoring experts, against loops in numpy and the masked model."""

import copy

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.model import LanguageModel, MoEConfig
from moeviz.model.config import ModelConfig
from moeviz.routing import Capacity, RouteContext
from moeviz.surgery import low_rank as low_rank_of
from moeviz.surgery import merge, saliency
from moeviz.surgery.calibration import Seen, look, mean_loss
from moeviz.surgery.low_rank import low_rank, ranks_at, share_of, truncated
from moeviz.surgery.prune import best_subset, keep_best, pruned, subset_error
from moeviz.surgery.tune import tuned_router

E, K, D, F_, L = 6, 2, 8, 5, 2
KINDS = {
    "renormalised": {},
    "raw": {"weighting": "raw", "scale": 2.5},
    "sigmoid with a bias": {"score": "sigmoid", "bias": "sign", "scope": "none"},
}


def model_of(options=None, *, scale=None, shared=0, vocab=50, top_k=K, **more):
    torch.manual_seed(0)
    moe = MoEConfig(E, top_k, F_, options=options or {}, num_shared=shared, **more)
    model = LanguageModel(
        ModelConfig(vocab_size=vocab, d_model=D, num_heads=2, moe=moe, ffn_scale=scale)
    )
    for router in model.routers().values():
        torch.nn.init.normal_(router.weight_ED)
        if router.bias is not None:
            torch.nn.init.normal_(router.bias.bias_E, std=0.3)
    return model.eval()


@pytest.fixture
def ids_GS():
    return torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(1))


def logits(model, ids_GS):
    with torch.no_grad():
        return model(ids_GS).logits


def some_experts(rng, least=K):
    """Experts to keep in each layer, at least so many and not in all layers as many."""
    keep_LE = np.zeros((L, E), bool)
    for keep_E in keep_LE:
        keep_E[rng.permutation(E)[: rng.integers(least, E + 1)]] = True
    return keep_LE


# Pruning


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared, scale", [(0, None), (1, 1.0)])
def test_a_pruned_model_computes_what_the_masked_one_does(kind, shared, scale, ids_GS):
    model = model_of(KINDS[kind], shared=shared, scale=scale)
    rng = np.random.default_rng(len(kind))
    for _ in range(4):
        keep_LE = some_experts(rng)
        masked = copy.deepcopy(model)
        for router, keep_E in zip(masked.routers().values(), keep_LE, strict=True):
            for expert in np.flatnonzero(~keep_E):
                router.kill(int(expert))
        smaller = pruned(model, keep_LE)
        torch.testing.assert_close(logits(smaller, ids_GS), logits(masked, ids_GS))
        assert smaller.config.moe.num_experts == keep_LE.sum(1).max()
        gone = (E - smaller.config.moe.num_experts) * L * (3 * D * F_ + D)
        assert smaller.num_parameters() == model.num_parameters() - gone
        assert not torch.equal(logits(smaller, ids_GS), logits(model, ids_GS)) or keep_LE.all()


def test_whom_a_run_had_killed_stays_killed(ids_GS):
    model = model_of()
    model.routers()[0].kill(3)
    keep_LE = np.ones((L, E), bool)
    keep_LE[:, 1] = False
    smaller = pruned(model, keep_LE)
    assert smaller.routers()[0].killed_E.tolist() == [False, False, True, False, False]
    model.routers()[0].kill(1), model.routers()[1].kill(1)
    torch.testing.assert_close(logits(smaller, ids_GS), logits(model, ids_GS))


def test_pruning_draws_no_random_numbers_and_leaves_the_model_as_it_was(ids_GS):
    model = model_of()
    before, state = logits(model, ids_GS), torch.random.get_rng_state()
    pruned(model, keep_best(np.random.default_rng(0).random((L, E)), K))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(logits(model, ids_GS), before)


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 3), min_size=E, max_size=E), min_size=1), st.integers(1, E))
def test_the_most_salient_are_kept_and_of_equal_ones_the_first(values, kept):
    for values_E, keep_E in zip(values, keep_best(np.array(values), kept), strict=True):
        expected = sorted(range(E), key=lambda e: (-values_E[e], e))[:kept]
        assert sorted(expected) == np.flatnonzero(keep_E).tolist()


@pytest.mark.parametrize(
    "keep_LE, message",
    [
        (np.ones((L, E + 1), bool), r"bool \[L, E\] = \[2, 6\].*got bool \[2, 7\]"),
        (np.ones((L, E)), r"got float64 \[2, 6\]"),
        (np.arange(L * E).reshape(L, E) == 0, "must keep 2 at least; one would keep 0"),
    ],
)
def test_what_cannot_be_kept_is_refused(keep_LE, message):
    with pytest.raises(ValueError, match=message):
        pruned(model_of(), keep_LE)


@pytest.mark.parametrize(
    "moe, name",
    [
        (dict(router="hash"), "Hash"),
        (dict(router="expert_choice"), "ExpertChoice"),
        (dict(capacity=Capacity()), "WithCapacity"),
        (dict(options={"num_groups": 2, "top_groups": 1}), "TokenChoice"),
        (None, "dense"),
    ],
)
def test_only_plain_top_k_is_cut(moe, name, ids_GS):
    moe = moe if moe is None else MoEConfig(E, K, F_, **moe)
    model = LanguageModel(ModelConfig(vocab_size=50, d_model=D, num_heads=2, moe=moe))
    tables = np.ones((L, E), bool), np.ones((L, E))
    for refused in (
        lambda: look(model, ids_GS),
        lambda: pruned(model, tables[0]),
        lambda: merge.merged(model, *tables, align=True),
        lambda: low_rank(model, 0.5),
        lambda: saliency.ablation(model, ids_GS),
    ):
        with pytest.raises(ValueError, match=name):
            refused()


# What the experts do, and what that says of them


def by_hand(model, ids_GS, layer, renormalise):
    """Loops in float64 over what reaches the layer: scores, who is chosen, outputs of all."""
    reached = []
    ffn = model.blocks[layer].ffn
    hook = ffn.register_forward_pre_hook(lambda _, args: reached.append(args[0]))
    logits(model, ids_GS)
    hook.remove()
    x_TD = torch.cat(reached).double().numpy()
    gate_ED = ffn.router.weight_ED.detach().double().numpy()
    w13_E2FD, w2_EDF = (w.detach().double().numpy() for w in (ffn.w13_E2FD, ffn.w2_EDF))
    rows = []
    for x_D in x_TD:
        score_E = np.exp(gate_ED @ x_D)
        score_E /= score_E.sum()
        chosen = sorted(range(E), key=lambda e: -score_E[e])[:K]
        total = sum(score_E[e] for e in chosen) if renormalise else 1.0
        output_ED = []
        for w13_2FD, w2_DF in zip(w13_E2FD, w2_EDF, strict=True):
            gate_F, up_F = w13_2FD[:F_] @ x_D, w13_2FD[F_:] @ x_D
            output_ED.append(w2_DF @ (gate_F / (1 + np.exp(-gate_F)) * up_F))
        rows.append((chosen, score_E / total, np.array(output_ED)))
    return rows


@pytest.mark.parametrize("renormalised", [True, False])
def test_load_and_reap_are_those_of_plain_loops(renormalised, ids_GS):
    model = model_of()
    seen = look(model, ids_GS)
    got = saliency.reap(seen, renormalised=renormalised)
    for place in range(L):
        rows = by_hand(model, ids_GS, place, renormalised)
        visits = [[] for _ in range(E)]
        for chosen, gate_E, output_ED in rows:
            for e in chosen:
                visits[e].append(gate_E[e] * np.sqrt((output_ED[e] ** 2).sum()))
        expected = [np.mean(each) if each else 0.0 for each in visits]
        np.testing.assert_allclose(got[place], expected, rtol=1e-5)
        share_E = np.array([len(each) for each in visits]) / (K * len(rows))
        np.testing.assert_allclose(saliency.load(seen)[place], share_E)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_adds_up_to_the_layer(kind, ids_GS):
    model = model_of(KINDS[kind], scale=1.0)
    for seen in look(model, ids_GS):
        with torch.no_grad():
            y_TD, _ = model.blocks[seen.layer].ffn.eval()(seen.x, RouteContext())
        torch.testing.assert_close(torch.einsum("te,etd->td", seen.weight, seen.output), y_TD)
        assert (seen.visits.sum(1) == K).all()


def test_an_expert_that_nobody_visits_has_no_saliency(ids_GS):
    model = model_of()
    model.routers()[1].kill(4)
    seen = look(model, ids_GS)
    for values_LE in (saliency.load(seen), saliency.reap(seen)):
        assert (values_LE == 0).nonzero() == ([1], [4])


def test_ablation_is_the_rise_of_the_loss_without_one_expert(ids_GS):
    model = model_of(vocab=50)

    def loss(model):  # in float64: a rise is the small difference of two
        said = logits(model, ids_GS)[:, :-1].flatten(0, 1).double()
        return F.cross_entropy(said, ids_GS[:, 1:].flatten())

    assert mean_loss(model, ids_GS) == pytest.approx(float(loss(model)), rel=1e-6)
    got = saliency.ablation(model, ids_GS)
    for layer, expert in np.ndindex(L, E):
        keep_LE = np.ones((L, E), bool)
        keep_LE[layer, expert] = False
        rise = float(loss(pruned(model, keep_LE)) - loss(model))
        assert got[layer, expert] == pytest.approx(rise, abs=2e-6)


def test_chance_is_drawn_anew_with_each_seed():
    assert (saliency.chance((L, E), 1) == saliency.chance((L, E), 1)).all()
    assert (saliency.chance((L, E), 1) != saliency.chance((L, E), 2)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_subset_changes_the_layer_least(kind, ids_GS):
    model = model_of(KINDS[kind])
    seen = look(model, ids_GS)
    chosen = best_subset(model, seen, 3)
    assert (chosen.sum(1) == 3).all()
    for layer, keep_E in zip(seen, chosen, strict=True):
        router = model.routers()[layer.layer]
        errors = {}
        for _ in range(8):  # of these layers alone, each as a smaller model has it
            subset = np.sort(np.random.default_rng(len(errors)).permutation(E)[:3])
            keep_LE = np.ones((L, E), bool)
            keep_LE[layer.layer] = np.isin(np.arange(E), subset)
            ffn = pruned(model, keep_LE).blocks[layer.layer].ffn
            with torch.no_grad():
                gap = (
                    ffn(layer.x, RouteContext())[0]
                    - model.blocks[layer.layer].ffn(layer.x, RouteContext())[0]
                )
            errors[tuple(subset)] = float((gap**2).sum(1).mean())
            assert subset_error(router, layer, subset) == pytest.approx(errors[tuple(subset)], 1e-4)
        least = subset_error(router, layer, np.flatnonzero(keep_E))
        assert least <= min(errors.values()) * (1 + 1e-5)
        assert subset_error(router, layer, range(E)) == 0


# Merging


def random_expert(rng):
    return (
        torch.from_numpy(rng.standard_normal((2 * F_, D))),
        torch.from_numpy(rng.standard_normal((D, F_))),
    )


@settings(max_examples=20)
@given(st.integers(0, 2**16))
def test_the_neurons_of_a_shuffled_copy_are_found_again(seed):
    rng = np.random.default_rng(seed)
    expert, order_F = random_expert(rng), rng.permutation(F_)
    shuffled = merge.reordered(expert, order_F)
    found = merge.matching(expert, shuffled)
    assert (order_F[found] == np.arange(F_)).all()
    weight_N = rng.random(2)
    aligned = merge.average([expert, shuffled], weight_N, align=True)
    leader = expert if weight_N[0] >= weight_N[1] else shuffled
    for part, same in zip(aligned, leader, strict=True):
        torch.testing.assert_close(part, same)
    plain = merge.average([expert, shuffled], weight_N, align=False)
    share = weight_N[0] / weight_N.sum()
    for part, one, two in zip(plain, expert, shuffled, strict=True):
        torch.testing.assert_close(part, share * one + (1 - share) * two)


def test_experts_without_load_weigh_the_same():
    experts = [random_expert(np.random.default_rng(i)) for i in range(2)]
    for part, one, two in zip(
        merge.average(experts, np.zeros(2), align=False), *experts, strict=True
    ):
        torch.testing.assert_close(part, (one + two) / 2)


@pytest.mark.parametrize("align", [True, False])
def test_a_merged_group_has_one_expert_and_the_router_its_rows(align, ids_GS):
    model = model_of()
    seen = look(model, ids_GS)
    group_LE = np.array([[0, 1, 2, 0, 1, 3], [0, 1, 2, 3, 4, 5]])
    load_LE = saliency.load(seen)
    got = merge.merged(model, group_LE, load_LE, align=align)
    before, after = model.blocks[0].ffn, got.blocks[0].ffn
    for pair in ([0, 3], [1, 4]):
        experts = [(before.w13_E2FD[e].detach(), before.w2_EDF[e].detach()) for e in pair]
        expected = merge.average(experts, load_LE[0, pair], align=align)
        for e in pair:
            torch.testing.assert_close(after.w13_E2FD[e], expected[0])
            torch.testing.assert_close(after.w2_EDF[e], expected[1])
    assert torch.equal(after.w2_EDF[[2, 5]], before.w2_EDF[[2, 5]])
    assert torch.equal(got.blocks[1].ffn.w13_E2FD, model.blocks[1].ffn.w13_E2FD)
    assert torch.equal(after.router.weight_ED, before.router.weight_ED)


def test_merging_nobody_changes_nothing(ids_GS):
    model = model_of()
    seen = look(model, ids_GS)
    for groups in (merge.groups_by_output(seen, E), merge.groups_by_logits(seen, E)):
        got = merge.merged(model, groups, saliency.load(seen), align=True)
        assert torch.equal(logits(got, ids_GS), logits(model, ids_GS))


def test_tables_of_another_shape_are_refused(ids_GS):
    load_LE = np.ones((L, E))
    with pytest.raises(ValueError, match=r"group_LE must be \[L, E\] = \[2, 6\].*got \[2, 5\]"):
        merge.merged(model_of(), np.zeros((L, E - 1)), load_LE, align=True)


def clusters_by_hand(points, groups):
    """Average linkage in plain loops."""
    clusters = [{i} for i in range(len(points))]
    while len(clusters) > groups:
        pairs = [(a, b) for a in range(len(clusters)) for b in range(a)]
        distance = {
            (a, b): np.mean(
                [np.linalg.norm(points[i] - points[j]) for i in clusters[a] for j in clusters[b]]
            )
            for a, b in pairs
        }
        a, b = min(distance, key=distance.get)
        clusters[b] |= clusters.pop(a)
    return {frozenset(cluster) for cluster in clusters}


def as_sets(group_E):
    return {frozenset(np.flatnonzero(group_E == g).tolist()) for g in np.unique(group_E)}


@pytest.mark.parametrize("groups", [1, 2, 4, 6])
def test_groups_are_those_of_plain_loops(groups, ids_GS):
    seen = look(model_of(), ids_GS)
    by_output, by_logits = (
        f(seen, groups) for f in (merge.groups_by_output, merge.groups_by_logits)
    )
    for place, layer in enumerate(seen):
        means_ED = layer.output.numpy().astype(float).mean(1)
        assert as_sets(by_output[place]) == clusters_by_hand(means_ED, groups)
        load_E = saliency.load(seen)[place]
        leaders = sorted(sorted(range(E), key=lambda e: (-load_E[e], e))[:groups])
        logits_ET = layer.logits.numpy().astype(float).T
        for e in range(E):
            like = [
                logits_ET[e] @ logits_ET[g] / np.linalg.norm(logits_ET[e])
                / np.linalg.norm(logits_ET[g]) for g in leaders
            ]  # fmt: skip
            expected = leaders.index(e) if e in leaders else int(np.argmax(like))
            assert by_logits[place, e] == expected


def random_seen(rng, tokens=20):
    weight_TE = torch.zeros(tokens, E, dtype=torch.float64)
    for weight_E in weight_TE:
        weight_E[rng.permutation(E)[:K].copy()] = torch.from_numpy(rng.random(K))
    output_ETD = torch.from_numpy(rng.standard_normal((E, tokens, D)))
    nothing = torch.zeros(tokens, E)
    return Seen(0, torch.zeros(tokens, D), nothing, nothing, weight_TE > 0, weight_TE, output_ETD)


@settings(max_examples=10)
@given(st.integers(0, 2**16))
def test_no_fixed_mixture_loses_less_than_the_irreducible_error(seed):
    seen = random_seen(np.random.default_rng(seed))
    got = merge.mixture_errors(seen)
    assert (got == got.T).all() and not got.diagonal().any()
    weight_TE, output_ETD = seen.weight.numpy(), seen.output.numpy()
    for i, j in ((1, 0), (4, 2)):

        def error(a, i=i, j=j):
            pair_TD = weight_TE[:, i, None] * output_ETD[i] + weight_TE[:, j, None] * output_ETD[j]
            mixed_TD = a * output_ETD[i] + (1 - a) * output_ETD[j]
            both_T1 = weight_TE[:, [i, j]].sum(1, keepdims=True)
            return ((pair_TD - both_T1 * mixed_TD) ** 2).sum(1).mean()

        least = scipy.optimize.minimize_scalar(error, bounds=(-1, 2), method="bounded")
        assert got[i, j] == pytest.approx(least.fun, rel=1e-4)
    alike = Seen(**vars(seen) | {"output": output_of_one(seen)})
    assert not merge.mixture_errors(alike).any()


def output_of_one(seen):
    return seen.output[:1].expand(len(seen.output), -1, -1)


def test_a_router_that_never_varies_the_shares_loses_nothing_by_a_mixture():
    seen = random_seen(np.random.default_rng(0))
    fixed_TE = torch.rand(20, 1, dtype=torch.float64) * torch.arange(1, E + 1)
    error_EE = merge.mixture_errors(Seen(**vars(seen) | {"weight": fixed_TE}))
    np.testing.assert_allclose(error_EE, 0, atol=1e-20)


@pytest.mark.parametrize("align", [True, False])
def test_the_error_of_a_merge_is_that_of_the_merged_layer(align, ids_GS):
    model = model_of()
    seen = look(model, ids_GS)[1]
    error_EE = merge.merge_errors(model, seen, align=align)
    bound_EE = merge.mixture_errors(seen)
    for i, j in ((1, 0), (5, 3)):
        group_LE = np.tile(np.arange(E), (L, 1))
        group_LE[1, j] = group_LE[1, i]
        one = merge.merged(model, group_LE, np.tile(saliency.load([seen]), (L, 1)), align=align)
        with torch.no_grad():
            y_TD, z_TD = (m.blocks[1].ffn(seen.x, RouteContext())[0] for m in (model, one))
        gap = float((y_TD - z_TD).square().sum(1).mean())
        assert error_EE[i, j] == pytest.approx(gap, rel=1e-4)
    assert bound_EE.max() > 0


# Low rank


def test_truncation_keeps_the_largest_singular_values():
    matrix = np.random.default_rng(0).standard_normal((7, 5))
    for rank in range(1, 6):
        near = truncated(torch.from_numpy(matrix), rank).numpy()
        lost = np.linalg.svd(matrix, compute_uv=False)[rank:]
        error = np.linalg.norm(matrix - near)
        assert error == pytest.approx(float(np.sqrt((lost**2).sum())), abs=1e-12)
        assert np.linalg.matrix_rank(near) == rank


@settings(max_examples=20)
@given(st.integers(0, 2**16), st.integers(1, 4))
def test_with_inputs_no_matrix_of_the_rank_says_less_wrong_to_them(seed, rank):
    """To the inputs and a little of every direction: the ridge."""
    rng = np.random.default_rng(seed)
    matrix, inputs = rng.standard_normal((7, 5)), rng.standard_normal((40, 5))
    inputs *= 10.0 ** rng.uniform(-1, 1, 5)  # some directions are seen much more than others
    near = truncated(torch.from_numpy(matrix), rank, torch.from_numpy(inputs)).numpy()
    plain = truncated(torch.from_numpy(matrix), rank).numpy()

    def error(candidate, inputs):
        return np.linalg.norm(inputs @ (matrix - candidate).T)

    assert np.linalg.matrix_rank(near) == rank
    # The least that any matrix of the rank reaches: regression of reduced rank, in closed form.
    ridge = low_rank_of.RIDGE * (inputs**2).sum() / 5  # of 40 mean squares, over 5 directions
    both = np.concatenate([inputs, np.sqrt(ridge) * np.eye(5)])
    least = np.linalg.norm(np.linalg.svd(both @ matrix.T, compute_uv=False)[rank:])
    assert error(near, both) == pytest.approx(least, rel=1e-6)
    assert error(near, inputs) <= error(plain, inputs) * (1 + 1e-9)


@settings(max_examples=50)
@given(st.floats(0.4, 1.0))
def test_ranks_are_the_largest_that_fit(share):
    config = model_of().config
    ranks = ranks_at(config, share)
    for name, (rows, columns) in low_rank_of.sizes(config).items():
        assert ranks[name] * (rows + columns) <= share * rows * columns
        assert (ranks[name] + 1) * (rows + columns) > share * rows * columns
    assert 0 < share_of(config, ranks) <= share


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_low_rank_model_has_the_truncated_matrices_alone_changed(calibrated, ids_GS):
    model = model_of(shared=1)
    seen = look(model, ids_GS) if calibrated else None
    got, ranks = low_rank(model, 0.8, seen), ranks_at(model.config, 0.8)
    for name, after in got.named_parameters():
        before, rank = model.get_parameter(name), ranks.get(name.rpartition(".")[2])
        if rank is None:
            assert torch.equal(after, before)
            continue
        for expert in range(E):
            inputs = None
            if seen is not None:
                layer = seen[int(name.split(".")[1])]
                inputs = layer.x[layer.visits[:, expert]]
                if name.endswith("w2_EDF"):
                    w13_E2FD = model.get_parameter(name.replace("w2_EDF", "w13_E2FD"))
                    gate, up = (inputs @ w13_E2FD[expert].T).chunk(2, dim=1)
                    inputs = F.silu(gate) * up
            expected = truncated(before[expert], rank, inputs)
            torch.testing.assert_close(after[expert], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="At a share of 0.01 no rank fits"):
        low_rank(model, 0.01)


# The router after it


def test_only_the_router_is_tuned_and_its_loss_falls(corpus):
    model = model_of({"score": "sigmoid", "bias": "sign", "scope": "none"}, vocab=300)
    sizes = dict(batch_size=4, seq_len=16, seed=3)
    before = copy.deepcopy(model.state_dict())
    tuned = tuned_router(model, corpus, steps=12, learning_rate=0.05, **sizes)
    changed = {n for n, v in tuned.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {f"blocks.{layer}.ffn.router.weight_ED" for layer in range(L)}
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    seen = [corpus.batch(step=step, **sizes).tokens for step in range(12)]
    ids_GS = torch.from_numpy(np.concatenate(seen))
    assert mean_loss(tuned, ids_GS) < mean_loss(model, ids_GS) - 0.01
