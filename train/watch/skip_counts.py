"""The host's side of the guard: how many updates each member left out, and whether it must stop."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kleiber.train.config import GuardConfig
from kleiber.train.update.guard import StepLog

DIVERGED_FACTOR = 1.5
"""A member has diverged when its training loss after warm-up exceeds this multiple of its first step's loss."""


class Diverged(Exception):
    """Every member's loss is not finite, or far above where it started."""


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
        """Counts the steps of one call and returns, for each member, the columns of its metrics row.

        Args:
          first_step: steps done before the call.
          log: of the call, with host arrays.
          count: steps that were really made.
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

    def check_losses(self, rows: list[dict[str, Any]], first: np.ndarray | None, vocab_size: int, step: int) -> None:
        """Stops every member whose mean training loss of a call is far above where it started.

        Args:
          rows: as look returned.
          first: nats per token of the first step, one a member; None or not finite counts as a guess at random.
          vocab_size: tokens to guess among.
          step: steps done after the call.
        """
        start = np.full(len(rows), np.log(vocab_size))
        if first is not None:
            start = np.where(np.isfinite(first), first, start)
        for member, (row, limit) in enumerate(zip(rows, DIVERGED_FACTOR * start, strict=True)):
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
