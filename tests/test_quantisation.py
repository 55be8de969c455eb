"""Quantisers: bytes as costs count them, codes and values as others' own code has them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.costs.cost.quantisation import FORMATS
from moeviz.experiments.recorded import recorded_figures
from moeviz.pictures.costs import fewer_bits
from moeviz.systems.quantisation import CODECS, WIDE, pack, pack_bits, unpack, unpack_bits


def weights(rows=64, columns=256, seed=0):
    """Rows of very different size, some of zeros, one heavy outlier."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, columns)) * 2.0 ** rng.integers(-6, 3, (rows, 1))
    weight[0], weight[1, 0], weight[2] = 0, 9.0, np.abs(weight[2])
    return weight.astype(np.float32)


@pytest.mark.parametrize("form", CODECS)
def test_the_packed_bytes_are_those_of_the_arithmetic(form):
    for shape in ((64, 256), (256, 64)):  # groups along a row, and of whole rows
        packed = pack(weights(*shape), form)
        scale = 4 if form == "fp8" else 0  # of the matrix, which costs leave out
        assert packed.nbytes == 64 * 256 * FORMATS[form].bits / 8 + scale
        assert unpack(packed).shape == shape


@pytest.mark.parametrize("form", [form for form in CODECS if form not in WIDE])
def test_what_a_weight_loses_is_bounded(form):
    weight = weights()
    packed, group = pack(weight, form), FORMATS[form].group or weight.size
    lost_GN = np.abs(unpack(packed) - weight).reshape(-1, group)
    size_GN = np.abs(weight).reshape(-1, group)
    scale_G1 = packed.parts["scale"].astype(np.float32).reshape(-1, 1)
    if form.startswith("int"):
        # Half a step, and what float16 rounded off the scale, which the largest code multiplies.
        bound_GN = scale_G1 / 2 + 2.0**-10 * size_GN.max(1, keepdims=True)
        bound_GN = bound_GN + (scale_G1 / 2 if form == "int4_zero" else 0)  # the zero point's
    else:
        # Half of the last bit of the mantissa; below the smallest exponent, of its step.
        scale_G1 = 2.0 ** (scale_G1 - 127) if form == "mxfp4" else scale_G1
        mantissa_bits, step = (1, 0.5) if form == "mxfp4" else (3, 2.0**-9)
        bound_GN = np.maximum(size_GN * 2.0 ** -(mantissa_bits + 1), scale_G1 * step / 2)
    assert (lost_GN <= bound_GN * (1 + 1e-5)).all()
    assert (unpack(packed)[0] == 0).all()  # the row of zeros
    again = unpack(pack(unpack(packed), form))
    np.testing.assert_allclose(again, unpack(packed), rtol=2e-3, atol=1e-7)


def test_fp8_is_what_torch_casts_to():
    weight = weights()
    packed = pack(weight, "fp8")
    cast = (torch.from_numpy(weight) / packed.parts["scale"].item()).to(torch.float8_e4m3fn)
    assert np.array_equal(packed.parts["code"], cast.view(torch.uint8).numpy().ravel())
    dequantised = cast.float() * packed.parts["scale"].item()
    assert np.array_equal(unpack(packed), dequantised.numpy())


@pytest.mark.parametrize("form", ["int8", "int4", "int4_zero"])
def test_integers_are_what_torch_quantises_to(form):
    weight = weights(16, 128)  # a group is a row, a channel of torch's
    packed, bits = pack(weight, form), int(FORMATS[form].weight_bits)
    scale = torch.from_numpy(packed.parts["scale"].astype(np.float32).ravel())
    low, high, zero = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, torch.zeros(16)
    if form == "int4_zero":
        zero = torch.from_numpy(unpack_bits(packed.parts["zero"], bits, 16))
        low, high = 0, 2**bits - 1
    theirs = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight), scale.clamp(min=1e-7), zero.int(), 0, low, high
    )
    gap = np.abs(theirs.numpy() - unpack(packed))
    # Half way between two codes, which comes out depends on how the quotient was rounded.
    assert (gap <= scale[:, None].numpy() * 1.001).all()
    assert (gap < 1e-6).mean() > 0.999


def test_mxfp4_is_what_transformers_unpacks():
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    weight = weights(8, 64)
    packed = pack(weight, "mxfp4")
    blocks = torch.from_numpy(packed.parts["code"].reshape(1, 8, 2, 16))
    scales = torch.from_numpy(packed.parts["scale"].reshape(1, 8, 2))
    theirs = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert np.array_equal(unpack(packed), theirs[0].T.numpy())


