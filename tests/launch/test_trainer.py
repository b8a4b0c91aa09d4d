"""The PyTorch example, ten times shorter, killed at moments that nobody chose, and gone on: `make cluster`.

It needs an interpreter with PyTorch: this one, or the one that TRAINER_PYTHON names.
"""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kleiber.experiments.directory.record import TIMING_COLUMNS
from kleiber.scaling.table.reading import read_file

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_trainer_torch.py"
SHORT = f"""
import importlib.util
from dataclasses import replace
spec = importlib.util.spec_from_file_location("example", {str(EXAMPLE)!r})
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)

def shorter(trunk):
    return replace(trunk, num_tokens=tuple(n // 10 for n in trunk.num_tokens))

def experiment():
    whole = example.experiment()
    trunks = tuple(shorter(trunk) for trunk in whole.trunks[:5])
    targets = tuple(replace(target, train=shorter(target.train)) for target in whole.targets)
    return replace(whole, trunks=trunks, targets=targets)
"""


def sweep(place, out):
    line = [sys.executable, "-m", "kleiber.experiments.cli", "sweep", "own.py", "--out", out, "--workers", "2"]
    with open(place / f"{out}.log", "a") as log:
        return subprocess.Popen(line, cwd=place, stdout=log, stderr=log, start_new_session=True)


def picked(driver, what, draw):
    """Returns a process of a sweep: its driver, one of its workers, or a trainer."""
    if what == "driver":
        return psutil.Process(driver.pid)
    family = psutil.Process(driver.pid).children(recursive=True)
    trainers = [each for each in family if "gpt_torch.py" in " ".join(each.cmdline())]
    trainer = draw.choice(trainers)
    return trainer if what == "trainer" else trainer.parent()


def forecasts(place, out):
    events = [json.loads(line) for line in (place / out / "ledger.jsonl").read_text().splitlines()]
    return [(each.get("predicted_loss"), each.get("interval"), each.get("observed_loss")) for each in events]


def test_a_sweep_of_pytorch_runs_is_killed_again_and_again_and_has_the_same_table_and_forecasts(tmp_path):
    here = importlib.util.find_spec("torch") is not None
    assert here or "TRAINER_PYTHON" in os.environ, "set TRAINER_PYTHON to an interpreter that has PyTorch"
    (tmp_path / "own.py").write_text(SHORT)
    assert sweep(tmp_path, "whole").wait() in (0, 3), (tmp_path / "whole.log").read_text()
    seed = int(os.environ.get("KLEIBER_DRILL_SEED", time.time()))
    print(f"KLEIBER_DRILL_SEED={seed}")
    draw, killed = random.Random(seed), []
    for what in ("trainer", "driver", "worker", "driver", "driver"):
        driver = sweep(tmp_path, "killed")
        until = time.monotonic() + draw.uniform(8, 40)
        while time.monotonic() < until and driver.poll() is None:
            time.sleep(0.1)
        try:
            victim = picked(driver, what, draw)
        except (psutil.Error, IndexError):  # between two trainers, or at its end
            victim = psutil.Process(driver.pid) if driver.poll() is None else None
        if victim:
            killed.append(" ".join(victim.cmdline())[-60:])
            victim.send_signal(signal.SIGKILL)
        if driver.poll() is None and what != "driver":  # a sweep goes on without a worker, or trainer
            time.sleep(draw.uniform(0, 5))
            driver.kill()
        driver.wait()
    print("\n".join(killed))
    assert sweep(tmp_path, "killed").wait() in (0, 3), (tmp_path / "killed.log").read_text()
    one, other = (read_file(tmp_path / name / "table.parquet") for name in ("whole", "killed"))
    assert list(one["status"]) == ["done"] * 19 and set(one) == set(other)
    assert not [name for name in one if name not in TIMING_COLUMNS and list(one[name]) != list(other[name])]
    assert forecasts(tmp_path, "whole") == forecasts(tmp_path, "killed")
    assert sum(path.read_text().count(" $ ") for path in tmp_path.glob("killed/runs/*/output.txt")) > 7
