"""Failure tests of sweeps: drivers and workers killed, doubled, starved, frozen, and stopped by the clock."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos.driver import drive
from chaos.trial import (
    Bench,
    Child,
    Result,
    Tally,
    difference,
    logged_steps,
    make_run,
    outcome,
    repeated_steps,
    start,
    tiny,
    work,
)
from kleiber.experiments.exit_codes import EXIT_CANNOT_WRITE, EXIT_DONE, EXIT_RESUMABLE, EXIT_USAGE
from kleiber.experiments.experiment import Experiment
from kleiber.train.config import DataConfig


def experiment(bench: Bench, **changes: Any) -> Experiment:
    """Returns a sweep of four tiny trunks of two points each."""
    settings = {"num_tokens": (40 * 32, 80 * 32), "checkpoint_seconds": 0.1, **changes}
    widths = (8, 16) if bench.scale >= 1 else (8,)
    trunks = tuple(tiny(bench, d_model=d, seed=seed, **settings) for d in widths for seed in (0, 1))
    return Experiment("chaos", "?", trunks, laws=())


def alone(bench: Bench, what: Experiment) -> dict[str, Any]:
    """Returns the outcome of a sweep left alone."""
    if repr(what) not in bench.known:
        directory = bench.place("sweep-alone") / "out"
        child = start(bench, drive, what, directory)
        assert child.wait() == EXIT_DONE, child.text()
        bench.known[repr(what)] = outcome(directory)
    return bench.known[repr(what)]


def kill_all(child: Child) -> int:
    """SIGKILL to a driver and every worker, as a machine that loses power would; returns how many died."""
    import psutil

    try:
        driver = psutil.Process(child.pid)
        victims = [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        victims = []
    for victim in victims:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    child.wait()
    return len(victims)


def wait_for(child: Child, directory: Path, moment: str, draw: random.Random) -> None:
    """Returns at a random moment of a running sweep, or as soon as a save is under way."""
    began = time.monotonic()
    if moment == "any":
        seconds = draw.uniform(0.0, 4.0)
        while child.is_alive() and time.monotonic() - began < seconds:
            time.sleep(0.01)
        return
    steps = logged_steps(directory)
    while child.is_alive() and time.monotonic() - began < 30:
        if moment == "save" and any(directory.glob("runs/*/checkpoints/*/partial_*")):
            time.sleep(draw.uniform(0, 0.03))
            return
        if moment == "step" and logged_steps(directory) > steps:
            time.sleep(draw.uniform(0, 0.3))
            return
        time.sleep(0.002)


def sweep_kills(bench: Bench) -> Result:
    """SIGKILLs at random moments of a sweep: start, steps, saves; then its table against an undisturbed one."""
    tally, draw = (
        Tally("kills", "SIGKILL of driver and workers of a sweep at random moments, saves included", bench.seed),
        bench.draw("kills"),
    )
    what = experiment(bench, checkpoint_seconds=0.0)
    expected, kills, repeated, sweeps = alone(bench, what), bench.number(100, 3), [0], 0
    while tally.trials < kills:
        directory, here = bench.place("kills") / "out", []
        sweeps += 1
        for _ in range(5):
            child, moment = start(bench, drive, what, directory), draw.choice(("any", "step", "save"))
            wait_for(child, directory, moment, draw)
            if child.is_alive():
                kill_all(child)
                repeated += repeated_steps(directory)
                here.append(f"{moment} at step {logged_steps(directory)}")
            child.wait()
        child = start(bench, drive, what, directory)
        code = child.wait()
        same = code == EXIT_DONE and outcome(directory) == expected
        for index, moment in enumerate(here):
            tally.check(same and max(repeated) <= 3, f"sweep {sweeps} kill {index} ({moment}): code {code}")
        shutil.rmtree(directory.parent, ignore_errors=True)
    return tally.result(
        f"{sweeps} sweeps, {tally.trials} kills: every table and log equal bit for bit; at most {max(repeated)} "
        "steps repeated (a save every 3)"
    )


def time_limit(bench: Bench) -> Result:
    """R5: a time limit, again and again, and a warning signal before it."""
    tally = Tally("R5", "max_seconds and SIGUSR1 in a requeue loop", bench.seed)
    data = DataConfig(str(bench.corpus), max_epochs=20)
    steps = 500 if bench.scale >= 1 else 250
    what = experiment(bench, num_tokens=(steps * 32, 2 * steps * 32), data=data, steps_per_call=12)
    expected = alone(bench, what)
    ready = 3.0
    for kind in ("SIGUSR1", "limit"):
        directory, codes = bench.place("R5") / "out", []
        for launch in range(14):
            before, began, extra = logged_steps(directory), time.monotonic(), 0.5 * 1.6**launch
            child = start(bench, drive, what, directory, ready + extra if kind == "limit" else None)
            if kind == "SIGUSR1":  # as a scheduler does some time before its limit, once there has been progress
                while child.is_alive() and logged_steps(directory) == before and time.monotonic() - began < 60:
                    time.sleep(0.01)
                ready = time.monotonic() - began if launch == 0 else ready
                waited = time.monotonic()
                while child.is_alive() and time.monotonic() - waited < extra:
                    time.sleep(0.01)
                child.send(signal.SIGUSR1)
            codes.append(child.wait())
            if codes[-1] != EXIT_RESUMABLE:
                break
        differs = difference(outcome(directory), expected)
        good = codes[-1] == EXIT_DONE and len(codes) > 1 and not differs
        tally.check(good, f"{kind}: codes {codes} {differs}")
    return tally.result(f"left with 75 until done ({len(codes)} launches with the limit), and the end was equal")


def worker_death(bench: Bench) -> Result:
    """R12: a worker is killed, runs out of memory, raises, hangs, is frozen."""
    tally = Tally("R12", "a worker killed, out of memory, raising, hanging, frozen: once, and every time", bench.seed)
    what = experiment(bench)
    expected = alone(bench, what)
    words = {
        "killed": "SIGKILL",
        "memory": "memory",
        "exception": "sabotaged",
        "hang": "hung",
        "frozen": "frozen",
    }
    reasons = []
    os.environ["KLEIBER_HANG_SECONDS"] = "8"  # on a busy machine a sound worker may be still for 4
    try:
        for fault, word in words.items() if bench.scale >= 1 else [(f, words[f]) for f in ("killed", "hang")]:
            for times in (1, 9) if bench.scale >= 1 else (9,) if fault == "killed" else (1,):
                directory = bench.place("R12") / "out"
                directory.mkdir()
                name = make_names(what)[0]
                from kleiber.experiments.sweeping.ownership import own_directory

                own_directory(what, directory)
                (directory / "sabotage.json").write_text(
                    json.dumps({"trunk": name, "fault": fault, "times": times, "after": 12})
                )
                child = start(bench, drive, what, directory)
                code, found = child.wait(), outcome(directory)
                ends = json.loads((directory / "runs" / name / "attempts.json").read_text())["ends"]
                typed = bool(ends) and all(word in end["reason"] for end in ends)
                reasons += [end["reason"] for end in ends[:1]]
                others = [r for r in found["records"] if r["trunk_id"] != name]
                same = others == [r for r in expected["records"] if r["trunk_id"] != name]
                mine = [r for r in found["records"] if r["trunk_id"] == name]
                if times == 1:
                    good = code == EXIT_DONE and found["records"] == expected["records"]
                else:
                    good = len(mine) == 2 and all(r["status"] == "failed" and word in r["reason"] for r in mine)
                told = f"{fault} {times} times: code {code}, {ends}, {[r['status'] for r in mine]}"
                tally.check(good and typed and same, told)
    finally:
        del os.environ["KLEIBER_HANG_SECONDS"]
    return tally.result(
        "the others finished; once: retried from its checkpoint, equal; always: failed after 3, with reasons"
    )


def make_names(what: Experiment) -> list[str]:
    """Returns the folder names of the trunks of an experiment."""
    from kleiber.experiments.directory.record import trunk_id

    return [trunk_id(config) for config in what.trunks]


def driver_death(bench: Bench) -> Result:
    """R13: SIGKILL of the driver alone, and the same line again at once."""
    import psutil

    tally, draw = (
        Tally("R13", "SIGKILL of the driver while its workers run; the same line again", bench.seed),
        bench.draw("R13"),
    )
    what = experiment(bench, num_tokens=(200 * 32, 400 * 32))
    expected, left = alone(bench, what), 0.0
    for trial in range(bench.number(10, 1)):
        directory = bench.place("R13") / "out"
        child = start(bench, drive, what, directory)
        wait_for(child, directory, draw.choice(("any", "step", "save")), draw)
        workers = psutil.Process(child.pid).children() if child.is_alive() else []
        child.send(signal.SIGKILL)
        child.wait()
        killed = time.monotonic()
        again = start(bench, drive, what, directory)
        psutil.wait_procs(workers, timeout=40)
        left = max(left, time.monotonic() - killed)
        orphans = [worker.pid for worker in workers if worker.is_running() and worker.status() != "zombie"]
        code = again.wait()
        done = [p for p in directory.glob("runs/*/record.json")]
        same = code == EXIT_DONE and outcome(directory) == expected and len(done) == 2 * len(what.trunks)
        tally.check(same and not orphans, f"trial {trial}: code {code}, orphans {orphans}, {again.text()[-300:]}")
    return tally.result(f"workers saved and left within {left:.1f} s; nothing done twice; the end was equal")


def two_drivers(bench: Bench) -> Result:
    """R14: the same sweep twice at once; another config; locks left behind."""
    tally = Tally("R14", "two drivers at once; a changed config; locks left behind, fresh and stale", bench.seed)
    what = experiment(bench)
    expected, directory = alone(bench, what), bench.place("R14") / "out"
    first = start(bench, drive, what, directory)
    while first.is_alive() and not (directory / "sweep.json").exists():
        time.sleep(0.005)
    second = start(bench, drive, what, directory)
    code = second.wait()
    told = f"pid {first.pid} on" in second.text() and "since" in second.text()
    tally.check(code == EXIT_USAGE and told, f"second: {code} {second.text()}")
    tally.check(first.wait() == EXIT_DONE and outcome(directory) == expected, "the first was disturbed")
    changed = replace(what, trunks=tuple(replace(t, batch_size=4) for t in what.trunks))
    third = start(bench, drive, changed, directory)
    tally.check(third.wait() == EXIT_USAGE and "batch_size: 2 -> 4" in third.text(), f"changed: {third.text()}")
    for host, age, code_wanted in (("elsewhere", 0, EXIT_USAGE), ("elsewhere", 3600, EXIT_DONE), (None, 0, EXIT_DONE)):
        holder = {"pid": 999_999_999, "host": host or os.uname().nodename, "since": "yesterday", "released": False}
        beat = directory / "sweep.json"
        beat.write_text(json.dumps(holder))
        os.utime(beat, (time.time() - age, time.time() - age))
        child = start(bench, drive, what, directory)
        tally.check(child.wait() == code_wanted, f"lock of {host} {age} s old: {child.text()[-300:]}")
    return tally.result(
        "the second left with 'locked by pid ... on ... since ...'; stale locks were taken over; diff shown"
    )


def bad_directories(bench: Bench) -> Result:
    """R23: read-only, missing in the middle, foreign, led elsewhere by links."""
    tally = Tally(
        "R23", "a directory read-only, removed in the middle, foreign, or leading elsewhere by a link", bench.seed
    )
    what = experiment(bench)
    outside = bench.place("R23-outside")
    cases: dict[str, Callable[[Path], Any]] = {
        "foreign": lambda d: (d / "thesis.tex").write_text("mine"),
        "link to runs": lambda d: (d / "runs").symlink_to(outside),
        "link to experiment": lambda d: (d / "experiment.json").symlink_to(outside / "experiment.json"),
    }
    for name, make in cases.items():
        directory = bench.place("R23")
        make(directory)
        child = start(bench, drive, what, directory)
        code = child.wait()
        told = str(directory) in child.text()
        tally.check(
            code == EXIT_USAGE and told and not list(outside.iterdir()), f"{name}: {code} {child.text()[-300:]}"
        )
    directory = bench.place("R23") / "out"
    child = start(bench, drive, what, directory)
    wait_for(child, directory, "step", bench.draw("R23"))
    directory.rename(directory.with_name("moved"))
    code = child.wait()
    tally.check(code in (EXIT_CANNOT_WRITE, EXIT_RESUMABLE, EXIT_USAGE), f"moved away: {code} {child.text()[-500:]}")
    tally.check(not list(outside.iterdir()), "something was written outside")
    readonly = make_run(bench.place("R23"), what.trunks[0])
    child = start(bench, _without_rights, readonly)
    code = child.wait()
    tally.check(code == EXIT_CANNOT_WRITE and str(readonly) in child.text(), f"read-only: {code} {child.text()[-300:]}")
    return tally.result("refused or left with the path named; nothing written outside")


def _without_rights(directory: Path) -> int:
    """Works as nobody in a directory of somebody else."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (directory.parent).chmod(0o755)
    if os.getuid() == 0:
        for place in directory.parents:
            if str(place).startswith("/tmp/"):
                place.chmod(place.stat().st_mode | 0o055)
        os.setgid(65534)
        os.setuid(65534)
    return work(directory)
