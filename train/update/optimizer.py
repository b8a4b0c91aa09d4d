"""The update direction of each parameter, by optax; the model's parametrisation scales it leaf by leaf."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kleiber.model.adapter import AdapterConfig
from kleiber.model.compress.tree import is_pruned
from kleiber.model.config import ModelConfig
from kleiber.model.parametrization import (
    epsilon_multipliers,
    learning_rate_multipliers,
    weight_decay_mask,
    weight_decay_multipliers,
)
from kleiber.model.selection import select
from kleiber.train.config import OptimizerConfig
from kleiber.train.update.budget import sensitivity, within_budget

TINY = 1e-30
"""A direction shorter than this leaves a matrix of fixed norm where it is."""


@dataclass(frozen=True)
class Optimizer:
    """A direction from optax, and per-leaf multipliers of the learning rate and of the decay.

    One step is params - learning_rate * (rate_multiplier * direction + weight_decay * decay_multiplier * params): the
    learning rate and the decay are plain arrays, so a sweep over them compiles once. A matrix W of fixed norm R goes to
    R normalise(W - learning_rate * rate_multiplier * R normalise(direction)) instead (arXiv:2606.16899).
    """

    direction: optax.GradientTransformation
    rate_multipliers: Any
    decay_multipliers: Any
    keeps_zeros: Any
    """Of which weights an entry that is zero stays zero: those that were pruned."""
    fixed_norms: Any
    """Which weights keep their norm: matrices [..., D, F], each for itself."""
    adapter: AdapterConfig | None = None
    """Whose singular values have a budget; their Sensitivity is the first part of the state."""

    def init(self, params: Any) -> Any:
        """Returns the optimizer state of params."""
        return self.direction.init(params)

    def update(self, grads: Any, state: Any, params: Any, rate: jax.Array, decay: jax.Array) -> tuple[Any, Any]:
        """Returns (new params, new state) after one step; rate is the float32 base learning rate as scheduled, decay
        the weight decay per unit of it."""
        directions, state = self.direction.update(grads, state, params)

        def step(param, direction, rate_multiplier, decay_multiplier, keeps_zeros, has_fixed_norm):
            if has_fixed_norm:
                norm = _norm(param)
                moved = param - rate * rate_multiplier * norm * direction / jnp.maximum(_norm(direction), TINY)
                stepped = (moved * (norm / _norm(moved))).astype(param.dtype)
                return jnp.where(param == 0, param, stepped) if keeps_zeros else stepped
            change = rate_multiplier * direction
            if decay_multiplier:
                change += decay * decay_multiplier * param
            stepped = (param - rate * change).astype(param.dtype)
            return jnp.where(param == 0, param, stepped) if keeps_zeros else stepped

        factors = (self.rate_multipliers, self.decay_multipliers, self.keeps_zeros, self.fixed_norms)
        params = jax.tree.map(step, params, directions, *factors)
        return within_budget(self.adapter, params, state[0]) if self.adapter else params, state


def make_optimizer(config: OptimizerConfig, model: ModelConfig, params: Any) -> Optimizer:
    """Returns the optimizer of a model, scaled by its parametrisation and its groups.

    Args:
      config: constants.
      model: the shape.
      params: the weights that move, None in place of the others; may be shapes alone.

    Raises:
      ValueError: a group means no weight.
    """
    adapter = model.adapter if model.adapter and model.adapter.kind == "adalora" else None
    steps = [sensitivity()] if adapter else []
    steps += [] if config.clip_norm is None else [_clip(config.clip_norm)]
    direction = optax.chain(*steps, _direction(config, model, params))
    rates = _with_groups(config, model, learning_rate_multipliers(model, params))
    factors = (rates, weight_decay_multipliers(model, params))
    return Optimizer(direction, *factors, is_pruned(model, params), _of_fixed_norm(config, model, params), adapter)


def _of_fixed_norm(config: OptimizerConfig, model: ModelConfig, params: Any) -> Any:
    """Returns a tree of whether each weight keeps its norm: the matrices that would decay."""
    decays = weight_decay_multipliers(model, params)
    return jax.tree.map(lambda decay, p: bool(config.has_fixed_norms and decay and p.ndim >= 2), decays, params)


def _norm(matrices: jax.Array) -> jax.Array:
    """Returns the Frobenius norm of each matrix of an array [..., D, F], [..., 1, 1] of float32."""
    return jnp.sqrt(jnp.sum(jnp.square(matrices.astype(jnp.float32)), axis=(-2, -1), keepdims=True))


def _with_groups(config: OptimizerConfig, model: ModelConfig, rates: Any) -> Any:
    """Returns the tree of rate multipliers, each times the factor of the first group that means its weight."""
    if not config.groups:
        return rates
    factors = {path: factor for word, factor in reversed(config.groups) for path in select(model, word)}

    def of_leaf(path: Any, rate: float) -> float:
        return rate * factors.get(jax.tree_util.keystr(path, simple=True, separator="/"), 1.0)

    return jax.tree_util.tree_map_with_path(of_leaf, rates)


def _clip(max_norm: float) -> optax.GradientTransformation:
    """Gradients times min(1, max_norm / their global norm), as one factor: optax divides each array, and compiling that
    took a sixth of the compilation of a small model."""

    def clip(grads: Any, params: Any) -> Any:
        del params
        factor = jnp.minimum(1.0, max_norm / optax.global_norm(grads))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

    return optax.stateless(clip)


def _direction(config: OptimizerConfig, model: ModelConfig, params: Any) -> optax.GradientTransformation:
    if config.name == "sgd":
        return optax.trace(decay=config.beta1, nesterov=False)
    if config.name == "adafactor":
        return optax.chain(optax.scale_by_factored_rms(decay_rate=0.8), optax.clip_by_block_rms(1.0))
    adam = _adam(config, epsilon_multipliers(model, params))
    if config.name == "adamw":
        return adam
    labels = jax.tree.map(
        lambda is_hidden, p: "muon" if is_hidden and p.ndim >= 2 else "adam", weight_decay_mask(model, params), params
    )
    return optax.partition({"muon": _muon(config), "adam": adam}, labels)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Orthogonalised momentum of the hidden matrices (Jordan et al. 2024), each entry brought to the root mean square
    0.2 of a typical Adam step so that one learning rate serves both (Liu et al. 2025, arXiv:2502.16982, eq. 4)."""
    from optax.contrib import MuonDimensionNumbers, scale_by_muon

    def dimensions(tree: Any) -> Any:  # the last two axes are the matrix; scanned layers have one more in front
        return jax.tree.map(lambda leaf: MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1), tree)

    def match_adam(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda u: u * (0.2 * max(u.shape[-2:]) ** 0.5), updates)

    orthogonal = scale_by_muon(beta=config.beta1, weight_dimension_numbers=dimensions)
    return optax.chain(orthogonal, optax.stateless(match_adam))


def _adam(config: OptimizerConfig, multipliers: Any) -> optax.GradientTransformation:
    def one(multiplier: float) -> optax.GradientTransformation:
        return optax.scale_by_adam(config.beta1, config.beta2, eps=config.epsilon * multiplier, mu_dtype=jnp.float32)

    distinct = sorted(set(jax.tree.leaves(multipliers)))
    if len(distinct) == 1:
        return one(distinct[0])
    return optax.partition({m: one(m) for m in distinct}, multipliers)
