"""The state that balancing rules keep between steps."""

import pytest
import torch

from moeviz.model import LanguageModel, ModelConfig, MoEConfig
from moeviz.routing import ROUTERS, build_router
from moeviz.routing.out import RouterStats


def stats(load_E):
    load_E = torch.tensor(load_E)
    return RouterStats(load_E, load_E, load_E.float(), torch.zeros(()), int(load_E.sum()))


@pytest.mark.parametrize("cast", ["bfloat16", "half", "double", "float"])
@pytest.mark.parametrize("name", ROUTERS)
def test_a_cast_leaves_the_state_in_float32(name, cast):
    router = build_router(name, d_model=8, num_experts=8, top_k=2)
    before = {k: v + 1 / 3 for k, v in router.named_buffers() if v.is_floating_point()}
    router.load_state_dict(before, strict=False)  # thirds: 16 bits would round them
    getattr(router, cast)()
    for key, value in before.items():
        held = router.get_buffer(key)
        assert held.dtype == torch.float32 and torch.equal(held, value), key


def test_small_steps_add_up_in_a_model_that_was_cast():
    moe = MoEConfig(8, 2, 8, router="deepseek_v3")
    model = LanguageModel(ModelConfig(vocab_size=16, d_model=8, num_heads=2, moe=moe)).bfloat16()
    router = model.routers()[0]
    for _ in range(2000):
        router.post_step(stats(list(range(8))))
    (bias_E,) = (v for k, v in router.named_buffers() if k.endswith("bias_E"))
    assert torch.allclose(bias_E, torch.tensor([2.0] * 4 + [-2.0] * 4), atol=1e-3)
