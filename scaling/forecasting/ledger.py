"""Forecasts written down before the runs that test them: an append-only file whose lines are chained by hashes."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock

from kleiber.files import read_json, read_plain, replacing, sealed_text
from kleiber.scaling.forecasting.scoreboard import scoreboard, standing

GENESIS = "0" * 64
"""`previous_hash` of the first line."""
KEYS = {
    "forecast": (
        *("target", "num_params_total", "num_tokens", "flops", "compute_ratio", "law"),
        *("predicted_loss", "interval", "level"),
    ),
    "outcome": ("target", "run_id", "observed_loss", "signed_error", "inside"),
    "withdrawn": ("target", "reason"),
}
"""What each event must hold to be read."""
BEGINNING = b'{"event": "'
"""Of every line."""
CLOCK_MINUTES = 5.0
"""How far the clocks of machines that write one ledger, and of its file system, may be apart."""


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
    the next append removes it. Writers take turns by a lock on PATH.lock, which the system drops with its process.

    What this can show is an edit by somebody who does not compute the whole chain and the head anew. A hash that was
    noted elsewhere shows that one too: `kleiber sweep` notes it in each target's record, `note_head` where you like.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.head_path = self.path.with_name(self.path.name + ".head")
        self.lock_path = self.path.with_name(self.path.name + ".lock")

    def entries(self) -> list[dict[str, Any]]:
        """Returns every entry after checking the chain.

        Raises:
          LedgerTamperedError: if a line was edited, removed, moved or cut.
          LedgerError: a line is whole, and none that this version knows.
        """
        count, last = self._head()  # before the lines: whoever appends meanwhile makes them more, never fewer
        lines, torn = self._lines()
        entries: list[dict[str, Any]] = []
        previous = GENESIS
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                digest = canonical_hash(entry)
            except (ValueError, AttributeError, RecursionError):
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
            self._check_known(entry, number)
            entries.append(entry)
        if count is not None:
            if len(entries) < count:
                raise LedgerTamperedError(
                    f"{self.path}: {count} lines were written, {len(entries)} whole ones are left: the end was cut."
                )
            if entries[count - 1]["hash"] != last:
                raise LedgerTamperedError(f"{self.path}: line {count} is not the one that {self.head_path.name} names.")
        elif torn and entries:
            raise LedgerTamperedError(f"{self.path}: the last line is cut, and there is no {self.head_path.name}.")
        return entries

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
        begun_at: str | None = None,
        made_for: Mapping[str, str] | None = None,
        degrees_of_freedom: float | None = None,
        past: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Writes a forecast down and returns its entry; the same forecast again returns the entry already there.

        Args:
          target: name of the run to come.
          num_params_total, num_tokens, flops: of that run.
          compute_ratio: its compute over the largest fitted run's.
          law, predicted_loss, interval, level: the forecast.
          baselines: what simple rules predict (`baseline_losses`), for the scoreboard's skill.
          begun_at: when the run began, in ISO 8601, if it has: the entry then says `"late": true` and is scored apart.
          made_for: `run_id` of the run it is for and digest of the `fit` it is of, kept with it.
          degrees_of_freedom: of its interval, as of Student's t.
          past: `factor` by which the interval is narrower for `outcomes` of earlier ledgers (`TrackRecord`).

        Raises:
          LedgerConflictError: if the target has a different forecast already.
          LedgerTamperedError: if the ledger is not intact.
          LedgerError: if the clock of this machine is behind the ledger's.
          ValueError: if the interval does not hold the forecast.
        """
        low, high = float(interval[0]), float(interval[1])
        if not (-math.inf < low <= predicted_loss <= high < math.inf and 0 < level < 1):
            raise ValueError(
                f"target {target}: need finite low <= forecast <= high, got {low}, {predicted_loss}, {high}."
            )
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
        entry |= {"degrees_of_freedom": float(degrees_of_freedom)} if degrees_of_freedom else {}
        entry |= {"past": dict(past)} if past else {}
        entry |= made_for or {}
        if begun_at:
            entry |= {"late": True, "begun_at": begun_at}
        folder_time = self._folder_time()

        def write(entries: list[dict[str, Any]]) -> dict[str, Any]:
            if known := standing(entries).get(target):
                return self._same_forecast(known[0], entry)
            entry["registered_at"] = self._now(entries, folder_time)
            return self._append(entry, entries)

        return self._exclusively(write)

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

        def write(entries: list[dict[str, Any]]) -> dict[str, Any]:
            forecasts = standing(entries)
            if target not in forecasts:
                raise UnknownTargetError(
                    f"{self.path}: no forecast for target {target!r} stands in it, so an outcome would prove "
                    f"nothing. Registered: {', '.join(forecasts) or 'none'}."
                )
            known, old = forecasts[target]
            low, high = known["interval"]
            entry = {
                "event": "outcome",
                "target": target,
                "run_id": run_id,
                "observed_loss": float(observed_loss),
                "signed_error": known["predicted_loss"] / float(observed_loss) - 1,
                "inside": bool(low <= observed_loss <= high),
            }
            if old is None:
                return self._append(entry, entries)
            if any(old[key] != value for key, value in entry.items()):
                raise LedgerConflictError(
                    f"{self.path}: target {target!r} has the outcome {old['observed_loss']} of {old['run_id']}; "
                    f"now it is said to be {observed_loss} of {run_id}: one of them was changed after it was scored."
                )
            return old

        return self._exclusively(write)

    def withdraw(self, target: str, reason: str) -> dict[str, Any]:
        """Writes down that the forecast of a target no longer holds, and why, and returns the entry.

        Forecast and outcome stay in the chain and are never scored; the target may be forecast anew.

        Raises:
          UnknownTargetError: if no forecast of the target stands.
          LedgerTamperedError: if the ledger is not intact.
        """

        def write(entries: list[dict[str, Any]]) -> dict[str, Any]:
            if target not in standing(entries):
                raise UnknownTargetError(
                    f"{self.path}: no forecast for target {target!r} stands, so none is withdrawn."
                )
            return self._append({"event": "withdrawn", "target": target, "reason": reason}, entries)

        return self._exclusively(write)

    def scoreboard(self) -> dict[str, Any]:
        """Returns each target with its error, and the error, coverage and skill over all (`scoreboard.scoreboard`)."""
        return scoreboard(self.entries())

    def _lines(self) -> tuple[list[str], bool]:
        """Returns the whole lines, and whether a half line follows them."""
        if not self.path.exists():
            return [], False
        *whole, rest = read_plain(self.path).split(b"\n")
        if not whole and rest[: len(BEGINNING)] != BEGINNING[: len(rest)]:  # nor the half line that a crash leaves
            raise LedgerError(f"{self.path} is no ledger, and what it holds is left as it is; give another file.")
        return [line.decode(errors="replace") for line in whole], bool(rest)

    def _head(self) -> tuple[int | None, str]:
        if not self.head_path.exists():
            return None, GENESIS
        try:
            head = read_json(self.head_path, "lines", "hash")
            if (count := int(head["lines"])) > 0:  # none was ever written for no line
                return count, str(head["hash"])
            raise ValueError
        except (ValueError, TypeError):
            raise LedgerTamperedError(
                f"{self.head_path} is not readable. Remove it: the chain is checked without it, and only a cut end no "
                "longer shows."
            ) from None

    def _check_known(self, entry: dict[str, Any], number: int) -> None:
        event = entry.get("event")
        if event not in KEYS:
            raise LedgerError(
                f"{self.path}: line {number} has the event {event!r}, expected one of {', '.join(KEYS)}; it was "
                "written by another version of kleiber, which can read it."
            )
        missing = [key for key in KEYS[event] if key not in entry]
        interval = entry.get("interval", [0.0, 0.0])
        if missing or not (isinstance(interval, list) and len(interval) == 2 and all(map(_is_number, interval))):
            raise LedgerError(
                f"{self.path}: line {number} is no whole {event}: it has no {', '.join(missing) or 'interval of two'}."
            )

    def _same_forecast(self, old: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        differing = [key for key in sorted({*old, *entry}) if _differs(key, old, entry)]
        if not differing:
            return old
        raise LedgerConflictError(
            f"{self.path}: target {entry['target']!r} was forecast before with another {', '.join(differing)}; "
            "a forecast is not changed after the fact. Use another target name or another ledger."
        )

    def _folder_time(self) -> datetime:
        """Returns when the ledger's folder last changed, by the clock of its file system."""
        folder = self.path.parent
        return datetime.fromtimestamp(folder.stat().st_mtime if folder.is_dir() else 0, UTC)

    def _now(self, entries: list[dict[str, Any]], folder_time: datetime) -> str:
        """Returns the time, which must not be before what the ledger, or its folder, saw last."""
        now = datetime.now(UTC)
        times = [datetime.fromisoformat(entry["registered_at"]) for entry in entries if entry.get("registered_at")]
        latest = max([folder_time, *times])
        if now < latest - timedelta(minutes=CLOCK_MINUTES):
            raise LedgerError(
                f"{self.path}: this machine's clock says {now:%Y-%m-%d %H:%M:%S}, and the ledger was written at "
                f"{latest:%Y-%m-%d %H:%M:%S} (both UTC): a forecast needs a true date. Set the clock and try again."
            )
        return now.isoformat(timespec="seconds")

    def _exclusively(self, write: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> dict[str, Any]:
        """Returns write(entries), while no other process reads in order to append."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.lock_path):
            return write(self.entries())

    def _append(self, entry: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
        previous = {"previous_hash": entries[-1]["hash"] if entries else GENESIS}
        entry = {**entry, "hash": canonical_hash({**entry, **previous}), **previous}
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
            partial.write_text(sealed_text({"lines": count, "hash": last}))


def _plain(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _differs(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    aside = ("registered_at", "late", "begun_at", "hash", "previous_hash", "degrees_of_freedom", "past")
    return key not in aside and old.get(key) != new.get(key)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
