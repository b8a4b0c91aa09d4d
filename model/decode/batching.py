"""Continuous batching: requests come and go while others are answered, in a fixed number of slots.

A request that ends frees its slot at once, and the next is read into it while the others wait for that one pass over
its prompt. Programs are compiled for the number of slots and the bucket of a prompt, whatever the requests ask for.

B slots, P places of a prompt, S places of the memory, V vocabulary, C tokens drawn by one call.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.model.decode.inference import Request, Row, as_read, inference_config, prompt_size, row_of
from kleiber.model.decode.sample import Sampling
from kleiber.model.decode.slots import Slots, advance, begin
from kleiber.model.families.decoder import empty_memory

AT_ONCE = 16
"""Most tokens of each row that one call draws."""
OF_ROWS = ("last_two_B2", "starts_B", "num_left_B", "num_drawn_B", "keys_B", "numbers_B3", "is_stop_BV")
"""Fields of Slots that begin anew with a request."""


@dataclass(frozen=True)
class Progress:
    """What a request has got by one call."""

    slot: int
    tokens: list[int]
    has_ended: bool


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _admit(config: ModelConfig, params: Any, slots: Slots, slot: jax.Array, row: Row) -> Slots:
    """Returns the slots with a new row in one of them: its prompt is read, and laid round the memory so that it ends
    where the others do."""
    num_places = jax.tree.leaves(slots.memory)[0].shape[-2]
    new = begin(config, params, jax.tree.map(lambda each: jnp.asarray(each)[None], row), num_places)
    turn = slots.place - new.place

    def put(held: jax.Array, one: jax.Array, axis: int = 0) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(held, one, slot, axis)

    def lay(held: jax.Array, one: jax.Array) -> jax.Array:
        return put(held, jnp.roll(one, turn, axis=-2), held.ndim - 4)

    new = replace(new, starts_B=(new.starts_B + turn) % num_places)
    rows = {name: put(getattr(slots, name), getattr(new, name)) for name in OF_ROWS}
    return replace(slots, memory=jax.tree.map(lay, slots.memory, new.memory), **rows)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(
    config: ModelConfig, params: Any, slots: Slots, is_kept_B: jax.Array, most: jax.Array, ends_early: jax.Array
) -> tuple[Slots, jax.Array, jax.Array]:
    """Returns (slots, tokens drawn [B, C], how many each may still draw)."""
    slots = replace(slots, num_left_B=jnp.where(is_kept_B, slots.num_left_B, 0))
    slots, found_BC = advance(config, params, slots, most, AT_ONCE, ends_early)
    return slots, found_BC, slots.num_left_B + 0  # a copy: the next call takes the slots


def memory_bytes(config: ModelConfig, num_slots: int) -> int:
    """Returns what the keys and values of so many slots take."""
    shapes = jax.eval_shape(lambda: empty_memory(config, num_slots, config.seq_len))
    return sum(each.size * each.dtype.itemsize for each in jax.tree.leaves(shapes))


class Engine:
    """Slots of one model, moved by one thread."""

    def __init__(self, config: ModelConfig, params: Any, num_slots: int):
        """Lays out an empty memory; nothing is compiled yet.

        Args:
          config: the shape; weights are rounded as its compression says.
          params: tree of weights.
          num_slots: most requests at once.
        """
        if num_slots < 1:
            raise ValueError(f"{num_slots} slots, expected 1 or more.")
        self.config, self.num_slots = config, num_slots
        self._config, self._params = inference_config(config), jax.device_put(as_read(config, params))
        self._is_busy = np.zeros(num_slots, bool)
        zeros_B = jnp.zeros(num_slots, jnp.int32)
        self._slots = Slots(
            place=jnp.int32(0),
            memory=empty_memory(config, num_slots, config.seq_len),
            last_two_B2=jnp.zeros((num_slots, 2), jnp.int32),
            starts_B=zeros_B,
            num_left_B=jnp.copy(zeros_B),
            num_drawn_B=jnp.copy(zeros_B),
            keys_B=jax.random.split(jax.random.key(0), num_slots),
            numbers_B3=jnp.tile(Sampling(0).numbers(config.vocab_size), (num_slots, 1)),
            is_stop_BV=jnp.zeros((num_slots, config.vocab_size), bool),
        )

    @property
    def num_free(self) -> int:
        """Slots that nobody has."""
        return int((~self._is_busy).sum())

    def admit(self, request: Request) -> int:
        """Returns the slot that a request was read into.

        Raises:
          ValueError: no slot is free, or the request cannot be answered.
        """
        request.check(self.config)
        if not self.num_free:
            raise ValueError(f"all {self.num_slots} slots are taken; let one end first.")
        slot = int(np.argmin(self._is_busy))
        row = row_of(self.config, request, prompt_size(self.config, len(request.prompt)))
        self._slots = _admit(self._config, self._params, self._slots, np.int32(slot), row)
        self._is_busy[slot] = True
        return slot

    def advance(self, most: int = AT_ONCE, ends_early: bool = False) -> list[Progress]:
        """Returns what each request got by up to so many steps, AT_ONCE at most.

        Args:
          most: steps.
          ends_early: whether to come back as soon as a request ends, as somebody waits for its slot.
        """
        if not self._is_busy.any():
            return []
        told = (self._is_busy.copy(), np.int32(min(most, AT_ONCE)), np.bool_(ends_early))
        self._slots, *found = _advance(self._config, self._params, self._slots, *told)
        found_BC, num_left_B = map(np.asarray, found)
        progress = []
        for slot in np.flatnonzero(self._is_busy).tolist():
            tokens = found_BC[slot]
            progress.append(Progress(slot, tokens[tokens >= 0].tolist(), not num_left_B[slot]))
            self._is_busy[slot] = bool(num_left_B[slot])
        return progress

    def drop(self, slot: int) -> None:
        """Frees the slot of a request that nobody waits for any more."""
        self._is_busy[slot] = False

    def compile(self) -> None:
        """Makes every program that a request may need, so that none waits for it."""
        taken, most = self.config.num_virtual_tokens, self.config.seq_len
        for size in sorted({prompt_size(self.config, count) for count in range(2, most - taken + 1)} or {1}):
            self.admit(Request((0,) * min(size - taken + 1, most - taken), 1))
            self.advance()


def answer_all(engine: Engine, requests: Iterable[Request]) -> Iterator[tuple[int, list[int]]]:
    """Yields (number of a request, the tokens that follow it) as they end, in whatever order that is."""
    waiting = iter(enumerate(requests))
    running: dict[int, tuple[int, list[int]]] = {}
    upcoming = next(waiting, None)
    while upcoming or running:
        while upcoming and engine.num_free:
            running[engine.admit(upcoming[1])] = (upcoming[0], [])
            upcoming = next(waiting, None)
        for each in engine.advance(ends_early=upcoming is not None):
            number, tokens = running[each.slot]
            tokens += each.tokens
            if each.has_ended:
                yield running.pop(each.slot)
