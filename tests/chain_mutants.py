"""Leaves out one check of a sweep's chain of custody after another, and says in how many steps the machine finds it.

example: KLEIBER_CHAIN_STEPS=2000 python tests/chain_mutants.py no_text no_release

Without names all are tried, each in a process of its own. 3 is the exit code when one is not found.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import test_chain

from kleiber import files
from kleiber.experiments.planning import cells
from kleiber.experiments.sweeping import inventory, law_stage, node, ownership, sweep
from kleiber.scaling.forecasting import anchor, ledger


def _constant(value):
    return lambda *_, **__: value


def _any_record(cell_list, directory):
    paths = sorted(directory.glob("runs/*/record.json"))
    return [cells.read_record(path) for path in paths]


def _names(directory):
    return sorted(path.name for path in directory.iterdir())


def _without_marks(data):
    return {name: value for name, value in data.items() if name not in ("sealed", "seal")}


class _NoLock(contextlib.nullcontext):
    taken_over = ""

    def __init__(self, directory):
        super().__init__(self)


MUTANTS = {
    "frozen_fit": ("rows 1, 3, 5", [(law_stage, "_is_fit_of", _constant(True))]),
    "frozen_forecast": ("rows 1, 4", [(law_stage, "_why_withdrawn", _constant(""))]),
    "frozen_fit_and_forecast": (
        "rows 1 to 5, F1",
        [(law_stage, "_is_fit_of", _constant(True)), (law_stage, "_withdraw", _constant(None))],
    ),
    "any_record": (
        "rows 2, 6",
        [
            (sweep, "set_aside", _constant([])),
            *[(module, "cell_records", _any_record) for module in (cells, inventory, node, sweep, law_stage)],
        ],
    ),
    "no_set_aside": ("row 6", [(sweep, "set_aside", _constant([]))]),
    "no_bring_back": ("row 2", [(m, "bring_back", _constant(None)) for m in (sweep, ownership)]),
    "no_text": ("row 7, F2", [(sweep, "check_text", _constant([]))]),
    "no_text_of_a_forecast": ("row 7", [(law_stage, "_texts", _constant({}))]),
    "no_release": ("rows 8, 9, F2", [(m, "check_release", _constant("")) for m in (node, sweep)]),
    "no_digest_of_records": (
        "rows 1, 5, 11",
        [(m, "records_digest", _constant("same")) for m in (cells, sweep, law_stage)],
    ),
    "no_planned_columns": ("rows 13, 15, F3", [(cells, "cell_problem", _constant(""))]),
    "no_seal": ("rows 11, 16, 22 to 25, F3", [(files, "unsealed", _without_marks)]),
    "no_chain": ("row 35, F4", [(ledger, "canonical_hash", lambda entry: entry.get("hash", "0" * 64))]),
    "no_heads": ("row 36, F4", [(m, "check_heads", lambda led: led.entries()) for m in (sweep, law_stage)]),
    "no_heads_of_checkpoints": (
        "row 36 with the notes edited too",
        [(anchor.Path, "glob", lambda path, pattern, real=Path.glob: real(path, pattern.replace("step_", "none_")))],
    ),
    "never_late": ("row 37, F4", [(law_stage, "begun_at", _constant(None))]),
    "no_lock_of_the_directory": ("two sweeps at once", [(sweep, "DirectoryLock", _NoLock)]),
    "no_lock_of_the_ledger": ("rows 42, 43, F5", [(ledger, "FileLock", contextlib.nullcontext)]),
    "left_behind": ("rows 44 to 46, F6", [(ownership, "_not_of_a_sweep", _names)]),
}  # fmt: skip
"""What is left out: the rows and faults of which it is the cure, and (module, name, what stands in its place)."""


def steps_until_found(name: str) -> int | None:
    """Returns how many steps the machine took until the check was missed; None if it never was."""
    with contextlib.ExitStack() as stack:
        for module, attribute, other in MUTANTS[name][1]:
            stack.enter_context(patch.object(module, attribute, other))
        try:
            test_chain.test_whatever_is_reported_is_what_a_fresh_run_of_the_experiment_now_reports()
        except Exception as found:
            print(f"{type(found).__name__}: {str(found)[:160]}", file=sys.stderr)
            return test_chain.Chain.steps
    return None


def main(names: list[str]) -> int:
    """Prints a line for each mutant; of several, each is tried in a process of its own."""
    if len(names) == 1:
        steps = steps_until_found(names[0])
        found = "not found" if steps is None else f"found in {steps} steps"
        print(f"{names[0]:26} {found:22} of {test_chain.STEPS}  ({MUTANTS[names[0]][0]})", flush=True)
        return 3 if steps is None else 0
    codes = [subprocess.run([sys.executable, __file__, name], env=os.environ).returncode for name in names or MUTANTS]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
