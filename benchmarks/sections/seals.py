"""Section seals: what the seals of files, log lines and tables cost a whole sweep, each write and each read counted."""

import os
import struct
import sys
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.setting import Setting
from sections.child import measure_command
from sections.goals import GOALS

PROBE = Path(__file__).parent / "probe"


def measure_seals(setting: Setting) -> dict[str, Any]:
    """Returns the processor seconds of all digests in driver, workers and report, over the wall time of the sweep."""
    name = "miniature" if setting.is_short else "quickstart"
    folder, told = setting.place("seals"), setting.place("told")
    setting.tell(f"kleiber sweep {name}")
    paths = os.pathsep.join([str(PROBE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "KLEIBER_SEALS_TOLD": str(told)}
    command = [sys.executable, "-m", "kleiber.experiments.cli", "sweep", name, "--out", str(folder / "out")]
    found = measure_command(command, folder / "sweep.out", environment)
    if found.exit_code not in (0, 3):
        raise RuntimeError(f"{name} ended with {found.exit_code}: {(folder / 'sweep.err').read_text()[-300:]}")
    phases = ("fit.json", "ledger.jsonl", "result.json", "report.html")
    if missing := [phase for phase in phases if not (folder / "out" / phase).exists()]:
        raise RuntimeError(
            f"{name} ended without {', '.join(missing)}: a share of its wall time is none of a whole sweep"
        )
    counts = [struct.unpack("qd", path.read_bytes()) for path in told.iterdir()]
    number, seconds = sum(count for count, _ in counts), sum(spent for _, spent in counts)
    figures = [
        Figure(f"seals of {name} over its wall time", seconds / found.wall_seconds, "ratio", goal=GOALS["seals"]),
        Figure("seals written and compared", number, ""),
        Figure(f"{name}, everything", found.wall_seconds, "s"),
    ]
    return {"figures": figures, "seal_seconds": seconds, "processes": len(counts)}
