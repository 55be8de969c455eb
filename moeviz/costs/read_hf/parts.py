"""What model types have in common: attention with its windows, experts with their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moeviz.costs.read_hf.fields import REQUIRED, Fields
from moeviz.costs.shape.feedforward import FFN, MoE
from moeviz.costs.shape.layers import Layer
from moeviz.costs.shape.mixers import Attention, Indexer, LatentAttention

Reader = Callable[[Fields], dict[str, Any]]
Window = tuple[int | None, bool]  # keys at most, whether chunked
# The type's own default is another model's number: the config must say it.
SAID: dict[str, Any] = dict(needs_kv_heads=True, needs_head_dim=True)
FINE = "moe_intermediate_size"
SPAN = {"full_attention": "full", "sliding_attention": "sliding", "chunked_attention": "chunked"}


def decoder(
    f: Fields,
    mixers: list[Any],
    ffns: Any,
    *,
    tied: bool = False,
    norms: int = 2,
    **options: Any,
) -> dict[str, Any]:
    """The arguments of Architecture. ffns: one a layer, or one for all; tied: what the type means
    where tie_word_embeddings is not said."""
    ffns = ffns if isinstance(ffns, list) else same(ffns, f)
    layers = (Layer(mixer, ffn, norms) for mixer, ffn in zip(mixers, ffns, strict=True))
    return dict(
        d_model=f.d_model,
        vocab=f.whole("vocab_size"),
        layers=tuple(layers),
        tied=f.flag("tie_word_embeddings", default=tied),
        context_tokens=f.context,
        **options,
    )


def same(part: Any, f: Fields) -> list[Any]:
    """One part in every layer."""
    return [part] * f.num_layers


def reader(
    ffns: Callable[[Fields], Any],
    mixers: Callable[[Fields], list[Any]],
    *,
    expected: Mapping[str, Any] | None = None,
    **options: Any,
) -> Reader:
    """A reader of a type: how its FFNs and its mixers are read, the fields that it has in one way
    only, and more arguments of `decoder`."""

    def read(f: Fields) -> dict[str, Any]:
        for name, value in (expected or {}).items():
            f.expect(name, value)
        return decoder(f, mixers(f), ffns(f), **options)

    return read


# --- attention ------------------------------------------------------------------------------------


def head_dim(f: Fields) -> int:
    """head_dim, or the width that is left to each head."""
    value = f.whole("head_dim", default=None)
    if value is not None:
        return value
    if f.d_model % f.heads:
        raise ValueError(
            f"{f.where}: head_dim is missing, and hidden_size {f.d_model} is no multiple of "
            f"num_attention_heads {f.heads}."
        )
    return f.d_model // f.heads


def attentions(
    f: Fields,
    windows: list[Window] | None = None,
    *,
    needs_kv_heads: bool = False,
    needs_head_dim: bool = False,
    **options: Any,
) -> list[Attention]:
    """One Attention a layer, with these options. needs_kv_heads, needs_head_dim: nothing said does
    not mean "as many as heads" and "what is left to each"."""
    kv_heads = f.whole("num_key_value_heads", default=REQUIRED if needs_kv_heads else f.heads)
    width = f.whole("head_dim") if needs_head_dim else head_dim(f)
    return [
        Attention(f.heads, kv_heads, width, window=window, chunked=chunked, **options)
        for window, chunked in windows or same((None, False), f)
    ]


def softmax(
    read: Callable[[Fields], dict[str, Any]] | None = None,
    windows: Callable[[Fields], list[Window]] | None = None,
    **options: Any,
) -> Callable[[Fields], list[Attention]]:
    """How softmax attention is read: `read` gives the arguments of `attentions` that the config
    says, `options` those that the type has."""

    def mixers(f: Fields) -> list[Attention]:
        return attentions(f, windows and windows(f), **(read(f) if read else {}), **options)

    return mixers


def biased(f: Fields, default: bool = False, name: str = "attention_bias") -> dict[str, Any]:
    """One flag for the biases of all four projections."""
    flag = f.flag(name, default=default)
    return dict(qkv_bias=flag, out_bias=flag)


def window_everywhere(f: Fields) -> list[Window]:
    """sliding_window, where it is said, in every layer."""
    return same((f.whole("sliding_window", default=None), False), f)


def windows_by_type(f: Fields, default: Callable[[int], str]) -> list[Window]:
    """By layer_types, or by the type's own pattern."""
    spans = f.words("layer_types", SPAN)
    if spans is None:
        spans = [default(i) for i in range(f.num_layers)]
    each: dict[str, Window] = {"full": (None, False)}
    if "sliding" in spans:
        each["sliding"] = (f.whole("sliding_window"), False)
    if "chunked" in spans:
        each["chunked"] = (f.whole("attention_chunk_size"), True)
    f.ignore("sliding_window", "attention_chunk_size")
    return [each[span] for span in spans]


def full_every(count: int, *names: str) -> Callable[[Fields], list[Window]]:
    """Each count-th layer sees everything, the others a window; names: fields that say another
    count."""

    def read(f: Fields) -> list[Window]:
        period = f.whole(*names, default=count) if names else count
        return windows_by_type(f, lambda i: "sliding" if (i + 1) % period else "full")

    return read


