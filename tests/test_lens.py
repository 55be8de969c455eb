"""What an expert writes is read off as by hand."""

import pytest
import torch

from moeviz.model import LanguageModel, MoEConfig
from moeviz.model.config import ModelConfig
from moeviz.model.experts import swiglu
from moeviz.watch.lens import writes


def small(**moe):
    torch.manual_seed(0)
    experts = MoEConfig(**{**dict(num_experts=5, top_k=2, d_expert=8), **moe})
    sizes = dict(vocab_size=30, d_model=16, num_heads=2, dense_layers=(0,), ffn_scale=1.0)
    return LanguageModel(ModelConfig(**sizes, moe=experts)).eval()


def test_what_experts_write_is_as_by_hand():
    model, layer = small(), 1
    ids_BS = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))
    raised_EV = writes(model, ids_BS, layer=layer)
    block, rises = model.blocks[layer], {e: [] for e in range(5)}
    with torch.no_grad():
        x_BSD = model.embedding(ids_BS)
        x_BSD, _ = model.blocks[0](x_BSD, None, 0, None)
        x_BSD = x_BSD + block.attention(block.attention_norm(x_BSD), 0, None, layer)
        for x in x_BSD.flatten(0, 1):
            normed = block.ffn_norm(x)
            best = (block.ffn.router.gate_matrix() @ normed).topk(2)
            before = model.head(model.norm(x)).log_softmax(-1)
            for e, weight in zip(best.indices.tolist(), best.values.softmax(-1), strict=True):
                part = block.ffn.w2_EDF[e] @ swiglu(block.ffn.w13_E2FD[e] @ normed)
                after = model.head(model.norm(x + weight * part * block.ffn.factor_P[0]))
                rises[e].append(after.log_softmax(-1) - before)
    for e, rise in rises.items():
        if rise:
            assert raised_EV[e].allclose(torch.stack(rise).mean(0), atol=1e-5)
        else:
            assert raised_EV[e].isnan().all()


def test_random_directions_are_as_long_and_of_each_expert_and_seed():
    model = small()
    ids_BS = torch.randint(0, 30, (4, 9), generator=torch.Generator().manual_seed(2))
    real = writes(model, ids_BS, layer=1)
    null = [writes(model, ids_BS, layer=1, null="direction", seed=seed) for seed in (0, 0, 1)]
    known_E = ~real[:, 0].isnan()
    assert torch.equal(null[0][known_E], null[1][known_E])
    assert not null[0][known_E].allclose(null[2][known_E], atol=1e-4)
    assert not null[0][known_E].allclose(real[known_E], atol=1e-4)
    with torch.no_grad():
        model.blocks[1].ffn.w2_EDF.zero_()  # nothing is as long as nothing
    assert writes(model, ids_BS, layer=1, null="direction")[known_E].abs().max() < 1e-5


def test_visits_by_lot_are_as_many_of_each_expert_and_all_together_the_same():
    model = small()
    ids_BS = torch.randint(0, 30, (4, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        load_E = model(ids_BS).routes[1].plan.load()[:, None]
    real, *lots = (
        writes(model, ids_BS, layer=1, null=n).nan_to_num() for n in ("", *["visits"] * 2)
    )
    assert torch.equal(*lots) and not lots[0].allclose(real, atol=1e-4)
    assert (load_E * lots[0]).sum(0).allclose((load_E * real).sum(0), atol=1e-4)


def test_layers_without_a_choice_are_refused():
    ids_BS = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="layer must be one of 1, got '0'"):
        writes(small(), ids_BS, layer=0)
    with pytest.raises(ValueError, match="no expert is chosen by a token"):
        writes(small(router="soft_moe"), ids_BS, layer=1)
