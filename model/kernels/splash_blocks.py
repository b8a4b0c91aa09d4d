"""The blocks of splash attention. Needs no jax."""

SPLASH_BLOCKS = (512, 256, 128)
"""Sides of the squares that splash attention computes whole or skips."""


def splash_blocks(length: int) -> tuple[int, int]:
    """Returns (the side of the squares of splash attention, the keys of a block of its backward pass, twice as many
    where that divides) for so many positions, filled up to a multiple of the smallest side.

    One backward kernel makes all gradients; that of the queries comes as a part for each block of keys, to be summed.
    """
    filled = -(-length // SPLASH_BLOCKS[-1]) * SPLASH_BLOCKS[-1]
    side = next(block for block in SPLASH_BLOCKS if filled % block == 0)
    return side, side if filled % (2 * side) else 2 * side
