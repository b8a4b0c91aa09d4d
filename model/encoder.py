"""What an encoder_decoder reads its source with, and what of a shape makes sense for it. Needs no jax."""

import functools
from dataclasses import dataclass, fields, replace
from typing import Any

from kleiber.fields import check_fields


@dataclass(frozen=True)
class EncoderConfig:
    """The side of an encoder_decoder that reads the source. Its layers are those of the decoder in all else."""

    num_layers: int = 2
    """Layer blocks of the encoder; ModelConfig.num_layers counts those of the decoder."""
    seq_len: int = 128
    """Tokens of source in a row, in training and evaluation; ModelConfig.seq_len counts those of the target."""

    def __post_init__(self) -> None:
        check_fields(self, num_layers="[1, inf)", seq_len="[1, inf)")


@functools.lru_cache(maxsize=256)
def parts(config: Any) -> tuple[Any, Any]:
    """Returns the shapes of the encoder and of the decoder of a ModelConfig of the family encoder_decoder, each as if
    it stood alone: the attention from one to the other is part of neither."""
    encoder, decoder = config.encoder, replace(config, family="decoder", encoder=None)
    sizes = {"num_layers": encoder.num_layers, "seq_len": encoder.seq_len}
    return replace(config, family="encoder", encoder=None, **sizes), decoder


UNFIT = ("has_next_token_mix", "experts", "compression", "adapter", "image")
"""Fields that an encoder_decoder has not."""


def check_encoder(config: Any) -> None:
    """Checks that family and encoder of a ModelConfig fit each other and the rest. Raises ValueError that says what to
    change."""
    encoder, family = config.encoder, config.family
    if (encoder is None) == (family == "encoder_decoder"):
        wants = "set encoder=EncoderConfig(num_layers, seq_len)" if encoder is None else "leave encoder out"
        raise ValueError(f"family '{family}' with encoder {encoder}: {wants}, or choose another family.")
    if encoder is None:
        return
    defaults = {field.name: field.default for field in fields(config)}
    for name in UNFIT:
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"{name} is {getattr(config, name)!r}, which an {family} has not: leave it out.")
    if config.positions != "rotary":
        raise ValueError(
            f"positions '{config.positions}' with family '{family}', whose target goes on counting where its source "
            f"ends; use positions='rotary'."
        )
    if config.remat_keeps != "nothing":
        raise ValueError(f"remat_keeps is '{config.remat_keeps}' with family '{family}', which keeps nothing; drop it.")
