"""What products read while a model is traced: seen by whoever asks for it, in the order of the products."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_SEEN: ContextVar[list[tuple[str, jax.Array]] | None] = ContextVar("seen", default=None)


@contextmanager
def observing() -> Iterator[list[tuple[str, jax.Array]]]:
    """Gives a list to which every product of a weight in the with-block adds (its name, its input x [..., D])."""
    seen: list[tuple[str, jax.Array]] = []
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)


def observe(name: str, x: jax.Array) -> None:
    """Tells whoever observes that the weight of a name reads x."""
    if (seen := _SEEN.get()) is not None:
        seen.append((name, x))
