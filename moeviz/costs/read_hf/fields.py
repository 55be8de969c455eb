"""Reading a config.json field by field: nothing in it that changes the shape is passed by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moeviz.checks import brief, check_flag, check_whole

REQUIRED = object()
# Above any model's: a slip of the keyboard must not become a list of a billion layers.
MOST, MOST_LAYERS = 10**9, 10_000

# Fields that change parameters, compute or cache. One that is set, and that a model type does not
# read, is refused by name: it says something about the model that would go uncounted.
STRUCTURAL = frozenset(
    """
    num_local_experts n_routed_experts num_experts moe_num_experts num_experts_per_tok moe_top_k
    experts_per_token moe_k moe_topk top_k_experts moe_intermediate_size n_shared_experts
    num_shared_experts moe_num_shared_experts shared_expert_intermediate_size
    shared_intermediate_size moe_shared_expert_intermediate_size moe_latent_size moe_hidden_size
    zero_expert_num first_k_dense_replace moe_layer_freq decoder_sparse_step mlp_only_layers
    interleave_moe_layer_step moe_layers mlp_layer_types expert_layer_period attn_layer_period
    intermediate_size_mlp ffn_config attn_config moe_layer_start_index
    q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim o_lora_rank
    index_topk index_n_heads index_topk_freq indexer_types compress_ratios kv_source_layers
    attention_bias qkv_bias attention_out_bias use_qk_norm attn_output_gate layer_types
    layers_block_type hybrid_override_pattern use_sliding_window sliding_window
    sliding_window_pattern attention_chunk_size full_attention_interval
    mlp_bias use_bias lm_head_bias n_inner head_dim
    mamba_d_state mamba_num_heads mamba_n_heads ssm_state_size linear_num_value_heads
    hc_mult num_kv_shared_layers hidden_size_per_layer_input laurel_rank altup_num_inputs
    is_encoder_decoder add_cross_attention
    """.split()
)


class Fields:
    """A config.json being read: what was read, and what is left."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where
        self._read: set[str] = set()

    def get(self, *names: str, default: Any = REQUIRED) -> Any:
        """The value under the first of these names that has one; null counts as absent. ValueError
        where two of them contradict each other, and where a required one is missing."""
        self._read.update(names)
        values = self._set(names)
        for other in values[1:]:
            if self.config[other] != self.config[values[0]]:
                raise ValueError(
                    f"{self.where}: {values[0]} = {brief(self.config[values[0]])} and {other} = "
                    f"{brief(self.config[other])} contradict each other."
                )
        if values:
            return self.config[values[0]]
        if default is REQUIRED:
            raise ValueError(f"{self.where}: {' or '.join(names)} is missing.")
        return default

    def _set(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.config.get(name) is not None]

    def named(self, *names: str) -> str:
        """The name, of these, that the config uses."""
        return next(iter(self._set(names)), names[0])

    def whole(self, *names: str, low: int = 1, high: int = MOST, default: Any = REQUIRED) -> Any:
        """A whole number in low..high; the default is returned as it is."""
        value = self.get(*names, default=default)
        if value is default:
            return value
        return check_whole(f"{self.where}: {self.named(*names)}", value, low, high)

    def whole_or_auto(self, name: str, auto: int) -> int:
        """A whole number; `auto` where it is absent or says so."""
        return auto if self.get(name, default="auto") == "auto" else self.whole(name)

    def flag(self, *names: str, default: bool) -> bool:
        field = f"{self.where}: {self.named(*names)}"
        return check_flag(field, self.get(*names, default=default))

    def expect(self, name: str, value: Any) -> None:
        """A field that this model type has in one way only: absent, or exactly that."""
        given = self.get(name, default=value)
        if given != value:
            raise ValueError(f"{self.where}: {name} must be {value!r} here, got {brief(given)}.")

    def ignore(self, *names: str) -> None:
        """Fields that the type carries and that change nothing that is counted here."""
        self._read.update(names)

    def nested(self, name: str) -> Fields:
        """The fields of an object inside the config."""
        value = self.get(name)
        if not isinstance(value, Mapping):
            raise ValueError(f"{self.where}: {name} must be an object, got {brief(value)}.")
        return Fields(value, f"{self.where}, {name}")

    def words(
        self, name: str, allowed: Mapping[Any, str] | None = None, *, default: Any = None,
        lengths: Sequence[int] = (),
    ) -> Any:  # fmt: skip
        """A list of one word per layer, or of one of these lengths, translated by `allowed`."""
        value = self.get(name, default=default)
        if value is None:
            return None
        lengths = lengths or (self.num_layers,)
        if not isinstance(value, list | tuple) or len(value) not in lengths:
            size = len(value) if isinstance(value, list | tuple) else value
            raise ValueError(f"{self.where}: {name} must have one entry for each of {lengths[0]} "
                             f"layers, got {brief(size)}.")  # fmt: skip
        if allowed is None:
            return list(value)
        for word in value:
            if word not in list(allowed):
                listed = ", ".join(map(str, allowed))
                raise ValueError(f"{self.where}: {name} must hold {listed}, got {brief(word)}.")
        return [allowed[word] for word in value]

    def layers(self, name: str, default: Sequence[int]) -> set[int]:
        """The layers that a list gives by number."""
        value = self.get(name, default=default)
        every = range(self.num_layers)
        # Whole numbers alone: a range is searched from its start for anything else.
        if not isinstance(value, list | tuple | range) or any(
            type(i) is not int or i not in every for i in value
        ):
            raise ValueError(
                f"{self.where}: {name} must hold layers in 0..{every[-1]}, got {brief(value)}."
            )
        return set(value)

    def finish(self) -> None:
        """ValueError for a structural field that is set and that nobody has read."""
        for name in sorted(STRUCTURAL - self._read):
            if value := self.config.get(name):
                raise ValueError(
                    f"{self.where}: {name} = {brief(value)} is not understood for this model type, "
                    "and may change what is counted."
                )

    # The sizes that every decoder has, by the names in use.

    @property
    def d_model(self) -> int:
        return self.whole("hidden_size", "n_embd", "d_model")

    @property
    def num_layers(self) -> int:
        return self.whole("num_hidden_layers", "n_layer", "n_layers", high=MOST_LAYERS)

    @property
    def heads(self) -> int:
        return self.whole("num_attention_heads", "n_head", "n_heads")

    @property
    def context(self) -> int | None:
        names = ("max_position_embeddings", "n_positions", "max_seq_len")
        return self.whole(*names, default=None)
