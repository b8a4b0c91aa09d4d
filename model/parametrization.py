"""How initial scales, multipliers and optimizer settings follow width and depth: one table for each parametrization.

Every weight has a role, read from its name. A rule of a role says how the weight starts, what its product is multiplied
by, and how the optimizer treats it, all relative to the base shape at which the learning rate was chosen:

    step:   p <- p - lr(t) * learning_rate * adam(g, epsilon * config_epsilon) - lr(t) * decay * weight_decay * p

so weight decay follows the schedule and not the width, and learning rate times decay is the same at every width.

Sources: `mup` Yang et al. 2022 (arXiv:2203.03466), table 8, with zero queries and a zero head as its appendix D.2
suggests; `completep` Dey et al. 2025 (arXiv:2505.01618), table 1 with alpha = 1; `standard` the initialisation of
GPT-2 (Radford et al. 2019) with 1/sqrt(fan_in) in place of its fixed .02 for hidden matrices; `inverse_width` is our
own, measured against muP on small byte models. There the previous-token mix keeps one learning rate at all widths,
as every vector does: its entries are of order one whatever the width, so their steps must be too. So it is with the
first matrix of images (`pixels`), whose inputs are as many at every width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax

from kleiber.model.config import ModelConfig
from kleiber.model.encoder import parts

Role = Literal[
    "embedding", "pixels", "positions", "query", "hidden", "output", "router", "head", "gain", "bias", "mix",
    "adapter_in", "adapter_out", "singular_values", "prompt",
]  # fmt: skip

ROLE_OF_WEIGHT: dict[str, Role] = {
    "embedding": "embedding",  # input table, and the head when tied
    "pixels": "pixels",  # from the numbers of a patch, or of a pixel and its neighbours, to the stream
    "positions": "positions",  # learned table of positions
    "query": "query",
    "key": "hidden",
    "value": "hidden",
    "up": "hidden",
    "gate": "hidden",
    "output": "output",  # of attention, back to the residual stream
    "down": "output",  # of feed-forward, back to the residual stream
    "shortcut": "hidden",  # of a residual network, where the width changes
    "router": "router",  # scores of the experts
    "left": "hidden",  # the first factor of a matrix of low rank; the second has the role of the matrix
    "head": "head",
    "gain": "gain",
    "query_gain": "gain",  # of the norms of queries and keys
    "key_gain": "gain",
    "bias": "bias",
    "mix": "mix",
    "next_mix": "mix",
    "lora_a": "adapter_in",
    "lora_b": "adapter_out",
    "magnitude": "gain",  # of DoRA, over the length that the weight had
    "narrow": "adapter_in",
    "widen": "adapter_out",
    "left_vectors": "adapter_in",  # of AdaLoRA
    "right_vectors": "adapter_in",
    "singular_values": "singular_values",
    "prompt": "prompt",  # a table of virtual tokens, as that of tokens
}
BASE = "base"
"""The name of a weight that an adapter stands beside, in the folder of its own name."""
SOURCE = "source"
"""The folder of the weights that read the source of an encoder_decoder."""
RIGHT = "right"
"""The name of the second factor of a matrix of low rank, in the folder of the matrix's own name."""


@dataclass(frozen=True)
class Rule:
    """How the weights of one role start and move. Matrices are [fan_in, fan_out]; tables are [entries, d_model]."""

    init_scale: float
    """Standard deviation of the initial entries, before init_power."""
    learning_rate: float
    """Factor on the scheduled learning rate."""
    weight_decay: float
    """Factor on the weight decay, per unit of scheduled base learning rate; 0 for weights that never decay."""
    epsilon: float = 1.0
    """Factor on Adam's epsilon."""
    init_power: float = 0.0
    """The initial standard deviation is init_scale * fan_in ** init_power."""
    init_mean: float = 0.0
    """Mean of the initial entries."""
    multiplier: float = 1.0
    """Factor on what the weight gives: the embedding, the output of a block, or the logits."""

    def init_std(self, fan_in: int) -> float:
        """Returns the standard deviation of the initial entries of a matrix with this fan-in."""
        return self.init_scale * fan_in**self.init_power


def name_of(path: tuple[Any, ...]) -> str:
    """Returns the key of ROLE_OF_WEIGHT of a weight, by its path in the tree."""
    return path[-2 if path[-1].key in (BASE, RIGHT) else -1].key


def rules(config: ModelConfig) -> dict[Role, Rule]:
    """Returns the rule of every role for a shape. The `head` multiplier applies to the logits whether the head is tied
    or not; a tied head is the embedding and starts and moves as `embedding` says.

    Of an adapter the first matrix starts and moves as a hidden one, the second at zero with one learning rate at all
    widths: its inputs are few and of order one (Hayou et al. 2024, arXiv:2402.12354). The singular values of AdaLoRA
    stand between vectors of length one, whose entries are of order d_model**-.5, and take steps longer by so much."""
    width = config.d_model / config.base_d_model
    depth = config.num_layers / config.base_num_layers
    vectors: dict[Role, Rule] = {
        "gain": Rule(0.0, learning_rate=1.0, weight_decay=0.0, init_mean=1.0),
        "bias": Rule(0.0, learning_rate=1.0, weight_decay=0.0),
        "mix": Rule(0.0, learning_rate=1.0, weight_decay=0.0, init_mean=0.5),
    }
    is_mup = config.parametrization in ("mup", "completep")
    pixels = Rule(1.0, learning_rate=1.0, weight_decay=1.0, epsilon=1 / width if is_mup else 1.0, init_power=-0.5)
    if config.parametrization == "standard":
        matrices = _standard(config.num_layers)
    elif config.parametrization == "inverse_width":
        matrices = _inverse_width(config.d_model, width, depth)
    elif config.parametrization == "mup":
        matrices = _mup(config.base_d_model, width, branch=1.0, depth_epsilon=1.0)
    else:
        matrices = _mup(config.base_d_model, width, branch=1 / depth, depth_epsilon=1 / depth)
    adapters: dict[Role, Rule] = {
        "adapter_in": matrices["hidden"],
        "adapter_out": Rule(0.0, learning_rate=1.0, weight_decay=1.0),
        "singular_values": Rule(0.0, learning_rate=config.d_model**0.5, weight_decay=0.0),
        "prompt": matrices["embedding"],
    }
    return vectors | matrices | adapters | {"pixels": pixels}


