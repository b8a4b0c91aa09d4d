"""Failure tests of several processes with one mesh: a signal to one of them, deaths, freezes, hangs, a clean end."""

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from chaos.sabotage import sabotage
from chaos.trial import (
    Bench,
    Child,
    Result,
    Tally,
    logged_steps,
    make_run,
    outcome,
    start,
    tiny,
    work,
)
from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_RESUMABLE

HEARTBEAT_SECONDS = 10
RANKS = 2


def rank(number: int, port: int, directory: Path, is_sabotaged: bool) -> int:
    """Works as one process of several; each sees one CPU device."""
    os.environ |= {
        "KLEIBER_COORDINATOR": f"127.0.0.1:{port}",
        "KLEIBER_NUM_PROCESSES": str(RANKS),
        "KLEIBER_PROCESS_ID": str(number),
        "KLEIBER_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
        "KLEIBER_START_SECONDS": "60",
    }
    if is_sabotaged:
        sabotage(directory)
    return work(directory)


def launch(bench: Bench, directory: Path, sabotaged: int | None = None) -> list[Child]:
    """Starts all processes of a run and returns them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(bench, rank, number, port, directory, number == sabotaged) for number in range(RANKS)]


def ended(children: list[Child], seconds: float = 120) -> list[int]:
    """Returns the exit codes of all processes once all have ended; -999 for one that had to be killed."""
    deadline = time.monotonic() + seconds
    return [child.wait(max(0.1, deadline - time.monotonic())) for child in children]


def until_step(children: list[Child], directory: Path, step: int) -> None:
    """Returns when a log has reached a step, or a process has ended."""
    while all(child.is_alive() for child in children) and logged_steps(directory) < step:
        time.sleep(0.01)


def config(bench: Bench) -> Any:
    """Returns the tiny run on a mesh of two processes, saving only when it is asked to stop."""
    from kleiber.parallel.config import MeshConfig

    return tiny(bench, mesh=MeshConfig(data=RANKS), checkpoint_seconds=0.5)


def alone(bench: Bench) -> dict[str, Any]:
    """Returns the outcome of the run left alone, and checks nothing else."""
    directory = make_run(bench.place("hosts-alone"), config(bench))
    children = launch(bench, directory)
    codes = ended(children)
    if codes != [EXIT_DONE] * RANKS:
        raise RuntimeError(
            f"undisturbed ranks ended with {codes}:\n{children[0].text()[-1500:]}\n{children[1].text()[-1500:]}"
        )
    return outcome(directory)


def clean_end(bench: Bench) -> Result:
    """R21: both processes finish."""
    tally = Tally("R21", "two processes finish a run", bench.seed)
    for trial in range(bench.number(5)):
        directory = make_run(bench.place("R21"), config(bench))
        children = launch(bench, directory)
        codes = ended(children)
        done = [record["status"] for record in outcome(directory)["records"]]
        tally.check(codes == [0, 0] and done == ["done"], f"trial {trial}: {codes} {done} {children[1].text()[-500:]}")
    return tally.result("both exit codes 0, the record there once")


def signal_to_one(bench: Bench) -> Result:
    """R4: a stop signal to one process, or to both."""
    tally = Tally("R4", "SIGTERM or SIGINT to one of two processes, or to both", bench.seed)
    expected = alone(bench)
    cases = [(0, "SIGTERM"), (1, "SIGTERM"), (1, "SIGINT"), (None, "SIGTERM")]
    slowest = 0.0
    for who, name in cases if bench.scale >= 1 else cases[1:2]:
        directory = make_run(bench.place("R4"), config(bench))
        children = launch(bench, directory)
        until_step(children, directory, 12)
        sent = time.monotonic()
        for number, child in enumerate(children):
            if who in (None, number):
                child.send(getattr(signal, name))
        codes = ended(children, 60)
        slowest = max(slowest, time.monotonic() - sent)
        again = ended(launch(bench, directory)) if EXIT_RESUMABLE in codes else []
        same = outcome(directory) == expected
        what = f"{name} to {who}: {codes}, again {again}, {children[0].text()[-300:]}"
        tally.check(codes == [EXIT_RESUMABLE] * RANKS and same, what)
    return tally.result(f"both saved the same step and left with 75 within {slowest:.1f} s; the end was equal")


def death_and_hang(bench: Bench) -> Result:
    """R18: one process killed, frozen, or asleep for ever."""
    tally = Tally("R18", "SIGKILL, SIGSTOP, or endless sleep of one of two processes", bench.seed)
    expected, times = alone(bench), {}
    os.environ["KLEIBER_HANG_SECONDS"] = "8"
    try:
        for fault in ("killed", "frozen", "hang") if bench.scale >= 1 else ("hang",):
            for victim in (0, 1) if bench.scale >= 1 else (1,):
                directory = make_run(bench.place("R18"), config(bench))
                (directory / "sabotage.json").write_text(f'{{"trunk":"","fault":"{fault}","times":1,"after":12}}')
                children = launch(bench, directory, victim)
                while all(c.is_alive() for c in children) and not (directory / "sabotaged").exists():
                    time.sleep(0.01)
                began = time.monotonic()
                if fault == "frozen":  # nobody can end it but the supervisor, once its peers have gone
                    children[1 - victim].wait(60)
                    children[victim].send(signal.SIGKILL)
                codes = ended(children, 60)
                took = times[f"{fault} {victim}"] = time.monotonic() - began
                stacks = list(directory.glob("runs/*/stacks*.txt")) if fault == "hang" else ["-"]
                again = ended(launch(bench, directory))
                limit = HEARTBEAT_SECONDS + (5 if bench.scale >= 1 else 15)  # the short form runs beside other tests
                good = took < limit and bool(stacks) and again == [0, 0]
                what = f"{fault} of {victim}: {codes} after {took:.0f} s, stacks {len(stacks)}, again {again}"
                tally.check(good and outcome(directory) == expected, what)
    finally:
        del os.environ["KLEIBER_HANG_SECONDS"]
    shown = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in times.items())
    return tally.result(
        f"all processes ended ({shown}; heartbeat {HEARTBEAT_SECONDS} s, limit 5 s more), the sleeper with stacks "
        "written; relaunched, the end was equal",
        "without a watchdog a sleeping process keeps its heartbeat, and its peers wait for ever",
    )
