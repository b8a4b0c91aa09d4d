"""The families of models, by the name that ModelConfig.family gives. Loads jax only when a module is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kleiber.model.config import ModelConfig
from kleiber.model.counts import Counts, count


@dataclass(frozen=True)
class ModelFamily:
    """What the rest of kleiber asks of a family; its weights are declared by its module."""

    module: Callable[[], Callable[..., Any]]
    """Returns the Flax module: made of (config, rngs), with `hidden` and `logits` as Transformer has them."""
    counts: Callable[[ModelConfig], Counts]
    """Returns the parameters and FLOPs of a shape."""


def _transformer() -> Callable[..., Any]:
    from kleiber.model.families.decoder import Transformer

    return Transformer


def _vision_transformer() -> Callable[..., Any]:
    from kleiber.model.families.vision_transformer import VisionTransformer

    return VisionTransformer


def _residual_network() -> Callable[..., Any]:
    from kleiber.model.families.residual_network import ResidualNetwork

    return ResidualNetwork


def _encoder_decoder() -> Callable[..., Any]:
    from kleiber.model.families.encoder_decoder import EncoderDecoder

    return EncoderDecoder


FAMILIES = {
    "decoder": ModelFamily(_transformer, count),
    "encoder": ModelFamily(_transformer, count),
    "vision_transformer": ModelFamily(_vision_transformer, count),
    "residual_network": ModelFamily(_residual_network, count),
    "encoder_decoder": ModelFamily(_encoder_decoder, count),
}
"""A row for each name of Family in model/config.py."""