def _standard(num_layers: int) -> dict[Role, Rule]:
    """GPT-2: one learning rate for all; outputs of blocks shrunk so that the residual stream stays of order one."""
    hidden = Rule(1.0, learning_rate=1.0, weight_decay=1.0, init_power=-0.5)
    return {
        "embedding": Rule(0.02, learning_rate=1.0, weight_decay=0.0),
        "positions": Rule(0.02, learning_rate=1.0, weight_decay=0.0),
        "query": hidden,
        "hidden": hidden,
        "output": Rule((2 * num_layers) ** -0.5, learning_rate=1.0, weight_decay=1.0, init_power=-0.5),
        "router": hidden,
        "head": hidden,
    }


def _inverse_width(d_model: int, width: float, depth: float) -> dict[Role, Rule]:
    """The learning rate of every matrix goes as 1 / d_model; the embedding has unit-norm rows, times sqrt(d_model)."""
    table = Rule(d_model**-0.5, learning_rate=1 / width, weight_decay=0.0, multiplier=d_model**0.5)
    hidden = Rule(1.0, learning_rate=1 / width, weight_decay=1.0, init_power=-0.5)
    return {
        "embedding": table,
        "positions": table,
        "query": hidden,
        "hidden": hidden,
        "output": Rule(0.0, learning_rate=1 / width, weight_decay=1.0, multiplier=depth**-0.5),
        "router": hidden,
        "head": hidden,
    }


def _mup(base_d_model: int, width: float, branch: float, depth_epsilon: float) -> dict[Role, Rule]:
    """Tables keep one learning rate, hidden matrices 1 / width; equal to inverse_width at the base shape when tied."""
    epsilon = 1 / width
    block_epsilon = epsilon * depth_epsilon
    table = Rule(base_d_model**-0.5, learning_rate=1.0, weight_decay=0.0, epsilon=epsilon, multiplier=base_d_model**0.5)
    hidden = Rule(1.0, learning_rate=1 / width, weight_decay=1.0, epsilon=block_epsilon, init_power=-0.5)
    zero = {"learning_rate": 1 / width, "weight_decay": 1.0, "epsilon": block_epsilon}
    return {
        "embedding": table,
        "positions": table,
        "query": Rule(0.0, **zero),
        "hidden": hidden,
        "output": Rule(0.0, **zero, multiplier=branch),
        # Few outputs, many inputs, as a head; not zero, for ties would send every token to the same experts.
        "router": Rule(base_d_model**0.5, **zero, init_power=-1.0),
        "head": Rule(0.0, learning_rate=1.0, weight_decay=1.0, epsilon=epsilon, multiplier=1 / width),
    }


def attention_scale(config: ModelConfig) -> float:
    """Returns the factor on query-key products: 1 / sqrt(d_head), or sqrt(base d_head) / d_head for muP and CompleteP.

    Source: Yang et al. 2022, definition 4.1: trained queries and keys align, so their product grows as d_head.
    """
    if config.parametrization in ("mup", "completep"):
        return config.base_d_head**0.5 / config.d_head
    return config.d_head**-0.5


def _map_rules(config: ModelConfig, params: Any, field: str) -> Any:
    """Returns a tree like params that holds one field of each weight's rule."""
    own, encoder = rules(config), rules(parts(config)[0]) if config.encoder else {}

    def of_path(path: tuple, _: Any) -> float:
        name = name_of(path)
        table = encoder if path[0].key == SOURCE else own
        if name not in ROLE_OF_WEIGHT:
            raise ValueError(f"weight {jax.tree_util.keystr(path)} has no role; known names: {sorted(ROLE_OF_WEIGHT)}.")
        return getattr(table[ROLE_OF_WEIGHT[name]], field)

    return jax.tree_util.tree_map_with_path(of_path, params)


def learning_rate_multipliers(config: ModelConfig, params: Mapping) -> Any:
    """Returns the factor on the scheduled learning rate of each weight, as a tree of floats like params."""
    return _map_rules(config, params, "learning_rate")


def weight_decay_multipliers(config: ModelConfig, params: Mapping) -> Any:
    """Returns the factor on decay times scheduled base learning rate of each weight, as a tree of floats."""
    return _map_rules(config, params, "weight_decay")


def weight_decay_mask(config: ModelConfig, params: Mapping) -> Any:
    """Returns whether each weight decays at all, as a tree of booleans like params (optax's `mask`)."""
    return jax.tree.map(bool, weight_decay_multipliers(config, params))


def epsilon_multipliers(config: ModelConfig, params: Mapping) -> Any:
    """Returns the factor on Adam's epsilon of each weight, as a tree of floats like params."""
    return _map_rules(config, params, "epsilon")
