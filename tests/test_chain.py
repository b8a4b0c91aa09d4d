"""A sweep's chain of custody: whatever it reports is what a fresh run of the experiment there is now reports.

A machine of states drives one directory through edits of config, text, records, ledger and release, through flipped
bits, stops, kills, and launches, two at once too. In place of training stands a function of config and text, so that
thousands of steps take minutes; the rest is the sweep itself. KLEIBER_CHAIN_STEPS sets how many steps are taken;
`python tests/chain_mutants.py` shows in how many a check that is left out is found.
"""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
import traceback
import warnings
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kleiber import files
from kleiber.experiments.config_file import from_data
from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.experiments.planning import plan
from kleiber.experiments.planning.cells import all_cells, trunk_cells
from kleiber.experiments.planning.speed import SpeedEstimate
from kleiber.experiments.report.drawing import Study
from kleiber.experiments.report.results import read_results
from kleiber.experiments.report.story import summary as report_summary
from kleiber.experiments.sweeping import inventory, law_stage, sweep, trunk_run, worker
from kleiber.experiments.sweeping.sweep import run_sweep
from kleiber.model.config import ModelConfig
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.forecasting.anchor import noting_files
from kleiber.scaling.forecasting.ledger import GENESIS, Ledger, canonical_hash
from kleiber.scaling.forecasting.scoreboard import standing
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig

STEPS = int(os.environ.get("KLEIBER_CHAIN_STEPS", "200"))
STEPS_EACH = 25
WIDTHS = (4, 8, 12, 16, 24)
LENGTHS = (6_400, 25_600, 102_400)
NUMBERS = ("predicted_loss", "interval", "level", "observed_loss", "signed_error", "inside")
FILES = tuple(f"{name}.json" for name in ("experiment", "fit", "result", "plan", "made_with", "allowed", "sweep"))
TRAINING = re.compile(r"--allow ([\w.\[\]]+)")
REMEDY = re.compile(r"(\S+\.json)\b.*remove (?:it|the file) to have")
"""Of a damaged file: which one is to be removed."""
KILLED, REFUSED = 9, 2
OF_TARGET = "wiki-passages"
"""What the machine's target reads."""


def config(width: int, tokens: tuple[int, ...], rate: float, seed: int = 0) -> TrainConfig:
    model = ModelConfig(d_model=width, num_layers=1, num_heads=1, seq_len=32)
    return TrainConfig(model, OptimizerConfig(rate), tokens, batch_size=2, seed=seed)


def loss_of(cell, num_tokens: int, text: int) -> float:
    """What the fake run measures: a law, and noise that only config and text settle."""
    record = cell.planned[num_tokens]
    draw = hashlib.sha256(f"{record.run_id} {text}".encode()).digest()[0] / 255 - 0.5
    rate = 0.05 * math.log(cell.config.optimizer.learning_rate / 0.01) ** 2
    law = 1.2 + 0.1 * text + rate + 400 / record.num_params_total**0.6 + 300 / record.num_tokens**0.55
    return law * math.exp(0.001 * draw)


class World:
    """What lies outside the directory: the text, the release, and what goes wrong."""

    text, target_text, release, broken, patience = 0, 0, "1", "", 99
    has_checkpoints = True

    def text_of(self, cell) -> int:
        return self.target_text if cell.config.data.corpus == OF_TARGET else self.text

    def fingerprint(self, cell) -> str:
        return f"text-{self.text_of(cell)}"


class FakePool:
    """The workers of a phase: writes the record of every point that is missing, until its patience ends."""

    world = World()

    def __init__(self, phase, *_, **__):
        self.directory, self.split, self.messages = phase.directory, phase.split, []

    def run(self, on_tick) -> int:
        experiment = from_data(Experiment, files.read_json(self.directory / "experiment.json"))
        left = self.world.patience
        for cell in trunk_cells(experiment, self.split):
            for num_tokens in cell.missing(self.directory):
                worker._note_beginning([cell], self.directory)
                head = trunk_run.ledger_head(cell, self.directory)
                if head and self.world.has_checkpoints:
                    place = self.directory / "runs" / cell.trunk_id / "checkpoints" / "trunk" / "step_1"
                    note = {"extra": {"ledger_heads": {cell.trunk_id: head}}}
                    files.write_json(place / "manifest.json", note)
                if left == 0:
                    return 75
                left -= 1
                name = cell.run_ids[num_tokens]
                kept = self.directory / inventory.REPLACED / name / "record.json"
                assert (self.directory / "runs" / name).exists() or not kept.exists(), "what is paid for is not trained"
                record = replace(cell.planned[num_tokens], status="failed", reason="bad luck")
                if cell.planned[num_tokens].run_id != self.world.broken:
                    loss, versions = (
                        loss_of(cell, num_tokens, self.world.text_of(cell)),
                        {"code_version": self.world.release},
                    )
                    record = replace(record, status="done", reason="", loss=loss, ledger_head=head, **versions)
                    record = replace(record, data_fingerprint=self.world.fingerprint(cell))
                trunk_run.write_record(self.directory, cell, num_tokens, record)
        return 0


