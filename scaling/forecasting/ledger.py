"""Forecasts written down before the runs that test them: an append-only file whose lines are chained by hashes."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kleiber.files import replacing

GENESIS = "0" * 64
"""`previous_hash` of the first line."""


class LedgerError(ValueError):
    """The ledger cannot be used as asked."""


class LedgerTamperedError(LedgerError):
    """A line was edited, removed, moved or cut after it was written."""


class LedgerConflictError(LedgerError):
    """The target already has another forecast or outcome."""


class UnknownTargetError(LedgerError):
    """An outcome for a target that was never forecast."""


def canonical_hash(entry: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of an entry without its own `hash`, as sorted compact JSON in UTF-8."""
    body = {key: value for key, value in entry.items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """Forecasts and outcomes in one JSON-lines file.

    Each line carries the hash of the line before. A second file, PATH.head, holds the number of lines and the last
    hash, so that cutting whole lines off the end shows too. A line half written by a crash was never acknowledged;
    the next append removes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.head_path = self.path.with_name(self.path.name + ".head")

    def entries(self) -> list[dict[str, Any]]:
        """Returns every entry after checking the chain.

        Raises:
          LedgerTamperedError: see `verify`.
        """
        lines, torn = self._lines()
        entries: list[dict[str, Any]] = []
        previous = GENESIS
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                digest = canonical_hash(entry)
            except (ValueError, AttributeError):
                raise LedgerTamperedError(f"{self.path}: line {number} is not a whole JSON object.") from None
            if entry.get("hash") != digest:
                raise LedgerTamperedError(
                    f"{self.path}: line {number} was edited: its hash does not match its content."
                )
            if entry.get("previous_hash") != previous:
                raise LedgerTamperedError(
                    f"{self.path}: line {number} does not follow the line before it: a line was removed or moved."
                )
            previous = digest
            entries.append(entry)
        count, last = self._head()
        if count is not None:
            if len(entries) < count:
                raise LedgerTamperedError(
                    f"{self.path}: {count} lines were written, {len(entries)} whole ones are left: the end was cut."
                )
            if count and entries[count - 1]["hash"] != last:
                raise LedgerTamperedError(f"{self.path}: line {count} is not the one that {self.head_path.name} names.")
        elif torn and entries:
            raise LedgerTamperedError(f"{self.path}: the last line is cut, and there is no {self.head_path.name}.")
        return entries

    def verify(self) -> int:
        """Returns the number of entries of an intact ledger.

        Raises:
          LedgerTamperedError: if a line was edited, removed, moved or cut.
        """
        return len(self.entries())

    def register(
        self,
        *,
        target: str,
        num_params_total: float,
        num_tokens: float,
        flops: float,
        compute_ratio: float,
        law: str,
        predicted_loss: float,
        interval: Sequence[float],
        level: float = 0.9,
        baselines: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Writes a forecast down and returns its entry; the same forecast again returns the entry already there.

        Args:
          target: name of the run to come.
          num_params_total, num_tokens, flops: of that run.
          compute_ratio: its compute over the largest fitted run's.
          law, predicted_loss, interval, level: the forecast.
          baselines: what simple rules predict (`baseline_losses`), for the scoreboard's skill.

        Raises:
          LedgerConflictError: if the target has a different forecast already.
          LedgerTamperedError: if the ledger is not intact.
          ValueError: if the interval does not hold the forecast.
        """
        low, high = float(interval[0]), float(interval[1])
        if not (math.isfinite(predicted_loss) and low <= predicted_loss <= high and 0 < level < 1):
            raise ValueError(f"target {target}: need low <= forecast <= high, got {low}, {predicted_loss}, {high}.")
        entry: dict[str, Any] = {
            "event": "forecast",
            "target": target,
            "num_params_total": _plain(num_params_total),
            "num_tokens": _plain(num_tokens),
            "flops": float(flops),
            "compute_ratio": float(compute_ratio),
            "law": law,
            "predicted_loss": float(predicted_loss),
            "interval": [low, high],
            "level": float(level),
        }
        if baselines:
            entry["baselines"] = {name: float(value) for name, value in baselines.items()}
        entries = self.entries()
        for old in entries:
            if old["event"] == "forecast" and old["target"] == target:
                added = ("registered_at", "hash", "previous_hash")
                differing = [key for key in sorted({*old, *entry}.difference(added)) if old.get(key) != entry.get(key)]
                if not differing:
                    return old
                raise LedgerConflictError(
                    f"{self.path}: target {target!r} was forecast before with another {', '.join(differing)}; "
                    "a forecast is not changed after the fact. Use another target name or another ledger."
                )
        entry["registered_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        return self._append(entry, entries)

    def outcome(self, target: str, run_id: str, observed_loss: float) -> dict[str, Any]:
        """Writes down what the target's run measured and returns the entry; repeating it changes nothing.

        `signed_error` is predicted over observed, minus one; `inside` is whether the interval holds the loss.

        Raises:
          UnknownTargetError: if the target was never forecast.
          LedgerConflictError: if it has another outcome already.
          LedgerTamperedError: if the ledger is not intact.
        """
        if not (math.isfinite(observed_loss) and observed_loss > 0):
            raise ValueError(f"target {target}: observed loss {observed_loss} is not a positive number.")
        entries = self.entries()
        forecasts = {entry["target"]: entry for entry in entries if entry["event"] == "forecast"}
        if target not in forecasts:
            raise UnknownTargetError(
                f"{self.path}: no forecast for target {target!r} was registered, so an outcome would prove nothing. "
                f"Registered: {', '.join(forecasts) or 'none'}."
            )
        known = forecasts[target]
        low, high = known["interval"]
        entry = {
            "event": "outcome",
            "target": target,
            "run_id": run_id,
            "observed_loss": float(observed_loss),
            "signed_error": known["predicted_loss"] / float(observed_loss) - 1,
            "inside": bool(low <= observed_loss <= high),
        }
        for old in entries:
            if old["event"] == "outcome" and old["target"] == target:
                if all(old[key] == value for key, value in entry.items()):
                    return old
                raise LedgerConflictError(
                    f"{self.path}: target {target!r} already has the outcome {old['observed_loss']} of {old['run_id']}."
                )
        return self._append(entry, entries)

    def scoreboard(self) -> dict[str, Any]:
        """Returns each target with its error, and over all scored targets the error, coverage and skill.

        Skill against a baseline is one minus the ratio of mean absolute errors: 0 is no better, 1 is perfect.
        """
        entries = self.entries()
        outcomes = {entry["target"]: entry for entry in entries if entry["event"] == "outcome"}
        targets = []
        for entry in entries:
            if entry["event"] != "forecast":
                continue
            row = {key: entry[key] for key in ("target", "law", "compute_ratio", "predicted_loss", "interval", "level")}
            result = outcomes.get(entry["target"])
            row |= {key: result[key] if result else None for key in ("observed_loss", "signed_error", "inside")}
            row["registered_at"] = entry.get("registered_at")
            targets.append(row)
        forecasts = {entry["target"]: entry for entry in entries if entry["event"] == "forecast"}
        scored = [(forecasts[name], result) for name, result in outcomes.items()]
        counts = {"num_forecasts": len(targets), "num_scored": len(scored)}
        return {**counts, **_summary(scored), "targets": targets, "history": _history(scored)}

    def _lines(self) -> tuple[list[str], bool]:
        """Returns the whole lines, and whether a half line follows them."""
        if not self.path.exists():
            return [], False
        *whole, rest = self.path.read_bytes().split(b"\n")
        return [line.decode(errors="replace") for line in whole], bool(rest)

    def _head(self) -> tuple[int | None, str]:
        if not self.head_path.exists():
            return None, GENESIS
        try:
            head = json.loads(self.head_path.read_text())
            return int(head["lines"]), str(head["hash"])
        except (ValueError, KeyError, TypeError):
            raise LedgerTamperedError(f"{self.head_path} is not readable.") from None

    def _append(self, entry: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
        previous = entries[-1]["hash"] if entries else GENESIS
        digest = canonical_hash({**entry, "previous_hash": previous})
        entry = {**entry, "hash": digest, "previous_hash": previous}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self.path.open("ab+") as stream:
            stream.seek(0)
            stream.truncate(sum(len(part) + 1 for part in stream.read().split(b"\n")[:-1]))
            stream.seek(0, os.SEEK_END)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self._write_head(len(entries) + 1, entry["hash"])
        return entry

    def _write_head(self, count: int, last: str) -> None:
        with replacing(self.head_path) as partial:
            partial.write_text(json.dumps({"lines": count, "hash": last}))


def _plain(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _history(scored: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns how error and coverage stood after each outcome, in the order they were written down."""
    rows = []
    for count, (entry, _) in enumerate(scored, 1):
        so_far = _summary(scored[:count])
        rows.append({"target": entry["target"], **{key: so_far[key] for key in ("mean_absolute_error", "coverage")}})
    return rows


def _summary(scored: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    if not scored:
        names = ("mean_absolute_error", "largest_error", "mean_signed_error", "coverage", "expected_coverage")
        return {**dict.fromkeys(names), "skill": {}}
    errors = [result["signed_error"] for _, result in scored]
    mean = sum(abs(error) for error in errors) / len(errors)
    skill = {}
    for name in sorted({name for entry, _ in scored for name in entry.get("baselines", {})}):
        pairs = [(entry, result) for entry, result in scored if name in entry.get("baselines", {})]
        ours = sum(abs(result["signed_error"]) for _, result in pairs)
        theirs = sum(abs(entry["baselines"][name] / result["observed_loss"] - 1) for entry, result in pairs)
        skill[name] = 1 - ours / theirs if theirs > 0 else None
    return {
        "mean_absolute_error": mean,
        "largest_error": max(errors, key=abs),
        "mean_signed_error": sum(errors) / len(errors),
        "coverage": sum(result["inside"] for _, result in scored) / len(scored),
        "expected_coverage": sum(entry["level"] for entry, _ in scored) / len(scored),
        "skill": skill,
    }