def test_bfloat16_is_what_torch_casts_to():
    weight = weights()
    assert np.array_equal(
        unpack(pack(weight, "bf16")), torch.from_numpy(weight).bfloat16().float().numpy()
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 8), st.integers(0, 40), st.integers(0, 2**31 - 1))
def test_bits_come_back(bits, count, seed):
    code = np.random.default_rng(seed).integers(0, 2**bits, count)
    packed = pack_bits(code, bits)
    assert packed.nbytes == -(-count * bits // 8)
    assert np.array_equal(unpack_bits(packed, bits, count), code)


@pytest.mark.parametrize(
    "weight,form,message",
    [
        (np.ones((2, 128)), "nf4", "packed as fp32, .*, not as 'nf4': choose one of them"),
        (np.ones((2, 128)), "int5", "not as 'int5'"),
        (np.ones((8, 96)), "int4", "groups of 128 weights, which rows of 96 neither hold nor fill"),
        (np.full((1, 128), np.nan), "int8", "must be finite numbers"),
    ],
)
def test_what_nobody_packs(weight, form, message):
    with pytest.raises(ValueError, match=message):
        pack(weight, form)


def test_the_recorded_losses_grow_as_bits_go():
    """Over every seed; what the notebook says of INT8, INT4, INT3 and INT2."""
    experts = recorded_figures("quantised")["experts"]
    rises = np.array([experts[form]["loss"]["values"] for form in ("int8", "int4", "int3", "int2")])
    assert (np.diff(rises, axis=0) > 0).all()
    assert (np.abs(rises[0]) < 0.005).all() and (rises[1] < 0.05).all() and (rises[3] > 0.1).all()


def test_a_domain_is_told_with_its_spread():
    """A mean alone would say that one domain loses most, where its seeds disagree."""
    figures = recorded_figures("quantised")
    worst, best = ("c (+0.054 ± 0.026)", "arithmetic (+0.012 ± 0.005)")
    assert f"the mean rise is largest in {worst} and least in {best}." in fewer_bits.told(figures)
    assert "For each of its weights, it is largest for the router." in fewer_bits.told(figures)


# torch's own kernels on a CPU, from our packed weights; each gets x and the codes as integers.


def torchs_int4(x, packed, code):
    scales = torch.from_numpy(packed.parts["scale"].reshape(32, 4)).bfloat16()
    scales_zeros = torch.stack([scales.T, torch.zeros(4, 32).bfloat16()], -1).contiguous()
    layout = torch._convert_weight_to_int4pack_for_cpu(code.int(), 1)
    return torch._weight_int4pack_mm_for_cpu(x, layout, 32, scales_zeros)


def torchs_int8(x, packed, code):
    scale = torch.from_numpy(packed.parts["scale"].ravel()).bfloat16()
    return torch._weight_int8pack_mm(x, (code - 128).to(torch.int8), scale)


def torchs_fp8(x, packed, code):
    weight = code.to(torch.uint8).view(torch.float8_e4m3fn)
    scale = torch.from_numpy(packed.parts["scale"]).squeeze()
    return torch._scaled_mm(
        x.to(torch.float8_e4m3fn), weight.T, scale_a=torch.ones(()), scale_b=scale,
        out_dtype=torch.bfloat16,
    )  # fmt: skip


@pytest.mark.parametrize(
    "form,kernel", [("int4_g32", torchs_int4), ("int8", torchs_int8), ("fp8", torchs_fp8)]
)
def test_torchs_own_kernels_read_what_is_packed(form, kernel):
    """Their products are those of the reference's weights, as far as bfloat16 tells. MXFP4, and a
    bank of experts at once, torch 2.13 refuses on a CPU."""
    weight, x = weights(64, 128)[3:35], np.random.default_rng(1).normal(size=(16, 128))
    packed, x = pack(weight, form), torch.from_numpy(x).bfloat16()
    bits = int(FORMATS[form].weight_bits)
    code = torch.from_numpy(unpack_bits(packed.parts["code"], bits, weight.size))
    try:
        theirs = kernel(x, packed, code.reshape(32, 128))
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        pytest.skip(f"This torch has no such kernel for this CPU: {str(error)[:80]}")
    read = x.to(torch.float8_e4m3fn) if form == "fp8" else x
    ours = read.float() @ torch.from_numpy(unpack(packed)).T
    assert (theirs.float() - ours).abs().max() < 0.02 * ours.abs().max()
