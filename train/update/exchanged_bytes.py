"""Bytes that keep replicas together. Needs no jax."""

from kleiber.model.counts import BYTES
from kleiber.train.config import TrainConfig
from kleiber.train.trained import num_params_trained


def exchanged_bytes(config: TrainConfig, num_steps: int) -> int:
    """Returns the bytes each replica sends in num_steps steps, measured at their end.

    A ring all-reduce of P bytes over M replicas sends 2 (M - 1) / M P from each. Without delayed synchronisation this
    counts the gradients of the mesh axis `data`, once a step; with it the outer gradients, once every H steps and for a
    part of H at the end, which is synchronised to be measured."""
    size = num_params_trained(config) * BYTES[config.model.param_dtype]
    replicas, exchanges = config.mesh.data, num_steps
    if delayed := config.delayed_sync:
        replicas, exchanges = delayed.num_replicas, -(-num_steps // delayed.num_inner_steps)
    return round(2 * (replicas - 1) / replicas * size) * exchanges
