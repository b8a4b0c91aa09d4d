"""What the backward pass computes again of a layer, and what is kept for it, by the names that the layers give."""

from collections.abc import Callable
from typing import Any

import jax

from kleiber.model.config import ModelConfig

ATTENTION = ("query", "key", "value", "attended", "attention_output")
PRODUCTS = (*ATTENTION, "router", "up", "gate", "down")


def with_recomputation(config: ModelConfig, run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns one layer as a pure function, with activations recomputed in the backward pass as config.has_remat says,
    all but those that config.remat_keeps names. cuDNN's attention gives its result no name and runs again."""
    policies = jax.checkpoint_policies
    if not config.has_remat:
        return run
    if config.remat_keeps == "nothing":
        return jax.checkpoint(run)
    if config.remat_keeps == "products_on_host":
        kept = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(PRODUCTS),
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        kept = policies.save_only_these_names(*(ATTENTION if config.remat_keeps == "attention" else PRODUCTS))
    return jax.checkpoint(run, policy=kept)
