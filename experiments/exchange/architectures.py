"""Which architecture of Hugging Face's a plain form is, and what it calls sizes, options and weights.

Sources: configuration_*.py and modeling_*.py of github.com/huggingface/transformers, src/transformers/models; what a
config.json leaves out has the default of its class there. A torch Linear holds [outputs, inputs], ours
[inputs, outputs]; the Conv1D of GPT-2 holds what we do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kleiber.model.config import Activation

Fields = Mapping[str, Any]
SHAPE = ("norm", "positions", "is_gated", "has_qk_norm")
"""Fields of a model by which its architecture is told, and whether it has experts."""
ACTIVATIONS: dict[Activation, str] = {"relu_squared": "relu2", "silu": "silu", "gelu": "gelu_pytorch_tanh"}
"""Ours and theirs."""
ALIKE: dict[str, Activation] = {
    **{theirs: ours for ours, theirs in ACTIVATIONS.items()},
    **{"gelu_new": "gelu", "swish": "silu"},
}
"""Theirs and ours; their `gelu` is another function than the tanh formula, which is ours."""
SIZES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "seq_len",
}
"""Keys of config.json that must be there, and the fields of a model that they are."""


@dataclass(frozen=True)
class Architecture:
    """One class of transformers, as far as a plain form can be it."""

    name: str
    """Of the class: `architectures` of config.json."""
    model_type: str
    shape: Fields
    """Fields of a model that are of this architecture."""
    weights: Mapping[str, str]
    """Our path to their name, each with {layer} in it, and {expert} where a weight is of all experts."""
    epsilon: str = "rms_norm_eps"
    """The key of norm_epsilon."""
    activation: str = "hidden_act"
    feed_forward: str = "intermediate_size"
    has_kv_heads: bool = True
    has_head_dim: bool = True
    """Whether num_key_value_heads, and head_dim, are keys of it."""
    is_tied: bool = False
    """The default of tie_word_embeddings."""
    is_turned: bool = True
    """Whether the matrices of a layer hold [outputs, inputs]."""
    keys: Fields = field(default_factory=dict)
    """Further keys, with the only value of each that a plain form can say."""
    defaults: Fields = field(default_factory=dict)
    """Published defaults of keys that a config.json may leave out."""
    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    num_experts: str = ""
    """The key of experts.num_experts; num_experts_per_tok are the active ones of all that have experts."""

    @property
    def has_experts(self) -> bool:
        """Whether its feed-forward is a mixture."""
        return bool(self.num_experts)


def _weights(norms: tuple[str, str], feed_forward: Fields, *more: str, biases: bool = False) -> dict[str, str]:
    """Returns the names of a model of Llama's kind.

    Args:
      norms: of a layer, before attention and before the feed-forward.
      feed_forward: our matrix to their module.
      *more: further modules of attention: q_norm, k_norm.
      biases: whether norms have them.
    """
    found = {"input/embedding": "model.embed_tokens.weight", "head": "lm_head.weight"}
    block = "model.layers.{layer}"
    places = {"blocks/{layer}/attention_norm": f"{block}.{norms[0]}", "final_norm": "model.norm"}
    places["blocks/{layer}/feed_forward_norm"] = f"{block}.{norms[1]}"
    for ours, theirs in places.items():
        found[f"{ours}/gain"] = f"{theirs}.weight"
        if biases:
            found[f"{ours}/bias"] = f"{theirs}.bias"
    ours_theirs = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    ours_theirs |= {{"q_norm": "query_gain", "k_norm": "key_gain"}[each]: each for each in more}
    for ours, theirs in ours_theirs.items():
        found[f"blocks/{{layer}}/attention/{ours}"] = f"{block}.self_attn.{theirs}.weight"
    for ours, theirs in feed_forward.items():
        found[f"blocks/{{layer}}/feed_forward/{ours}"] = f"{block}.{theirs}.weight"
    return found


USUAL_NORMS = ("input_layernorm", "post_attention_layernorm")
PLAIN = {"up": "mlp.up_proj", "down": "mlp.down_proj"}
GATED = PLAIN | {"gate": "mlp.gate_proj"}
ROTARY = {"positions": "rotary", "norm": "rmsnorm"}
NO_BIAS = {"attention_bias": False, "mlp_bias": False}

LLAMA = Architecture(
    "LlamaForCausalLM",
    "llama",
    {**ROTARY, "is_gated": True, "has_qk_norm": False},
    _weights(USUAL_NORMS, GATED),
    keys=NO_BIAS,
    defaults={"hidden_act": "silu", "rms_norm_eps": 1e-6},
)
ARCEE = Architecture(
    "ArceeForCausalLM",
    "arcee",
    {**ROTARY, "is_gated": False, "has_qk_norm": False},
    _weights(USUAL_NORMS, PLAIN),
    keys=NO_BIAS,
    defaults={"hidden_act": "relu2", "rms_norm_eps": 1e-5},
)
QWEN3 = Architecture(
    "Qwen3ForCausalLM",
    "qwen3",
    {**ROTARY, "is_gated": True, "has_qk_norm": True},
    _weights(USUAL_NORMS, GATED, "q_norm", "k_norm"),
    keys={"attention_bias": False, "use_sliding_window": False},
    defaults={"hidden_act": "silu", "head_dim": 128, "num_key_value_heads": 32, "rms_norm_eps": 1e-6},
)
APERTUS = Architecture(
    "ApertusForCausalLM",
    "apertus",
    {**ROTARY, "is_gated": False, "has_qk_norm": True},
    _weights(("attention_layernorm", "feedforward_layernorm"), PLAIN, "q_norm", "k_norm"),
    keys={"attention_bias": False},
    defaults={"hidden_act": "xielu", "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "llama3"}},
)
STARCODER2 = Architecture(
    "Starcoder2ForCausalLM",
    "starcoder2",
    {"positions": "rotary", "norm": "layernorm", "is_gated": False, "has_qk_norm": False},
    _weights(USUAL_NORMS, {"up": "mlp.c_fc", "down": "mlp.c_proj"}, biases=True),
    epsilon="norm_epsilon",
    has_head_dim=False,
    is_tied=True,
    keys={"use_bias": False, "sliding_window": None},
    defaults={"hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "use_bias": True, "num_key_value_heads": 2},
)
STABLELM = Architecture(
    "StableLmForCausalLM",
    "stablelm",
    {"positions": "rotary", "norm": "layernorm", "is_gated": True, "has_qk_norm": False},
    _weights(USUAL_NORMS, GATED, biases=True),
    epsilon="layer_norm_eps",
    has_head_dim=False,
    keys={
        "use_qkv_bias": False,
        "qk_layernorm": False,
        "use_parallel_residual": False,
        "partial_rotary_factor": 1.0,
    },
    defaults={
        **{"hidden_act": "silu", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "num_key_value_heads": 32},
    },
)
MIXTRAL = Architecture(
    "MixtralForCausalLM",
    "mixtral",
    {**ROTARY, "is_gated": True, "has_qk_norm": False},
    _weights(
        USUAL_NORMS,
        {"router": "block_sparse_moe.gate"}
        | {
            ours: f"block_sparse_moe.experts.{{expert}}.{w}"
            for ours, w in (("up", "w3"), ("gate", "w1"), ("down", "w2"))
        },
    ),
    keys={"sliding_window": None},
    defaults={"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0, "num_key_value_heads": 8},
    num_experts="num_local_experts",
)
QWEN3_MOE = Architecture(
    "Qwen3MoeForCausalLM",
    "qwen3_moe",
    {**ROTARY, "is_gated": True, "has_qk_norm": True},
    _weights(
        USUAL_NORMS,
        {"router": "mlp.gate"} | {name: f"mlp.experts.{{expert}}.{name}_proj" for name in ("up", "gate", "down")},
        *("q_norm", "k_norm"),
    ),
    feed_forward="moe_intermediate_size",
    keys={"attention_bias": False, "use_sliding_window": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
    defaults={"hidden_act": "silu", "rms_norm_eps": 1e-6, "num_key_value_heads": 4},
    num_experts="num_experts",
)
_H = "transformer.h.{layer}"
GPT2 = Architecture(
    "GPT2LMHeadModel",
    "gpt2",
    {"positions": "learned", "norm": "layernorm", "is_gated": False, "has_qk_norm": False},
    {
        "input/embedding": "transformer.wte.weight",
        "input/positions": "transformer.wpe.weight",
        "head": "lm_head.weight",
        **{
            f"final_norm/{ours}": f"transformer.ln_f.{theirs}"
            for ours, theirs in (("gain", "weight"), ("bias", "bias"))
        },
        **{
            f"blocks/{{layer}}/{norm}/{ours}": f"{_H}.{name}.{theirs}"
            for norm, name in (("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2"))
            for ours, theirs in (("gain", "weight"), ("bias", "bias"))
        },
        "blocks/{layer}/attention/qkv": f"{_H}.attn.c_attn.weight",
        "blocks/{layer}/attention/output": f"{_H}.attn.c_proj.weight",
        "blocks/{layer}/feed_forward/up": f"{_H}.mlp.c_fc.weight",
        "blocks/{layer}/feed_forward/down": f"{_H}.mlp.c_proj.weight",
    },
    epsilon="layer_norm_epsilon",
    activation="activation_function",
    feed_forward="n_inner",
    has_kv_heads=False,
    has_head_dim=False,
    is_tied=True,
    is_turned=False,
    keys={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False},
    defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "n_inner": None},
    sizes={
        "n_embd": "d_model",
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "vocab_size": "vocab_size",
        "n_positions": "seq_len",
    },
)

ARCHITECTURES = (LLAMA, ARCEE, QWEN3, APERTUS, STARCODER2, STABLELM, GPT2, MIXTRAL, QWEN3_MOE)
"""Each is the only one of its shape."""
MISTRAL = {"sliding_window": 4096, "num_key_value_heads": 8}
SAME = {"MistralForCausalLM": (LLAMA, {"sliding_window": None}, MISTRAL)}
"""Classes that compute what another does, with the keys that must have one value, and their published defaults."""