BY_HAND = {
    **{"num_params_total": 10**6, "num_tokens": 10**8, "flops": 6e14, "compute_ratio": 2.0, "law": "chinchilla"},
    **{"predicted_loss": 2.5, "interval": (2.4, 2.6), "level": 0.9},
}
FITS: dict = {}


def remembered_fit(table, law, cluster):
    key = law, *(tuple(table[name].tolist()) for name in ("num_params_total", "num_tokens", "loss"))
    if key not in FITS:
        FITS[key] = fit_law(table, law, cluster=cluster)
    return FITS[key]


class NoProgress:
    def __init__(self, *_, **__): ...
    def __enter__(self):
        return self

    def __exit__(self, *_): ...
    def tick(self): ...


def without_training(world: World):
    """Everything of a sweep but what trains, and what waits for the disk."""
    real_version = inventory.importlib.metadata.version
    return (
        patch.object(FakePool, "world", world),
        patch.object(sweep, "WorkerPool", FakePool),
        patch.object(sweep, "SweepProgress", NoProgress),
        patch.object(sweep, "prepare_data", lambda *_: None),
        patch.object(sweep, "remember_speed", lambda *_: None),
        patch.object(plan, "estimate_speed", lambda: SpeedEstimate(1e9, {})),
        patch.object(
            inventory, "text_facts", lambda cells: {inventory.text_key(c): world.fingerprint(c) for c in cells}
        ),
        patch.object(sweep, "text_facts", lambda cells: {inventory.text_key(c): world.fingerprint(c) for c in cells}),
        patch.object(
            inventory.importlib.metadata,
            "version",
            lambda name: world.release if name == "kleiber" else real_version(name),
        ),
        patch.object(law_stage, "fit_law", remembered_fit),
        patch.object(files, "_sync", lambda *_: None),
        patch("os.fsync", lambda *_: None),
    )


