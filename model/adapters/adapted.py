"""A weight that stays as it is, and small weights beside it: LoRA, DoRA, AdaLoRA and the bottleneck, a row each.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds x A B alpha / rank to x W. DoRA (Liu et al. 2024, arXiv:2402.09353) then
gives each output the length m |W_f| in place of |(W + A B alpha / rank)_f|, which has no gradient there (section 4.3);
here m is relative, so that it starts at one whatever W is. AdaLoRA (Zhang et al. 2023, arXiv:2303.10512) adds
x P diag(lambda) Q alpha / rank: singular vectors that start and are kept near to orthonormal
(adapters/orthogonality.py), and values of which ever fewer are other than zero (train/update/budget.py). The bottleneck
(Houlsby et al. 2019, arXiv:1902.00751) adds gelu(y N) U to y = x W. All start as if they were not there: B, lambda and
U at zero.

D inputs, F outputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.adapter import AdapterConfig

Multiply = Callable[[jax.Array, nnx.Param], jax.Array]
Read = Callable[..., jax.Array]
Shape = tuple[int, ...]
Axes = tuple[str | None, ...]
PROMPT = "prompt"
"""The name of the vectors of virtual tokens, beside the table of tokens (adapters/prompt.py)."""
LEFT, VALUES, RIGHT = "left_vectors", "singular_values", "right_vectors"
"""Names of P, lambda and Q of AdaLoRA."""
SMALL = frozenset(("lora_a", "lora_b", "magnitude", "narrow", "widen", LEFT, VALUES, RIGHT, PROMPT))
"""The names of weights beside others."""


class Small(NamedTuple):
    """How a small weight is declared."""

    shape: Shape
    axes: Axes
    fan_in: int | None = None
    """Of its initial scale; None is its first size."""


class Adapted(nnx.Module):
    """A weight, `base`, and the small ones beside it by their names."""

    def __init__(self, base: nnx.Param, small: Mapping[str, nnx.Param]):
        self.base = base
        for name, weight in small.items():
            setattr(self, name, weight)


@dataclass(frozen=True)
class Kind:
    """One kind of small weights."""

    beside: Callable[[int, Shape, Axes], dict[str, Small]]
    """(rank, shape, axes) of a matrix -> the small weights beside it, by name."""
    product: Callable[[AdapterConfig, jax.Array, Any, Multiply, Read], jax.Array]
    """As product_with."""
    whole: Callable[[AdapterConfig, Mapping[str, jax.Array]], jax.Array] | None = None
    """(adapter, float32 weights by name) -> the matrix [..., D, F] that does the same; None where none does."""


def beside(adapter: AdapterConfig, shape: Shape, axes: Axes) -> dict[str, Small]:
    """Returns the small weights beside a matrix [D, F] of these logical axes, by name."""
    return KINDS[adapter.kind].beside(adapter.rank, shape, axes)


def product_with(adapter: AdapterConfig, x: jax.Array, weight: Any, multiply: Multiply, read: Read) -> jax.Array:
    """Returns the product of x [..., D] with an adapted weight, [..., F].

    Args:
      adapter: what stands beside it.
      x: of the compute dtype.
      weight: Adapted.
      multiply: of x and a plain weight.
      read: of a plain weight and a dtype.
    """
    return KINDS[adapter.kind].product(adapter, x, weight, multiply, read)


def merged(adapter: AdapterConfig, weights: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the matrix [..., D, F] that gives what a matrix and the adapter beside it do, in its dtype; of a kind of
    LOW_RANK."""
    whole = KINDS[adapter.kind].whole
    assert whole is not None, "the caller asks for a kind that can be merged"
    return whole(adapter, {name: each.astype(jnp.float32) for name, each in weights.items()}).astype(
        weights["base"].dtype
    )


def _pair(rank: int, shape: Shape, axes: Axes) -> dict[str, Small]:
    return {"lora_a": Small((shape[0], rank), (axes[0], None)), "lora_b": Small((rank, shape[1]), (None, axes[1]))}


