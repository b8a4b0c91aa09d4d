"""How runs ended other than well, for whoever watches: a line for each, what to type, and when to stop for it."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kleiber.experiments.directory.findings import REMEDY
from kleiber.experiments.directory.record import OF_COMMAND, RunRecord, read_record, record_path
from kleiber.experiments.planning.cells import TrunkCell

ALIKE = 2
"""Programs that may fail alike, before any has ended otherwise in this launch: the next would, too."""
OTHER_CAUSE = re.compile("memory|killed|hung|died")
"""In the reason of a failure that another run of the same script need not meet."""
VARIES = re.compile(r"\S*/\S+|\d[\d.,]*")
"""Paths and numbers, in which failures of one kind differ."""


def bad_ends(records: Sequence[RunRecord], directory: Path) -> list[str]:
    """Returns which runs did not end well, a line for each trunk, and what to type, once for each kind.

    Args:
      records: of the points that were lost.
      directory: of the sweep.
    """
    ends = Counter((r.trunk_id, r.status, r.reason) for r in records)
    lines = [
        f"{trunk} {status}, {count} {'point' if count == 1 else 'points'}: {reason}"
        for (trunk, status, reason), count in ends.items()
    ]
    for status, remedy in (("failed", _after_failure), ("diverged", _after_divergence)):
        if first := next((r for r in records if r.status == status), None):
            told = remedy(directory / "runs" / first.trunk_id, directory, first.corpus == OF_COMMAND)
            lines.append(f"  {status}: {told}")
    return lines


def _after_failure(home: Path, directory: Path, is_command: bool) -> str:
    if is_command:
        return (
            f"what it printed is in {home / 'output.txt'}; mend the script, then the same line with {REMEDY}: what is "
            "done is kept"
        )
    where = home / "error.txt"
    found = f"the traceback is in {where}" if where.exists() else f"the log is {directory / 'log.txt'}"
    return f"{found}; checkpoints are kept, and the same line with --retry-failed tries again"


def _after_divergence(home: Path, directory: Path, is_command: bool) -> str:
    if is_command:
        return "points before it count; lower the learning rate, or have the script leave the bad batches out"
    return (
        "checkpoints before it are kept; lower the learning rate, or leave the bad batches out: "
        f"kleiber rewind {directory} --run {home.name} --skip-batches FIRST:END --out NEW"
    )


class FailedAlike:
    """Says when the first programs that end in a launch have failed by one mistake, so that the others need not."""

    def __init__(self, cells: Sequence[TrunkCell], directory: Path):
        """Takes the runs of a phase, of which those are looked at that have not ended yet."""
        self.directory, self.kinds = directory, Counter[str]()
        commands = [cell for cell in cells if cell.config.command]
        self.open = {c.trunk_id: [c.run_ids[n] for n in c.missing(directory)] for c in commands}

    def __call__(self) -> str:
        """Returns why nothing more is to be started; empty while there is no reason."""
        for trunk, names in list(self.open.items()):
            path = next((p for name in names if (p := record_path(self.directory, name)).exists()), None)
            if path is None:
                continue
            del self.open[trunk]
            record = read_record(path)
            if record.status != "failed" or OTHER_CAUSE.search(record.reason):
                self.open = {}  # it can end otherwise: whatever fails now is its own matter
                return ""
            self.kinds[VARIES.sub("#", record.reason)] += 1
        if max(self.kinds.values(), default=0) < ALIKE:
            return ""
        return f"the first {ALIKE} runs failed alike, and the others would. Mend the script, then add {REMEDY}"
