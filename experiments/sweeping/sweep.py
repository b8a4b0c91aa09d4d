"""The sweep driver: plan, run, fit, register the forecast, run the targets, score, report. One state machine on disk.

Every stage looks at what is there and does what is missing, so typing the same line again goes on, and a finished
sweep returns at once. The order is the point: all fitted points are in before the fit is frozen, and the forecasts
are in the ledger before a target starts.
"""

import contextlib
import math
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from kleiber.experiments.config_file import config_hash
from kleiber.experiments.directory.record import LOST, STATUSES, record_path, write_table
from kleiber.experiments.exit_codes import EXIT_CANNOT_WRITE, EXIT_DONE, EXIT_GATE, EXIT_RESUMABLE
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.gate import gate_verdict
from kleiber.experiments.launch.launcher import Launcher, Phase, open_launcher
from kleiber.experiments.launch.local import Local
from kleiber.experiments.planning.cells import TrunkCell, all_cells, cell_records, records_digest, trunk_cells
from kleiber.experiments.planning.plan import make_plan
from kleiber.experiments.planning.speed import remember_speed, speed_key
from kleiber.experiments.report.packages import no_report
from kleiber.experiments.sweeping.bad_ends import FailedAlike, bad_ends
from kleiber.experiments.sweeping.follow import follow, lead_launch
from kleiber.experiments.sweeping.inventory import (
    REPLACED,
    bring_back,
    check_release,
    check_text,
    made_with,
    own_laws,
    set_aside,
    text_facts,
)
from kleiber.experiments.sweeping.lock import DirectoryLock
from kleiber.experiments.sweeping.ownership import make_directory, own_directory
from kleiber.experiments.sweeping.progress import SweepProgress
from kleiber.experiments.sweeping.workers import WorkerPool, default_workers, num_devices
from kleiber.experiments.terminal import printable, tell, working
from kleiber.experiments.tracking.follower import following
from kleiber.experiments.tracking.tracker import check_tracker, found_trackers
from kleiber.files import open_to_append, read_json, write_json
from kleiber.parallel.environment import process_in_environment, start_seconds
from kleiber.scaling.forecasting.anchor import check_heads
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.train.config import TrainConfig
from kleiber.train.watch.watchdog import hang_seconds


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    exit_code: int
    summary: dict[str, Any]


def run_sweep(
    experiment: Experiment,
    directory: Path,
    num_workers: int | None = None,
    retry_failed: bool = False,
    is_quiet: bool = False,
    has_report: bool = True,
    max_seconds: float | None = None,
    allow: tuple[str, ...] = (),
    track: tuple[str, ...] | None = None,
    launch: tuple[str, ...] = (),
) -> SweepResult:
    """Runs an experiment in a directory until it is finished or stopped.

    Args:
      experiment: from a config file.
      directory: the sweep directory; made if missing.
      num_workers: processes here, or in each job; None means one for each core that there is.
      retry_failed: whether cells recorded as failed are run again.
      is_quiet: whether progress goes to the log file only.
      has_report: whether a report is made at the end.
      max_seconds: wall time after which everything is saved and the sweep stops, resumable; None means no limit.
      allow: fields in which the experiment may differ from the one that made the directory; `data` for the text it
        reads, `versions` for the release that trains, `program` for that of a command, whose runs that are done count.
      track: trackers that show the runs, as `check_tracker` takes them; None means TensorBoard where it is installed.
      launch: what starts workers, as `open_launcher` takes it; none means processes here.

    Raises:
      ValueError: a mistake in the plan; a directory in use, of another experiment, or that cannot be made.
    """
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"{num_workers} workers asked for, expected 1 or more, or none for one on each core.")
    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise ValueError(f"a time limit of {max_seconds:g} seconds, expected a positive one, or none.")
    hang_seconds(), start_seconds()  # a wrong variable is told before anything is made
    trackers = tuple(found_trackers() if track is None else track)
    for name in trackers:
        check_tracker(name)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    configs = [*experiment.trunks, *(target.train for target in experiment.targets)]
    number, count = process_in_environment()
    if number > 0:
        code = follow(directory, num_devices(configs), experiment)
        return SweepResult(code, {"experiment": experiment.name, "process": number, "exit_code": code})
    launchers = tuple(open_launcher(line, num_workers) for line in launch)
    for launcher in launchers:
        launcher.check(directory)
    if launchers and count > 1:
        raise ValueError("--launch starts processes on other machines itself: type the line in one process.")
    make_directory(directory)
    with DirectoryLock(directory) as lock:
        told = own_directory(experiment, directory, allow)
        with open_to_append(directory / "log.txt") as log:
            launchers = launchers or (Local(num_workers or default_workers(configs)),)
            sweep = _Sweep(experiment, directory, launchers, log, is_quiet, has_report, deadline, trackers)
            if lock.taken_over:
                sweep.say(f"took over the lock of a sweep that is gone ({lock.taken_over})")
            sweep.tell(told)
            try:
                if count == 1:
                    return sweep.run(retry_failed, allow)
                return lead_launch(directory, lambda: sweep.run(retry_failed, allow))
            except KeyboardInterrupt:
                raise KeyboardInterrupt(points_done(all_cells(experiment), directory)) from None