def _lora(adapter: AdapterConfig, x: jax.Array, weight: Any, multiply: Multiply, read: Read) -> jax.Array:
    added = multiply(multiply(x, weight.lora_a), weight.lora_b)
    return multiply(x, weight.base) + added * (adapter.alpha / adapter.rank)


def _whole_lora(adapter: AdapterConfig, weights: Mapping[str, jax.Array]) -> jax.Array:
    return _moved(adapter, weights["base"], weights["lora_a"], weights["lora_b"])


def _pair_and_lengths(rank: int, shape: Shape, axes: Axes) -> dict[str, Small]:
    return _pair(rank, shape, axes) | {"magnitude": Small(shape[1:], axes[1:])}


def _dora(adapter: AdapterConfig, x: jax.Array, weight: Any, multiply: Multiply, read: Read) -> jax.Array:
    y = _lora(adapter, x, weight, multiply, read)
    base, a, b, magnitude = (
        read(each, jnp.float32) for each in (weight.base, weight.lora_a, weight.lora_b, weight.magnitude)
    )
    return y * (magnitude * _length_ratio(base, _moved(adapter, base, a, b))).astype(y.dtype)


def _whole_dora(adapter: AdapterConfig, weights: Mapping[str, jax.Array]) -> jax.Array:
    moved = _whole_lora(adapter, weights)
    return moved * (weights["magnitude"] * _length_ratio(weights["base"], moved))[..., None, :]


def _triplets(rank: int, shape: Shape, axes: Axes) -> dict[str, Small]:
    return {
        LEFT: Small((shape[0], rank), (axes[0], None)),
        VALUES: Small((rank,), (None,)),
        RIGHT: Small((rank, shape[1]), (None, axes[1]), fan_in=shape[1]),
    }


def _adalora(adapter: AdapterConfig, x: jax.Array, weight: Any, multiply: Multiply, read: Read) -> jax.Array:
    inner = multiply(x, weight.left_vectors) * read(weight.singular_values, x.dtype)
    return multiply(x, weight.base) + multiply(inner, weight.right_vectors) * (adapter.alpha / adapter.rank)


def _whole_adalora(adapter: AdapterConfig, weights: Mapping[str, jax.Array]) -> jax.Array:
    return _moved(adapter, weights["base"], weights[LEFT] * weights[VALUES][..., None, :], weights[RIGHT])


def _narrow_pair(rank: int, shape: Shape, axes: Axes) -> dict[str, Small]:
    return {"narrow": Small((shape[1], rank), (axes[1], None)), "widen": Small((rank, shape[1]), (None, axes[1]))}


def _bottleneck(adapter: AdapterConfig, x: jax.Array, weight: Any, multiply: Multiply, read: Read) -> jax.Array:
    y = multiply(x, weight.base)
    return y + multiply(jax.nn.gelu(multiply(y, weight.narrow)), weight.widen)


def _moved(adapter: AdapterConfig, base: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return base + jnp.matmul(a, b) * (adapter.alpha / adapter.rank)


def _length_ratio(base: jax.Array, moved: jax.Array) -> jax.Array:
    """Returns |W_f| over |W'_f| of each output [..., F], a constant to the gradient; 1 where both are zero."""
    before, after = (jax.lax.stop_gradient(jnp.linalg.norm(each, axis=-2)) for each in (base, moved))
    return jnp.where(after > 0, before / jnp.where(after > 0, after, 1.0), 1.0)


KINDS = {
    "lora": Kind(_pair, _lora, _whole_lora),
    "dora": Kind(_pair_and_lengths, _dora, _whole_dora),
    "adalora": Kind(_triplets, _adalora, _whole_adalora),
    "bottleneck": Kind(_narrow_pair, _bottleneck),
}
"""A row for each kind of AdapterConfig but `prompt`, which stands beside no matrix."""
