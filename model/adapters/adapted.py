"""A weight that stays as it is, and small weights beside it: LoRA, DoRA and the bottleneck.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds x A B alpha / rank to x W. DoRA (Liu et al. 2024, arXiv:2402.09353) then
gives each output the length m |W_f| in place of |(W + A B alpha / rank)_f|, which has no gradient there (section 4.3);
here m is relative, so that it starts at one whatever W is. The bottleneck (Houlsby et al. 2019, arXiv:1902.00751) adds
gelu(y N) U to y = x W. All start as if they were not there: B and U at zero.

D inputs, F outputs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.config import AdapterConfig

Multiply = Callable[[jax.Array, nnx.Param], jax.Array]
Shape = tuple[int, ...]
Axes = tuple[str | None, ...]
SMALL = frozenset(("lora_a", "lora_b", "magnitude", "narrow", "widen"))
"""The names of weights beside others."""


def beside(adapter: AdapterConfig, shape: Shape, axes: Axes) -> dict[str, tuple[Shape, Axes]]:
    """Returns (shape, logical axes) of each small weight beside a matrix [D, F] of these axes, by name."""
    (inputs, outputs), (of_inputs, of_outputs), rank = shape, axes, adapter.rank
    if adapter.kind == "bottleneck":
        return {"narrow": ((outputs, rank), (of_outputs, None)), "widen": ((rank, outputs), (None, of_outputs))}
    found: dict[str, tuple[Shape, Axes]] = {
        "lora_a": ((inputs, rank), (of_inputs, None)),
        "lora_b": ((rank, outputs), (None, of_outputs)),
    }
    return found | ({"magnitude": ((outputs,), (of_outputs,))} if adapter.kind == "dora" else {})


class Adapted(nnx.Module):
    """A weight, `base`, and the small ones beside it by their names."""

    def __init__(self, base: nnx.Param, small: Mapping[str, nnx.Param]):
        self.base = base
        for name, weight in small.items():
            setattr(self, name, weight)


def product_with(
    adapter: AdapterConfig, x: jax.Array, weight: Any, multiply: Multiply, read: Callable[..., jax.Array]
) -> jax.Array:
    """Returns the product of x [..., D] with an adapted weight, [..., F].

    Args:
      adapter: what stands beside it.
      x: of the compute dtype.
      weight: Adapted.
      multiply: of x and a plain weight.
      read: of a plain weight and a dtype.
    """
    y = multiply(x, weight.base)
    if adapter.kind == "bottleneck":
        return y + multiply(jax.nn.gelu(multiply(y, weight.narrow)), weight.widen)
    y = y + multiply(multiply(x, weight.lora_a), weight.lora_b) * (adapter.alpha / adapter.rank)
    if adapter.kind == "lora":
        return y
    base, a, b, magnitude = (
        read(each, jnp.float32) for each in (weight.base, weight.lora_a, weight.lora_b, weight.magnitude)
    )
    return y * (magnitude * _length_ratio(base, _moved(adapter, base, a, b))).astype(y.dtype)


def merged(adapter: AdapterConfig, weights: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the matrix [..., D, F] that gives what a matrix and the adapter beside it do, in its dtype."""
    base, a, b = (weights[name].astype(jnp.float32) for name in ("base", "lora_a", "lora_b"))
    moved = _moved(adapter, base, a, b)
    if adapter.kind == "dora":
        moved = moved * (weights["magnitude"] * _length_ratio(base, moved))[..., None, :]
    return moved.astype(weights["base"].dtype)


def _moved(adapter: AdapterConfig, base: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return base + jnp.matmul(a, b) * (adapter.alpha / adapter.rank)


def _length_ratio(base: jax.Array, moved: jax.Array) -> jax.Array:
    """Returns |W_f| over |W'_f| of each output [..., F], a constant to the gradient; 1 where both are zero."""
    before, after = (jax.lax.stop_gradient(jnp.linalg.norm(each, axis=-2)) for each in (base, moved))
    return jnp.where(after > 0, before / jnp.where(after > 0, after, 1.0), 1.0)
