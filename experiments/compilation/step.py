"""One training step compiled for devices that may not exist, on abstract state."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kleiber.experiments.terminal import working
from kleiber.parallel.mesh import use_mesh
from kleiber.train.config import TrainConfig
from kleiber.train.placement import abstract_batches, abstract_held, abstract_state, state_shardings
from kleiber.train.state import Hyperparameters, optimizer_of
from kleiber.train.step import compile_steps
from kleiber.train.update.optimizer import Optimizer

_UNITS = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
_SIZE = r"([\d.]+)([KMGT]?)i?B?"


class OutOfMemory(Exception):
    """The compiler refused a program that does not fit.

    Attributes:
      needed_bytes: per device, or None where the compiler names no figure.
      available_bytes: alike.
    """

    def __init__(self, message: str):
        super().__init__(message)
        pairs = (rf"Used {_SIZE} of {_SIZE} hbm", rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)")
        match = next((m for pattern in pairs if (m := re.search(pattern, message))), None)
        self.needed_bytes = float(match[1]) * _UNITS[match[2]] if match else None
        self.available_bytes = float(match[3]) * _UNITS[match[4]] if match else None

    @property
    def reason(self) -> str:
        """What is missing, in one line."""
        if self.needed_bytes is None or self.available_bytes is None:
            return str(self).splitlines()[0]
        needed, there = self.needed_bytes / 1e9, self.available_bytes / 1e9
        return f"needs {needed:.2f} GB a device, there are {there:.2f} GB: {needed - there:.2f} GB too much"


@dataclass(frozen=True)
class CompiledStep:
    """A compiled step and how long it took."""

    compiled: Any
    is_quick: bool
    """Whether the compiler was told to spend little on the speed of the program."""
    lower_seconds: float
    compile_seconds: float


def state_bytes(config: TrainConfig, mesh: Mesh) -> int:
    """Returns the bytes of parameters, optimizer state and counters on one device, exactly, from the shardings."""
    state = abstract_state(config, optimizer_of(config))
    shardings = state_shardings(config, mesh, state)

    def of_leaf(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> int:
        return math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, state, shardings)))


def step_arguments(config: TrainConfig, optimizer: Optimizer, mesh: Mesh, num_members: int = 1) -> tuple[Any, ...]:
    """Returns what the compiled steps of a model or a population are called with, as shapes placed on the mesh."""
    members, everywhere = (num_members,) if num_members > 1 else (), NamedSharding(mesh, PartitionSpec())

    def array(dtype: Any, *shape: int, where: Any = everywhere) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    state = abstract_state(config, optimizer, num_members)
    where = state_shardings(config, mesh, state, num_members)
    state = jax.tree.map(lambda leaf, place: array(leaf.dtype, *leaf.shape, where=place), state, where)
    hyper = Hyperparameters(array(jnp.float32, *members), array(jnp.float32, *members))
    fractions, seed = array(jnp.float32, *members, config.steps_per_call), array(jnp.uint32, *members)
    steps = (state, hyper, abstract_batches(config, mesh, num_members), fractions, seed, array(jnp.int32))
    return (*steps, *abstract_held(config, mesh)) if config.teacher or config.ewc else steps


def compile_step(config: TrainConfig, mesh: Mesh, label: str = "", is_quick: bool = False) -> CompiledStep:
    """Returns one training step (kleiber.train.step.compile_steps), compiled for the devices of a mesh.

    Args:
      config: the trunk; its mesh is not read.
      mesh: of abstract or real devices.
      label: what progress lines on standard error call it; empty prints none.
      is_quick: on a TPU, a fifth of the compiler's time for a program that does not compute beside its traffic; its
        memory is a few per cent off that of the program which would run.

    Raises:
      OutOfMemory: if the compiler says that it does not fit.
      ValueError: if an array does not divide over the mesh.
    """
    config = dataclasses.replace(config, steps_per_call=1)
    optimizer = optimizer_of(config)
    platform = mesh.devices.flat[0].platform
    is_quick = is_quick and platform == "tpu"
    with use_mesh(mesh), working(label), _least_effort() if is_quick else contextlib.nullcontext():
        began = time.perf_counter()
        steps = compile_steps(config, optimizer, platform=platform)
        lowered = steps.lower(*step_arguments(config, optimizer, mesh))
        lowered_at = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as refusal:
            if "RESOURCE_EXHAUSTED" in str(refusal):
                raise OutOfMemory(str(refusal)) from None
            raise
        return CompiledStep(compiled, is_quick, lowered_at - began, time.perf_counter() - lowered_at)


@contextlib.contextmanager
def _least_effort() -> Iterator[None]:
    """Tells the compiler to spend as little as it can on the speed of a program."""
    before = jax.config.values["jax_optimization_level"]
    jax.config.update("jax_optimization_level", "O0")
    try:
        yield
    finally:
        jax.config.update("jax_optimization_level", before)
