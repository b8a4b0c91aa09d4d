"""What a model of images reads, and what of a shape makes sense for it. Needs no jax."""

from dataclasses import dataclass, fields
from typing import Any

from kleiber.fields import check_fields

FILTER_SIDE = 3
"""Of the squares that the filters of a residual network look at."""
FILTER_PLACES = FILTER_SIDE**2


@dataclass(frozen=True)
class ImageConfig:
    """What a model of images reads, and how its family cuts it up."""

    side: int = 8
    """Pixels in a row and in a column of an image; both families take squares."""
    channels: int = 1
    """Numbers of a pixel, each from 0 to 255: 1 is grey, 3 is red, green and blue."""
    patch_size: int = 2
    """Side of the squares that are the tokens of a vision_transformer."""
    num_stages: int = 3
    """Of a residual_network: from one to the next the side halves and the width doubles."""

    def __post_init__(self) -> None:
        check_fields(self, **dict.fromkeys(("side", "channels", "patch_size", "num_stages"), "[1, inf)"))

    @property
    def num_patches(self) -> int:
        """Tokens of a vision_transformer."""
        return (self.side // self.patch_size) ** 2

    @property
    def patch_pixels(self) -> int:
        """Numbers of one patch."""
        return self.patch_size**2 * self.channels


@dataclass(frozen=True)
class ResidualShape:
    """One block of a residual network."""

    channels: int
    """Of the stream before it."""
    width: int
    """Of the stream after it, and inside it."""
    stride: int
    """Pixels of a row and of a column before it for each one after it."""
    side: int
    """Pixels in a row and in a column after it."""

    @property
    def has_shortcut(self) -> bool:
        """Whether a matrix fits the stream to what the block adds."""
        return self.stride > 1

    @property
    def num_params(self) -> int:
        """Of its two filters and the shortcut."""
        return (FILTER_PLACES * (self.channels + self.width) + self.has_shortcut * self.channels) * self.width


def residual_shapes(config: Any) -> list[ResidualShape]:
    """Returns the blocks of a ModelConfig of the family residual_network, in their order."""
    channels, side, shapes = config.d_model, config.image.side, []
    for number in range(config.num_layers):
        is_next_stage = number > 0 and number % (config.num_layers // config.image.num_stages) == 0
        stride, width = (2, 2 * channels) if is_next_stage else (1, channels)
        side //= stride
        shapes.append(ResidualShape(channels, width, stride, side))
        channels = width
    return shapes


OF_TOKENS = ("has_previous_token_mix", "has_next_token_mix")
OF_TRANSFORMERS = (
    *("num_kv_heads", "d_ff", "experts", "is_gated", "has_qk_norm", "positions", "dropout", "base_num_heads"),
    *("has_float8_products", "has_scanned_layers", "has_remat", "attention_kernel", "compression", "adapter"),
)
"""Fields that say nothing to a residual network."""


def check_image(config: Any) -> None:
    """Checks that family and image of a ModelConfig fit each other, and sets what follows from one target an image.
    Raises ValueError that says what to change."""
    image, family = config.image, config.family
    if (image is None) == (family in ("vision_transformer", "residual_network")):
        reads = "images: set image=ImageConfig(side, channels)" if image is None else "tokens: leave image out"
        raise ValueError(f"family '{family}' with image {image}: it reads {reads}, or choose another family.")
    if image is None:
        return
    defaults = {field.name: field.default for field in fields(config)}
    if config.seq_len not in (1, defaults["seq_len"]):
        raise ValueError(f"seq_len is {config.seq_len} with an image, which is one target: leave it out.")
    object.__setattr__(config, "seq_len", 1)
    object.__setattr__(config, "has_tied_head", False)
    idle = OF_TOKENS if config.has_attention else (*OF_TOKENS, *OF_TRANSFORMERS)
    for name in idle:
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"{name} is {getattr(config, name)!r}, which says nothing to a {family}: leave it out.")
    if config.has_attention:
        if image.side % image.patch_size:
            raise ValueError(
                f"image.patch_size {image.patch_size} does not divide image.side {image.side}; "
                f"choose one of {[n for n in range(1, image.side + 1) if image.side % n == 0]}."
            )
        if config.positions == "rotary" and config.d_head % 4:
            raise ValueError(
                f"rotary positions of images turn by row and by column and need d_model / num_heads to be a multiple "
                f"of 4, got {config.d_model} / {config.num_heads}; change num_heads or use positions='learned'."
            )
        return
    if config.num_layers % image.num_stages:
        raise ValueError(f"num_layers {config.num_layers} does not divide over image.num_stages {image.num_stages}.")
    if image.side % 2 ** (image.num_stages - 1):
        raise ValueError(
            f"image.side {image.side} cannot be halved {image.num_stages - 1} times, once between two of "
            f"image.num_stages {image.num_stages}; take fewer stages."
        )