def launch(experiment: Experiment, directory: Path, world: World, **options):
    """Types the line once; returns its result."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        for each in without_training(world):
            stack.enter_context(each)
        return run_sweep(experiment, directory, 1, is_quiet=True, has_report=False, **options)


def slowly(read):
    """Returns a way to read that another process finds the time to come between."""

    def call(*arguments):
        found = read(*arguments)
        time.sleep(0.01)
        return found

    return call


def in_a_process(work, num_writes: int | None = None) -> int:
    """Does work in a process of its own, as a launch is, and returns its id.

    Args:
      work: to do; a ValueError ends the process with REFUSED, any other problem with 1.
      num_writes: after so many files were renamed or removed it is gone, as by SIGKILL.
    """
    with warnings.catch_warnings(action="ignore"):  # of JAX, which nothing here computes with
        process = os.fork()
    if process:
        return process
    left = [math.inf if num_writes is None else num_writes]

    def dying(real):
        def call(*arguments, **options):
            left[0] -= 1
            return real(*arguments, **options) if left[0] >= 0 else os._exit(KILLED)

        return call

    for name in ("replace", "rename", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
    Ledger.entries = slowly(Ledger.entries)
    code = 1
    try:
        work()
        code = 0
    except ValueError:
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def numbers_of(found: dict) -> dict:
    """The numbers that a sweep reports, of a summary."""
    targets = {t["target"]: {name: t.get(name) for name in NUMBERS} for t in found.get("targets", [])}
    return {"runs": found["runs"], "points": found["num_points"], "rms": found["residual_rms"], "targets": targets}


@cache
def fresh(experiment: Experiment, text: int, target_text: int, failed: frozenset) -> dict:
    """What a run of the experiment in a new directory reports, in which the same runs fail."""
    world = World()
    world.text, world.target_text = text, target_text
    with tempfile.TemporaryDirectory() as folder:
        with patch.object(FakePool, "run", _failing(failed)):
            return numbers_of(launch(experiment, Path(folder), world).summary)


def _failing(failed: frozenset):
    run = FakePool.run

    def both(pool, on_tick):
        for name in failed:
            pool.world.broken = name
            only = [c for c in trunk_cells(_experiment(pool.directory), pool.split) if name in c.run_ids.values()]
            for cell in only:
                (num_tokens,) = (n for n, run_id in cell.run_ids.items() if run_id == name)
                record = replace(cell.planned[num_tokens], status="failed", reason="bad luck")
                trunk_run.write_record(pool.directory, cell, num_tokens, record)
        pool.world.broken = ""
        return run(pool, on_tick)

    return both


def _experiment(directory: Path) -> Experiment:
    return from_data(Experiment, files.read_json(directory / "experiment.json"))


class Chain(RuleBasedStateMachine):
    """One directory, and a user who edits whatever a user may."""

    steps = 0
    """Taken by all machines so far."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name) / "out"
        self.world = World()
        self.rate, self.widths, self.level, self.target_seed, self.target_rate = 0.01, WIDTHS, 0.9, 5, 0.01
        self.result, self.forged = None, None
        self.by_hand = []

    def teardown(self):
        self.folder.cleanup()

    @property
    def mixed(self) -> Path:
        """There once a launch, in whatever process, was told to let two releases count together."""
        return Path(self.folder.name) / "mixed"

    @property
    def experiment(self) -> Experiment:
        trunks = tuple(config(width, LENGTHS, self.rate) for width in self.widths)
        train = config(32, (204_800,), self.target_rate, self.target_seed)
        target = Target("big", replace(train, data=DataConfig(OF_TARGET)))
        gate = Gate(max_error=9, max_interval=9, max_residual_rms=9, requires_inside=False)
        return Experiment("chain", "?", trunks, (target,), ("chinchilla",), self.level, gate)

    def runs(self):
        return sorted(self.directory.glob("runs/*/record.json"))

    # What a user edits.

    @rule(rate=st.sampled_from((0.01, 0.003)))
    def another_learning_rate(self, rate):
        self.rate = rate

    @rule(widths=st.sampled_from((WIDTHS, WIDTHS[1:], WIDTHS[:-1])))
    def other_trunks(self, widths):
        self.widths = widths

    @rule(level=st.sampled_from((0.9, 0.8)))
    def another_level(self, level):
        self.level = level

    @rule(seed=st.sampled_from((5, 6)), rate=st.sampled_from((0.01, 0.003)))
    def another_target(self, seed, rate):
        self.target_seed, self.target_rate = seed, rate

    @rule(text=st.sampled_from((0, 1)))
    def another_text(self, text):
        self.world.text = text

    @rule(text=st.sampled_from((0, 1)))
    def another_text_of_the_target(self, text):
        self.world.target_text = text

    @rule(release=st.sampled_from(("1", "2")))
    def another_release(self, release):
        self.world.release = release

    @rule(index=st.integers(0, 40))
    def a_run_that_fails(self, index):
        names = [name for cell in all_cells(self.experiment) for name in cell.run_ids.values()]
        self.world.broken = names[index] if index < len(names) - 1 else ""

    # What befalls a directory.

    @precondition(lambda self: self.runs())
    @rule(draw=st.randoms(use_true_random=False))
    def a_stranger(self, draw):
        path = draw.choice(self.runs())
        row = files.read_json(path)
        folder = self.directory / "runs" / f"stranger-{draw.randrange(3)}"
        folder.mkdir(exist_ok=True)
        files.write_json(folder / "record.json", {**row, "run_id": folder.name, "loss": 9.0})

    @precondition(lambda self: self.runs())
    @rule(
        draw=st.randoms(use_true_random=False),
        column=st.sampled_from(("num_params_total", "num_tokens", "status", "loss")),
        keeps_seal=st.booleans(),
    )
    def a_record_edited(self, draw, column, keeps_seal):
        path = draw.choice(self.runs())
        is_forged = not (keeps_seal or column == "loss")  # with a seal of its own
        row = files.read_json(path) if is_forged else json.loads(path.read_text())
        if row.get(column) is None:
            return
        row[column] = "pending" if column == "status" else 2 * row[column]
        files.write_json(path, row) if is_forged else path.write_text(json.dumps(row))
        try:
            launch(self.experiment, self.directory, self.world)
        except ValueError:
            pass
        else:
            assert not path.exists()  # of no run of the experiment now: set aside
        path.unlink(missing_ok=True)  # as the message says
        for leftover in self.directory.glob(f"replaced/{path.parent.name}*/record.json"):
            leftover.unlink()

    @precondition(lambda self: self.runs())
    @rule(draw=st.randoms(use_true_random=False))
    def a_record_removed(self, draw):
        draw.choice(self.runs()).unlink()

    @precondition(lambda self: self.runs())
    @rule(draw=st.randoms(use_true_random=False))
    def a_bit_flipped(self, draw):
        path = draw.choice(sorted(path for path in self.directory.rglob("*.json") if "replaced" not in path.parts))
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)

    @rule(name=st.sampled_from((*FILES, "table.parquet", "runs")))
    def something_removed(self, name):
        path = self.directory / name
        if name == "runs":
            self.restore()  # with them goes what shows a forecast that was edited
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @precondition(lambda self: (self.directory / "ledger.jsonl").exists() and not self.forged)
    @rule(draw=st.randoms(use_true_random=False))
    def a_line_of_the_ledger_edited(self, draw):
        path = self.directory / "ledger.jsonl"
        whole = path.read_text()
        lines = whole.splitlines()
        number = draw.randrange(len(lines))
        lines[number] = lines[number].replace("big", "bug", 1)
        path.write_text("\n".join(lines) + "\n")
        try:
            self.launch()
        except AssertionError as refusal:
            assert f"line {number + 1} was edited" in str(refusal)
        else:
            assert self.result is None or self.result.summary.get("status") == "stopped"
        self.result = None
        path.write_text(whole)

    @rule()
    def the_ledger_removed(self):
        for path in self.directory.glob("ledger.jsonl*"):
            path.unlink()
        self.forged, self.by_hand = None, []

    @precondition(lambda self: (self.directory / "ledger.jsonl").exists() and not self.forged)
    @rule(edits_notes=st.booleans())
    def a_forecast_edited_and_the_chain_computed_anew(self, edits_notes):
        """Only where its target has begun: before that nobody has noted anything. Its checkpoints are left alone."""
        ledger = Ledger(self.directory / "ledger.jsonl")
        entries = ledger.entries()
        (name,) = trunk_cells(self.experiment, "target")[0].run_ids.values()
        begun = self.directory / "runs" / name.rpartition("-D")[0] / "begun.json"
        last = [e for e in entries if e["event"] == "forecast"][-1:]
        if not begun.exists() or not last or last[0].get("late") or last[0].get("run_id") != name:
            return
        if files.read_json(begun)["ledger_head"] not in {e["hash"] for e in entries}:
            return
        notes = [path for path in noting_files(self.directory, name) if path.exists()]
        before = [(path, path.read_text()) for path in (ledger.path, ledger.head_path, *notes)]
        last[0]["predicted_loss"] += 0.01
        previous = GENESIS
        for entry in entries:
            if entry["event"] == "outcome" and entries.index(entry) > entries.index(last[0]):
                entry["signed_error"] = last[0]["predicted_loss"] / entry["observed_loss"] - 1
            entry["previous_hash"] = previous
            entry["hash"] = previous = canonical_hash(entry)
        ledger.path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        files.write_json(ledger.head_path, {"lines": len(entries), "hash": previous})
        for path in notes if edits_notes else ():
            files.write_json(path, {**files.read_json(path), "ledger_head": previous})
        self.forged = before

    # What a user types.

    @initialize(patience=st.sampled_from((5, 12, 99, 99, 99)))
    def the_first_launch(self, patience):
        self.world.patience = patience
        self.launch()
        self.world.patience = 99

    @rule(patience=st.integers(0, 17))
    def a_launch_that_is_stopped(self, patience):
        self.world.patience = patience
        self.launch()
        self.world.patience = 99

    @rule()
    def a_launch(self):
        self.launch()

    @rule(allows=st.booleans())
    def another_launch(self, allows):
        self.launch(allows=allows)

    @rule()
    def a_launch_that_tries_again(self):
        self.launch(retry_failed=True)

    @precondition(lambda self: not self.forged)
    @rule(num_writes=st.integers(0, 90), retry_failed=st.booleans())
    def a_launch_that_is_killed(self, num_writes, retry_failed):
        process = in_a_process(lambda: self.launch(retry_failed), num_writes)
        assert ended(process) in (0, KILLED)

    @precondition(lambda self: not self.forged)
    @rule(num_writes=st.none() | st.integers(0, 90), patience=st.sampled_from((4, 99)))
    def two_launches_at_once(self, num_writes, patience):
        self.world.patience = patience
        both = [in_a_process(lambda: self.launch(is_alone=False), number) for number in (num_writes, None)]
        assert {ended(process) for process in both} <= {0, KILLED}
        self.world.patience = 99

    @precondition(lambda self: (self.directory / "ledger.jsonl").exists() and not self.forged)
    @rule(count=st.integers(1, 4))
    def forecasts_registered_by_hand_beside_a_launch(self, count):
        names = [f"by hand, big {len(self.by_hand) + number}" for number in range(2 * count)]

        def register(some):
            for name in some:
                Ledger(self.directory / "ledger.jsonl").register(**BY_HAND, target=name)

        works = (lambda: self.launch(is_alone=False), *(partial(register, names[each::2]) for each in (0, 1)))
        assert {ended(process) for process in [in_a_process(work) for work in works]} == {0}
        self.by_hand += names
        assert {*self.by_hand} <= standing(Ledger(self.directory / "ledger.jsonl").entries()).keys()

    def launch(self, retry_failed=False, allows=True, is_alone=True):
        """Types the line, and after a refusal what it suggests."""
        allow: tuple[str, ...] = ()
        self.result = None
        for _ in range(12):
            try:
                self.result = launch(
                    self.experiment, self.directory, self.world, retry_failed=retry_failed, allow=allow
                )
                break
            except ValueError as refusal:
                suggested = tuple(TRAINING.findall(str(refusal)))
                if "need finite low" in str(refusal):
                    break  # too few runs are left to bound a forecast
                if not is_alone and "is locked by" in str(refusal):
                    break
                if "sweep.json, which is damaged" in str(refusal):
                    (self.directory / "sweep.json").unlink()
                    continue
                if damaged := REMEDY.search(str(refusal)):
                    Path(damaged[1]).unlink()
                    continue
                if not suggested:
                    assert self.forged and "is not the one that stood there" in str(refusal), refusal
                    self.restore()
                    break
                if not allows:
                    break
                assert not set(suggested) <= set(allow), f"what it suggests does not help: {refusal}"
                allow += suggested
                if "versions" in allow:
                    self.mixed.touch()
        else:
            raise AssertionError(f"refused again and again: {allow}")

    def restore(self):
        """Puts back what a forger edited."""
        for path, content in self.forged or ():
            path.write_text(content)
        self.forged = None

    @invariant()
    def what_is_reported_is_of_the_experiment_there_is_now(self):
        Chain.steps += 1
        if self.result is None or self.result.summary.get("status") == "stopped":
            return
        found, self.result = self.result.summary, None
        own = {name for cell in all_cells(self.experiment) for name in (cell.trunk_id, *cell.run_ids.values())}
        assert {path.name for path in (self.directory / "runs").iterdir() if path.is_dir()} <= own
        rows = [files.read_json(path) for path in self.runs()]
        failed = frozenset(row["run_id"] for row in rows if row["status"] == "failed")
        self.forged = None  # of a forecast that was withdrawn: the numbers tell
        assert numbers_of(found) == fresh(self.experiment, self.world.text, self.world.target_text, failed)
        late = [t["target"] for t in found["targets"] if t.get("late")]
        assert self.mixed.exists() or len({row.get("code_version") for row in rows if row["status"] == "done"}) <= 1
        assert found["exit_code"] == (3 if late or failed else 0)
        records = {row["run_id"]: row for row in rows}
        for forecast, outcome in standing(Ledger(self.directory / "ledger.jsonl").entries()).values():
            assert outcome is None or records[forecast["run_id"]]["loss"] == outcome["observed_loss"]
        said = report_summary(Study(read_results(self.directory)))
        own_targets = [t for t in said["targets"] if t["target"] not in self.by_hand]
        shown = {t["target"]: {name: t[name] for name in NUMBERS} for t in own_targets}
        assert (
            shown == {t["target"]: {n: t[n] for n in NUMBERS} for t in found["targets"] if t["status"] == "done"}
            or failed
        )
        assert not late or said["verdict"] == "failed"


def test_whatever_is_reported_is_what_a_fresh_run_of_the_experiment_now_reports():
    run_state_machine_as_test(
        Chain,
        settings=settings(
            max_examples=max(1, STEPS // STEPS_EACH),
            stateful_step_count=STEPS_EACH,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
