"""What training changes, and what members of one population may differ in."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.functional import abstract_params
from kleiber.train.config import TrainConfig
from kleiber.train.trained import separate
from kleiber.train.update import delayed_sync
from kleiber.train.update.delayed_sync import Outer
from kleiber.train.update.guard import LossWindow, empty_window
from kleiber.train.update.loss_scale import LossScale, first_scale
from kleiber.train.update.optimizer import Optimizer, make_optimizer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a step changes. A population has a leading member axis on every leaf; delayed synchronisation has a
    leading replica axis on params, opt_state, window and loss_scale."""

    params: Any
    opt_state: Any
    step: jax.Array
    """int32, optimizer steps done."""
    window: LossWindow | None = None
    """Of the spike rule, when it is on."""
    loss_scale: LossScale | None = None
    """With float16 products only."""
    outer: Outer | None = None
    """The common parameters, with delayed synchronisation only."""


def optimizer_of(config: TrainConfig) -> Optimizer:
    """Returns the optimizer of a trunk: of the weights that move, so that it holds no moment of another."""
    return make_optimizer(config.optimizer, config.model, separate(config, abstract_params(config.model))[0])


def start_state(config: TrainConfig, optimizer: Optimizer, params: Any) -> TrainState:
    """Returns the state of one member at step 0."""
    scale = first_scale() if config.model.compute_dtype == "float16" else None
    trained = (params, optimizer.init(separate(config, params)[0]), empty_window(config.guard), scale)
    outer = None
    if config.delayed_sync:
        outer = delayed_sync.start(config.delayed_sync, params)
        trained = delayed_sync.spread(config.delayed_sync, trained)
    params, opt_state, window, scale = trained
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32), window, scale, outer)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hyperparameters:
    """What members of one population may differ in without compiling again. float32 scalars, or [members]."""

    learning_rate: jax.Array
    weight_decay: jax.Array