def windows_on_request(f: Fields) -> list[Window]:
    """Qwen's: none unless use_sliding_window, then from layer max_window_layers on."""
    on = f.flag("use_sliding_window", default=False)
    first = f.whole("max_window_layers", low=0, default=f.num_layers)
    if on or f.get("layer_types", default=None) is not None:
        return windows_by_type(f, lambda i: "sliding" if on and i >= first else "full")
    f.ignore("sliding_window")
    return same((None, False), f)


def latent(f: Fields, *, sparse: list[bool] | None = None) -> list[LatentAttention]:
    """Latent attention a layer. sparse: for DeepSeek Sparse Attention, which layers have an
    indexer of their own; the others take over what an earlier one chose."""
    f.ignore("head_dim", "num_key_value_heads", "qk_head_dim")
    top_k = indexer = None
    if sparse is not None:
        top_k = f.whole("index_topk")
        indexer = Indexer(f.whole("index_n_heads"), f.whole("index_head_dim"))
    options: dict[str, Any] = dict(
        heads=f.heads,
        kv_rank=f.whole("kv_lora_rank"),
        nope_dim=f.whole("qk_nope_head_dim"),
        rope_dim=f.whole("qk_rope_head_dim"),
        value_dim=f.whole("v_head_dim"),
        q_rank=f.whole("q_lora_rank", default=None),
        bias=f.flag("attention_bias", default=False),
        top_k=top_k,
    )
    return [
        LatentAttention(**options, indexer=indexer if own else None)
        for own in sparse or same(False, f)
    ]


# --- experts --------------------------------------------------------------------------------------


def dense(f: Fields, *, gated: bool = True, bias: bool = False) -> FFN:
    return FFN(f.whole("intermediate_size"), gated, bias)


def counts(f: Fields) -> tuple[int, int]:
    """Experts, and experts a token."""
    of_all = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
    of_token = ("num_experts_per_tok", "experts_per_token", "moe_top_k", "moe_topk", "moe_k")
    experts, top_k = f.whole(*of_all), f.whole(*of_token)
    if top_k > experts:
        raise ValueError(
            f"{f.where}: {f.named(*of_token)} must be at most {f.named(*of_all)} = {experts}, got "
            f"{top_k}."
        )
    return experts, top_k


def experts(f: Fields, width: str = "intermediate_size", **options: Any) -> MoE:
    """Experts; width: the field that says theirs."""
    return MoE(*counts(f), f.whole(width), **options)


def gated_shared_experts(f: Fields) -> MoE:
    """Qwen's: routed experts beside a shared FFN whose output a gate of one row multiplies."""
    shared = f.whole("shared_expert_intermediate_size")
    return experts(f, FINE, shared_experts=1, shared_width=shared, shared_gates=1)


def deepseek_experts(f: Fields, shared_name: str = "n_shared_experts", **options: Any) -> MoE:
    """Fine-grained experts beside shared ones of the same width, in groups of which a token may
    visit some. shared_name: the field that counts the shared ones."""
    shared = f.whole(shared_name, low=0, default=0)
    groups = f.whole("n_group", default=1)
    return experts(
        f,
        FINE,
        shared_experts=shared,
        shared_width=shared * f.whole(FINE),
        groups=groups,
        top_groups=f.whole("topk_group", default=groups),
        **options,
    )


def deepseek_layers(
    f: Fields, bias: bool = False, shared_name: str = "n_shared_experts"
) -> list[FFN | MoE]:
    """DeepSeek's layers: the first first_k_dense_replace dense, then every moe_layer_freq-th MoE;
    or as mlp_layer_types says. bias: of the dense and the shared FFN, not of the routed experts."""
    moe = deepseek_experts(f, shared_name, shared_bias=bias)
    named = f.words("mlp_layer_types", {"dense": "dense", "sparse": "moe"})
    first = f.whole("first_k_dense_replace", low=0, default=None)
    every = f.get("moe_layer_freq", default=1)
    if isinstance(every, list | tuple):
        sparse = [bool(v) for v in f.words("moe_layer_freq")]
        if any(sparse[: first or 0]):
            raise ValueError(
                f"{f.where}: moe_layer_freq and first_k_dense_replace contradict each other."
            )
    else:
        every = f.whole("moe_layer_freq", default=1)
        sparse = [i >= (first or 0) and i % every == 0 for i in range(f.num_layers)]
    if named is not None:
        if first is not None and sparse != [word == "moe" for word in named]:
            raise ValueError(
                f"{f.where}: mlp_layer_types and first_k_dense_replace contradict each other."
            )
        sparse = [word == "moe" for word in named]
    elif first is None:
        raise ValueError(f"{f.where}: first_k_dense_replace is missing.")
    return chosen(sparse, moe, dense(f, bias=bias))


def chosen(flags: Iterable[bool], part: Any, other: Any) -> list[Any]:
    """One part where the flag of a layer is set, the other elsewhere."""
    return [part if flag else other for flag in flags]


def qwen_layers(f: Fields, moe: MoE) -> list[FFN | MoE]:
    """Qwen's layers: MoE every decoder_sparse_step-th, save mlp_only_layers."""
    step = f.whole("decoder_sparse_step", default=1)
    only = f.layers("mlp_only_layers", default=())
    sparse = [i not in only and (i + 1) % step == 0 for i in range(f.num_layers)]
    other = moe if all(sparse) else dense(f)
    return chosen(sparse, moe, other)
