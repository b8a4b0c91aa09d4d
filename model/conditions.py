"""What the fields of a ModelConfig must be like together. Needs no jax."""

from typing import Any


def check_ranks(config: Any) -> None:
    """Checks that the factors of compression.rank_share are smaller than their matrices. Raises ValueError if not."""
    compression = config.compression
    if (compression.is_low_rank or compression.rounding == "gptq") and (config.experts or config.adapter):
        what = "rank_share" if compression.is_low_rank else "rounding gptq"
        other = "experts" if config.experts else "adapter"
        raise ValueError(f"compression.{what} with model.{other}: it is of plain matrices alone; set one to None.")
    if not compression.is_low_rank:
        return
    if not config.ranks():
        named = config.compression.factored
        raise ValueError(f"compression.factored {named} names no matrix of this shape: gate needs is_gated=True.")
    for name, rank in config.ranks().items():
        inputs, outputs = config.matrix_shapes()[name]
        most = inputs * outputs // (inputs + outputs)
        if not 1 <= rank <= most:
            what = "is none" if rank < 1 else "changes nothing" if rank == min(inputs, outputs) else "makes it larger"
            raise ValueError(
                f"compression.rank_share {config.compression.rank_share:g} of the matrix {name} {inputs} x {outputs} "
                f"is a rank of {rank}, which {what}; expected ranks of 1 to {most}, shares of at most "
                f"{most / min(inputs, outputs):.3g}, or leave {name} out of compression.factored."
            )


def check_adapter(config: Any) -> None:
    """Checks that an adapter stands beside matrices that are larger than itself. Raises ValueError if not."""
    adapter = config.adapter
    if adapter is None:
        return
    if adapter.kind == "prompt":
        _check_prompt(config)
        return
    if config.experts:
        raise ValueError("model.adapter with model.experts: adapters stand beside plain matrices; set one to None.")
    shapes = {name: shape for name, shape in config.matrix_shapes().items() if name in adapter.matrices}
    if not shapes:
        raise ValueError(f"adapter.targets {adapter.targets} names no matrix of this shape: gate needs is_gated=True.")
    name, shape = min(shapes.items(), key=lambda item: min(item[1]))
    if adapter.rank >= min(shape):
        raise ValueError(
            f"adapter.rank {adapter.rank} is not below the {min(shape)} of the matrix {name} {shape[0]} x {shape[1]}: "
            f"training all of it costs no more; choose at most {min(shape) - 1}."
        )


def _check_prompt(config: Any) -> None:
    """Checks that rows can begin with virtual tokens. Raises ValueError if not."""
    if config.image is not None:
        raise ValueError(
            f"adapter.kind prompt with family '{config.family}': it stands in front of text; leave it out."
        )
    if config.num_virtual_tokens >= config.seq_len:
        raise ValueError(
            f"adapter.num_virtual_tokens {config.num_virtual_tokens} leaves no place for text in a window of "
            f"{config.seq_len}, when it is generated; choose fewer than seq_len."
        )
    if config.positions == "learned":
        raise ValueError(
            f"adapter.kind prompt with positions='learned', a table of {config.seq_len} places that the text takes up: "
            f"a start with rotary positions has room for {config.adapter.num_virtual_tokens} more."
        )
