"""The guard of an update: one that is not finite, or whose loss leaps, is left out on the device and counted.

Nothing waits for the host: the decision is a select inside the compiled step, and the host reads the counts later,
with the losses. An update that is left out changes neither parameters nor optimizer state; the step and the data go
on. The host stops a run after `max_consecutive_skips` such updates in a row, when its parameters are not finite, or
when its loss is far above where it started.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kleiber.train.config import GuardConfig
from kleiber.train.data.batches import TrainBatches


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepLog:
    """What a compiled block tells of its steps. A population has a leading member axis on every leaf."""

    losses: jax.Array
    """float32 [K], mean nats per token before each update; zero after the last step."""
    gradient_norms: jax.Array
    """float32 [K], global, before clipping."""
    is_skipped: jax.Array
    """bool [K], whether the update was left out."""
    param_norm: jax.Array
    """float32 scalar, global, after the block."""
    extras: dict[str, jax.Array] = field(default_factory=dict)
    """Further columns of the metrics, float32 [K] each."""

    def with_step(self, index: jax.Array, logged: dict[str, jax.Array]) -> "StepLog":
        """Returns the log with what a step tells at row index: loss, gradient_norm, is_skipped and the extras."""
        return StepLog(
            self.losses.at[index].set(logged["loss"]),
            self.gradient_norms.at[index].set(logged["gradient_norm"]),
            self.is_skipped.at[index].set(logged["is_skipped"]),
            self.param_norm,
            {name: values.at[index].set(logged[name]) for name, values in self.extras.items()},
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossWindow:
    """The losses of the last accepted steps, a ring on the device; part of the state, so a resume goes on the same."""

    losses: jax.Array
    """float32 [spike_window]."""
    count: jax.Array
    """int32, accepted steps so far."""


def empty_window(config: GuardConfig) -> LossWindow | None:
    """Returns the window a run starts with, or None when the spike rule is off (nothing is then compiled for it)."""
    if config.spike_sigmas is None:
        return None
    return LossWindow(jnp.zeros(config.spike_window, jnp.float32), jnp.zeros((), jnp.int32))


def empty_log(size: int, extras: Sequence[str] = ()) -> StepLog:
    """Returns the log that a block of size steps fills."""
    zeros = jnp.zeros(size, jnp.float32)
    return StepLog(zeros, zeros, jnp.zeros(size, bool), jnp.zeros((), jnp.float32), {name: zeros for name in extras})


def judge(
    config: GuardConfig, window: LossWindow | None, loss: jax.Array, grads: Any
) -> tuple[jax.Array, jax.Array, LossWindow | None]:
    """Returns (whether to apply the update, the gradients' global norm, the window with this loss if applied).

    The update is applied when the loss and the norm are finite and, under the spike rule, the loss is at most
    spike_sigmas standard deviations above the mean of the last accepted losses. The rule waits for half a window.

    Args:
      config: the policy.
      window: of the state; None when the spike rule is off.
      loss: float32 scalar.
      grads: the gradients of this step. One entry that is not finite makes the norm not finite.
    """
    norm = optax.global_norm(grads).astype(jnp.float32)
    is_sound = jnp.isfinite(loss) & jnp.isfinite(norm)
    if window is None:
        return is_sound, norm, None
    size, sigmas = config.spike_window, config.spike_sigmas or 0.0
    held = jnp.arange(size) < window.count
    number = jnp.maximum(1, jnp.minimum(window.count, size))
    mean = jnp.sum(jnp.where(held, window.losses, 0.0)) / number
    deviation = jnp.sqrt(jnp.sum(jnp.where(held, jnp.square(window.losses - mean), 0.0)) / number)
    is_spike = (window.count >= size // 2) & (loss > mean + sigmas * deviation)
    is_sound &= ~is_spike
    losses = window.losses.at[window.count % size].set(jnp.where(is_sound, loss, window.losses[window.count % size]))
    return is_sound, norm, LossWindow(losses, window.count + is_sound.astype(jnp.int32))


def choose(is_sound: jax.Array, new: Any, old: Any) -> Any:
    """Returns the tree new where the update is applied, else old. XLA fuses it into the update."""
    return jax.tree.map(lambda a, b: jnp.where(is_sound, a, b), new, old)


def next_indices(config: GuardConfig, batches: TrainBatches, first_step: int, count: int) -> np.ndarray:
    """Returns the windows of the next steps, int64 [count, rows], jumping over the batches that the config leaves out.

    Args:
      config: the policy.
      batches: of the run; moved on.
      first_step: steps done before.
      count: steps wanted.
    """
    if not config.skip_batches:
        return batches.next_indices(count)
    pieces, step = [], first_step
    while step < first_step + count:
        number, length = config.batch_number(step), 1
        while step + length < first_step + count and config.batch_number(step + length) == number + length:
            length += 1
        batches.position = number * batches.batch_size
        pieces.append(batches.next_indices(length))
        step += length
    return np.concatenate(pieces)


@dataclass
class SkipCounts:
    """The host's side of the guard for the members of a trunk: counts, and whether one must stop."""

    config: GuardConfig
    num_members: int
    total: list[int] = field(default_factory=list)
    """Updates left out so far, by member."""
    in_a_row: list[int] = field(default_factory=list)
    """Length of the row of skipped updates that reaches to the last step, by member."""
    reasons: list[str] = field(default_factory=list)
    """Why a member stopped; empty while it trains."""

    def __post_init__(self) -> None:
        self.total = self.total or [0] * self.num_members
        self.in_a_row = self.in_a_row or [0] * self.num_members
        self.reasons = self.reasons or [""] * self.num_members

    def look(self, first_step: int, log: StepLog, count: int) -> list[dict[str, Any]]:
        """Counts one block and returns, for each member, the columns of its metrics row.

        Args:
          first_step: steps done before the block.
          log: of the block, with host arrays.
          count: steps of the block that were really made.
        """
        rows = []
        for member in range(self.num_members):
            losses, norms, skipped = (
                np.atleast_2d(np.asarray(part))[member, :count]
                for part in (log.losses, log.gradient_norms, log.is_skipped)
            )
            param_norm = float(np.atleast_1d(np.asarray(log.param_norm))[member])
            self._count(member, first_step, losses, norms, skipped)
            if not np.isfinite(param_norm):
                self._stop(member, f"parameters not finite after step {first_step + count}")
            applied = ~skipped
            row: dict[str, Any] = {
                "loss": float(losses[applied].mean(dtype=np.float64)) if applied.any() else None,
                "gradient_norm": float(norms[applied].mean(dtype=np.float64)) if applied.any() else None,
                "param_norm": param_norm if np.isfinite(param_norm) else None,
                "skipped": int(skipped.sum()),
            }
            for name, values in log.extras.items():
                row[name] = float(np.atleast_2d(np.asarray(values))[member, :count].mean(dtype=np.float64))
            if skipped.any():
                row["skipped_steps"] = [first_step + 1 + int(i) for i in np.flatnonzero(skipped)]
            rows.append(row)
        return rows

    def _count(self, member: int, first_step: int, losses: Any, norms: Any, skipped: Any) -> None:
        self.total[member] += int(skipped.sum())
        row, limit = self.in_a_row[member], self.config.max_consecutive_skips
        for index, is_skipped in enumerate(skipped.tolist()):
            row = row + 1 if is_skipped else 0
            if row >= limit:
                step = first_step + index + 1
                finite = np.isfinite(losses[index]) and np.isfinite(norms[index])
                kind = "spike" if finite else "not finite"
                self._stop(
                    member,
                    f"{kind}: {row} updates in a row were skipped, the last at step {step} (loss {losses[index]:.4g}, "
                    f"gradient norm {norms[index]:.4g}), batches {self.config.batch_number(step - row)} to "
                    f"{self.config.batch_number(step - 1)} of the data; the parameters are those of step {step - row}",
                )
        self.in_a_row[member] = row

    def check_losses(self, rows: list[dict[str, Any]], limits: Any, step: int) -> None:
        """Stops every member whose mean training loss of a block is above its limit.

        Args:
          rows: as look returned.
          limits: nats per token, one a member.
          step: steps done after the block.
        """
        for member, (row, limit) in enumerate(zip(rows, limits, strict=True)):
            if row["loss"] is not None and not row["loss"] <= limit:
                self._stop(member, f"training loss {row['loss']:.4g} at step {step}, limit {limit:.4g}")

    def _stop(self, member: int, reason: str) -> None:
        self.reasons[member] = self.reasons[member] or reason

    def copy(self) -> "SkipCounts":
        """Returns the same counts for a branch, which goes its own way."""
        return SkipCounts(self.config, self.num_members, list(self.total), list(self.in_a_row), list(self.reasons))

    def state(self) -> dict[str, Any]:
        """Returns the counts, fit for JSON."""
        return {"total": list(self.total), "in_a_row": list(self.in_a_row), "reasons": list(self.reasons)}

    def restore(self, extra: dict[str, Any]) -> None:
        """Takes the counts of a checkpoint, or the flags that releases before these counts wrote."""
        if "skips" not in extra:
            self.reasons = ["training loss diverged" if is_diverged else "" for is_diverged in extra["diverged"]]
            return
        state = extra["skips"]
        self.total, self.in_a_row = list(state["total"]), list(state["in_a_row"])
        self.reasons = list(state["reasons"])