def with_seed(experiment: Experiment, offset: int) -> Experiment:
    """Returns the experiment with offset added to the seed of every run: an independent repetition."""

    def shifted(config: TrainConfig) -> TrainConfig:
        return replace(config, seed=config.seed + offset)

    targets = tuple(replace(target, train=shifted(target.train)) for target in experiment.targets)
    return replace(experiment, trunks=tuple(map(shifted, experiment.trunks)), targets=targets)


def points_done(cells: list[TrunkCell], directory: Path) -> str:
    """Returns `2 of 12 points are done`."""
    asked = sum(len(cell.run_ids) for cell in cells)
    return f"{asked - sum(len(cell.missing(directory)) for cell in cells)} of {asked} points are done"


def prepare_data(experiment: Experiment, say: Callable[[str], None]) -> None:
    """Prepares every corpus an experiment reads, and checks it against the plan.

    Raises:
      ValueError: vocabulary and data disagree, or the corpus is shorter than a run needs.
    """
    from kleiber.train.data.run_data import open_run_data

    seen: set[tuple] = set()
    for config in [*experiment.starts, *experiment.trunks, *(target.train for target in experiment.targets)]:
        key = (config.data, config.model.vocab_size, config.model.seq_len, config.num_tokens[-1], config.evaluation)
        if key not in seen and not config.command:
            if not seen:
                say(f"reading corpus {config.data.corpus}")
            seen.add(key)
            with working(f"reading {config.data.corpus} as {config.data.tokenizer}"):
                open_run_data(config)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Returns the result of a sweep for people."""
    if "runs" not in summary:
        return []
    runs = ", ".join(f"{count} {status}" for status, count in summary["runs"].items() if count)
    lines = [f"\n{summary['experiment']}: {runs}"]
    lines += [f"  {line}" for line in summary.get("fit_lines", [])]
    lines += [f"  note: {line}" for line in summary.get("told", [])]
    for outcome in summary.get("targets", []):
        if outcome["status"] != "done":
            continue  # the gate says why
        low, high = outcome["interval"]
        lines.append(
            f"  {outcome['target']}: forecast {outcome['predicted_loss']:.4f} [{low:.4f}, {high:.4f}], observed "
            f"{outcome['observed_loss']:.4f}: {outcome['signed_error']:+.2%}, "
            f"{'inside' if outcome['inside'] else 'OUTSIDE'} the {outcome['level']:.0%} interval, at "
            f"{outcome['compute_ratio']:.1f} times the largest fitted compute"
        )
    for item in summary.get("gate", []):
        lines.append(f"  {'pass' if item['passed'] else 'FAIL'}  {item['claim']}")
    if "report" in summary:
        lines.append(f"  report: {summary['report']}")
    headline = summary.get("headline", "")  # the last line, where a terminal's reader looks
    lines += ["", *(line for line in summary.get("answer", []) if line not in headline)]
    return [*lines, "", summary["question"], headline] if headline else lines


@dataclass
class _Sweep:
    experiment: Experiment
    directory: Path
    launchers: tuple[Launcher, ...]
    log: IO[str]
    is_quiet: bool
    has_report: bool
    deadline: float | None
    trackers: tuple[str, ...] = ()
    stopped_by: str = ""
    progress: SweepProgress | None = None
    told: list[str] = field(default_factory=list)
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def run(self, retry_failed: bool, allow: tuple[str, ...]) -> SweepResult:
        start_cells, fit_cells, target_cells = (trunk_cells(self.experiment, s) for s in ("start", "fit", "target"))
        cells = all_cells(self.experiment)
        self._arrange(cells)
        anew = ["failed"] * retry_failed + ["pruned"] * (not self.experiment.pruning.over)
        self._forget(anew, cells)
        if found := self._finished(cells):
            if self.has_report and not (self.directory / "report.html").exists():
                self._report(found)
            if not all(isinstance(each, Local) for each in self.launchers):
                self.say(f"nothing is left to submit: {points_done(cells, self.directory)} in {self.directory}")
            return SweepResult(found["exit_code"], found)
        self.say(f"{self.experiment.name} in {self.directory}")
        started = time.monotonic()
        plan = make_plan(self.experiment, sum(each.num_workers(len(cells)) for each in self.launchers))
        plan.check()
        prepare_data(self.experiment, self.say)
        for line in check_text(cells, self.directory, self.experiment.population_size, allow):
            self.tell(line)
        if any(cell.missing(self.directory) for cell in cells if not cell.config.command):
            self.tell(check_release(cell_records(cells, self.directory), self.directory, allow))
        write_json(self.directory / "plan.json", plan.to_json())
        self.say(plan.headline())
        if self.has_report and (problem := no_report(self.directory)):
            self.say(f"note: {problem}")
        code = self._phase("start", start_cells, plan)
        if code == EXIT_DONE:
            code = self._phase("fit", fit_cells, plan)
        if code != EXIT_DONE:
            return self._stopped(code)
        from kleiber.experiments.sweeping.law_stage import CannotFit, fit_and_register, score_targets, withdraw_all

        summary: dict[str, Any] = {"experiment": self.experiment.name, "directory": str(self.directory), "gate": []}
        if not self.experiment.laws:
            withdraw_all(self.experiment, self.directory, self.tell)
        else:
            try:
                summary |= fit_and_register(self.experiment, self.directory, self.say)
            except CannotFit as problem:  # the runs are paid for: the report is written, and says so
                return self._ended(cells, {**summary, "fit_problem": str(problem)}, started)
            if target_cells:
                code = self._phase("target", target_cells, plan)
                if code != EXIT_DONE:
                    return self._stopped(code)
                summary |= score_targets(self.experiment, self.directory, self.say)
        return self._ended(cells, summary, started)

    def _ended(self, cells: list[TrunkCell], summary: dict[str, Any], started: float) -> SweepResult:
        """Judges the result, answers, writes result.json and the report."""
        records = cell_records(cells, self.directory)
        write_table(self.directory, records)
        summary["told"] = [*self.told, *summary.get("told", [])]
        summary["runs"] = {s: sum(r.status == s for r in records) for s in STATUSES[:-1]}
        if problem := summary.get("fit_problem"):
            how = f"; for options, kleiber fit {self.directory}" if "--" in problem else ""
            claim = f"a fit of the laws (none was possible: {problem}{how})"
            summary["gate"] = [{"claim": claim, "value": None, "limit": None, "passed": False}]
        elif self.experiment.laws:
            summary["gate"] = gate_verdict(self.experiment, summary)
        passed = all(item["passed"] for item in summary["gate"])
        measured = summary["runs"]["done"] + summary["runs"]["continued"]
        is_whole = measured > 0 and not summary["runs"]["failed"]
        summary["exit_code"] = EXIT_DONE if passed and is_whole else EXIT_GATE
        summary["wall_seconds_this_launch"] = round(time.monotonic() - started, 1)
        summary["made_from"] = self._made_from(cells)
        write_json(self.directory / "result.json", summary)
        from kleiber.experiments.report.drawing import Study  # loads scipy, which no run waits for
        from kleiber.experiments.report.results import read_results
        from kleiber.experiments.report.story import verdict

        found = Study(read_results(self.directory))
        headline = verdict(found)[1] if self.experiment.targets else found.answers.headline
        summary |= {"question": self.experiment.question, "answer": found.answers.lines, "headline": headline}
        write_json(self.directory / "result.json", summary)
        if self.has_report:
            self._report(summary)
        return SweepResult(summary["exit_code"], summary)

    def _arrange(self, cells: list[TrunkCell]) -> None:
        """Leaves the folders of the experiment's own runs in runs/, and no others."""
        bring_back(cells, self.directory, self.experiment.population_size)
        if strays := set_aside(cells, self.directory, self.experiment.population_size):
            more = f" and {len(strays) - 3} more" if len(strays) > 3 else ""
            self.tell(
                f"not of this experiment, left out and set aside in {REPLACED}/: {', '.join(strays[:3])}{more}; they "
                "come back when the experiment has them again"
            )

    def _finished(self, cells: list[TrunkCell]) -> dict[str, Any] | None:
        """Returns the result of a sweep that has ended, if it was made of what is there now."""
        path = self.directory / "result.json"
        is_whole = path.exists() and (self.directory / "table.parquet").exists()
        if not is_whole or any(cell.missing(self.directory) for cell in cells):
            return None
        found = read_json(path)
        return found if found.get("made_from") == self._made_from(cells) else None

    def _made_from(self, cells: list[TrunkCell]) -> dict[str, Any]:
        """Returns digests of all that a result is made from: experiment, texts, records, fit, and the ledger's end."""
        fit, ledger = self.directory / "fit.json", Ledger(self.directory / "ledger.jsonl")
        known = made_with(self.directory).get("data", {})
        entries = check_heads(ledger)
        return {
            "experiment": " ".join([config_hash(self.experiment), *own_laws(self.experiment).values()]),
            "data": {key: text or known.get(key) for key, text in text_facts(cells).items()},
            "records": records_digest(cell_records(cells, self.directory)),
            "fit": read_json(fit).get("made_from") if fit.exists() else None,
            "ledger_head": entries[-1]["hash"] if entries else None,
        }

    def _phase(self, split: str, cells: list[TrunkCell], plan: Any) -> int:
        def is_over() -> bool:
            return not any(cell.missing(self.directory) for cell in cells)

        if is_over():
            return EXIT_DONE
        entries = Ledger(self.directory / "ledger.jsonl").entries() if split == "target" else []
        phase = Phase(
            self.directory,
            split,
            self.session,
            self.log,
            num_devices(cell.config for cell in cells),
            len(cells),
            self.experiment.name,
            config_hash(self.experiment),
            entries[-1]["hash"] if entries else "",
            self.say,
        )
        pool = WorkerPool(phase, self.say, self.launchers, self.deadline, is_over, FailedAlike(cells, self.directory))
        shown = SweepProgress(
            self.experiment, self.directory, split, cells, plan, self.say, self.is_quiet, before=self.progress
        )
        with following(self.directory, self.trackers, self.say), shown as self.progress:
            code = pool.run(self.progress.tick)
            self.progress.tick()
        self.stopped_by = "; ".join(dict.fromkeys(pool.messages))
        if not (self.directory / "experiment.json").exists():
            return code  # moved or removed: nothing is written at the old place
        records = cell_records(all_cells(self.experiment), self.directory)
        write_table(self.directory, records)
        models = {cell.trunk_id: speed_key(cell.config) for cell in cells}
        done = (r for r in records if r.trunk_id in models and r.status == "done")
        remember_speed({models[r.trunk_id]: r.tokens_per_second for r in done if r.tokens_per_second is not None})
        for line in bad_ends([r for r in records if r.split == split and r.status in LOST], self.directory):
            self.say(line)
        missing = [name for cell in cells for name in cell.missing(self.directory)]
        return code if not missing or code != EXIT_DONE else EXIT_RESUMABLE

    def _forget(self, statuses: list[str], cells: list[TrunkCell]) -> None:
        """Has points that ended in these ways trained again."""
        for name in [name for cell in cells for name in cell.ended_as(statuses, self.directory)]:
            record_path(self.directory, name).unlink()
            (self.directory / "result.json").unlink(missing_ok=True)

    def _report(self, summary: dict[str, Any]) -> None:
        if problem := no_report(self.directory):
            self.say(problem)
            return
        from kleiber.experiments.report.build import build_report

        self.say("writing report.ipynb and report.html")
        with working("writing the report"):
            build_report(self.directory)
        summary["report"] = str(self.directory / "report.html")
        write_json(self.directory / "result.json", summary)

    def _stopped(self, code: int) -> SweepResult:
        self.say(f"stopped early{': ' + self.stopped_by if self.stopped_by else ''}")
        mended = "" if code in (EXIT_RESUMABLE, EXIT_CANNOT_WRITE) else "once that is mended "
        self.say(f"what is done is kept, and {mended}the same line goes on")
        summary = {"experiment": self.experiment.name, "status": "stopped", "reason": self.stopped_by}
        return SweepResult(code, {**summary, "exit_code": code})

    def tell(self, text: str) -> None:
        """Says what was not as it had been left, and keeps it for the result."""
        if text:
            self.told.append(text)
            self.say(text)

    def say(self, text: str) -> None:
        """Prints a line, unless quiet, and logs it."""
        if not self.is_quiet or "cannot write" in text:
            tell(text, sys.stderr if self.is_quiet else sys.stdout)
        with contextlib.suppress(OSError):  # a full disk must not hide why it stopped
            self.log.write(f"{time.strftime('%H:%M:%S')} {printable(text)}\n")
            self.log.flush()
