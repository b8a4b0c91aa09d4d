"""The measured peak: how fast this machine multiplies matrices now, by NumPy's library and by XLA, in float32."""

import time
from collections.abc import Callable, Sequence
from typing import Any

SECONDS = 0.06
"""Time each size is repeated for."""


def numpy_rate(sizes: Sequence[int]) -> Callable[[], float]:
    """Returns a function that measures FLOP/s of NumPy's products, the best of some sizes."""
    import numpy as np

    def product(size: int) -> Callable[[], object]:
        a = np.ones((size, size), np.float32)
        return lambda: a @ a

    return _best({size: product(size) for size in sizes})


def xla_rate(sizes: Sequence[int], dtype: str = "float32") -> Callable[[], float]:
    """Returns a function that measures FLOP/s of XLA's products on the first device, the best of some sizes."""
    import jax
    import jax.numpy as jnp

    multiply = jax.jit(lambda a, b: a @ b)

    def product(size: int) -> Callable[[], object]:
        a = jnp.ones((size, size), dtype) / size
        return lambda: jax.block_until_ready(multiply(a, a))

    return _best({size: product(size) for size in sizes})


def _best(products: dict[int, Callable[[], Any]]) -> Callable[[], float]:
    for multiply in products.values():
        multiply()

    def measure() -> float:
        return max(_flops_per_second(size, multiply) for size, multiply in products.items())

    return measure


def _flops_per_second(size: int, multiply: Callable[[], object]) -> float:
    """The fastest single product, for as long as SECONDS: a peak is what the machine can do undisturbed."""
    fastest, deadline = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        multiply()
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * size**3 / fastest
