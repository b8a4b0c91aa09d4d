"""The small parts of survival: savers, clocks, watchdogs, locks, reasons. Real processes are in test_chaos.py."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kleiber.experiments.config_file import load_experiment
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.sweeping.failures import Attempts, exit_reason, is_lost_peer, is_out_of_memory, note_death
from kleiber.experiments.sweeping.lock import DirectoryLock
from kleiber.experiments.sweeping.worker import is_compiling
from kleiber.train.checkpoints import checkpoint
from kleiber.train.checkpoints.manifest import CannotSave
from kleiber.train.checkpoints.saver import Saver
from kleiber.train.watch.goodput import KINDS, Goodput, read_events, total_seconds
from kleiber.train.watch.metrics import Metrics, read_rows
from kleiber.train.watch.watchdog import START_FACTOR, Watchdog

STATE = {"w": np.arange(4, dtype=np.float32)}


def test_the_format_of_the_first_release_is_still_read():
    folder = os.path.join(os.path.dirname(__file__), "data", "checkpoint_format_1")
    restored = checkpoint.restore(
        Path(folder),
        12,
        {
            "params": {"embedding": np.zeros((3, 4), np.float32), "mix": np.zeros(2, np.float32)},
            "opt_state": (np.int32(0), {"mu": np.zeros(5, np.float32)}),
        },
    )
    np.testing.assert_array_equal(restored.state["params"]["embedding"], np.arange(12).reshape(3, 4))
    assert int(restored.state["opt_state"][0]) == 7 and restored.extra["data"] == [{"position": 48}]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_never_written(tmp_path, bad):
    checkpoint.save(tmp_path, 1, STATE, {})
    with pytest.raises(checkpoint.NotFinite, match="w"):
        checkpoint.save(tmp_path, 2, {"w": np.float32([1, bad])}, {})
    assert checkpoint.steps(tmp_path) == [1] and not list(tmp_path.glob("partial_*"))


def test_a_damaged_newest_step_is_set_aside_and_goes_with_the_next_save(tmp_path):
    checkpoint.save(tmp_path, 1, STATE, {}, keep=2)
    newest = checkpoint.save(tmp_path, 2, STATE, {}, keep=2)
    (newest / "manifest.json").write_text("{")
    assert checkpoint.restore_newest(tmp_path, STATE).step == 1
    assert checkpoint.steps(tmp_path) == [1] and len(list(tmp_path.glob("damaged_2_*"))) == 1
    checkpoint.save(tmp_path, 3, STATE, {}, keep=1)
    assert checkpoint.steps(tmp_path) == [3] and not list(tmp_path.glob("damaged_*"))


def test_another_run_is_refused_field_by_field_unless_allowed(tmp_path):
    checkpoint.save(tmp_path, 1, STATE, {}, identity={"seed": 1, "optimizer": {"learning_rate": 0.1}})
    other = {"seed": 1, "optimizer": {"learning_rate": 0.2}}
    with pytest.raises(checkpoint.WrongRun, match=r"optimizer\.learning_rate: 0\.1 -> 0\.2"):
        checkpoint.restore_newest(tmp_path, STATE, other)
    assert checkpoint.restore_newest(tmp_path, STATE, other, ("learning_rate",)).step == 1
    assert checkpoint.restore_newest(tmp_path, STATE, other, ("optimizer",)).step == 1


def test_a_failed_background_save_stops_the_run_at_the_next_look(tmp_path, monkeypatch):
    def full(stage):
        if stage == "commit":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "on_stage", full)
    saver = Saver(2, {}, interval_seconds=1e9)
    saver._seconds = 0.0  # so short that it need not be waited for
    saver.start(tmp_path, 1, STATE, {})
    with pytest.raises(CannotSave, match=r"No space left.*MB free.*No older step"):
        saver.wait()
    assert checkpoint.steps(tmp_path) == [] and saver.durable == {}
    lenient = Saver(2, {}, stops_on_failure=False)
    lenient.start(tmp_path, 1, STATE, {})
    lenient.wait()


def test_a_save_in_the_background_holds_the_numbers_of_its_moment(tmp_path):
    state = {"w": np.arange(4, dtype=np.float32)}
    saver = Saver(1, {}, interval_seconds=1e9)
    saver._seconds = 0.0
    saver.start(tmp_path, 1, state, {})
    state["w"][:] = -1
    saver.wait()
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, 1, STATE).state["w"], STATE["w"])
    assert saver.durable == {tmp_path: 1}


def test_every_second_of_a_launch_is_counted_once_and_none_is_negative(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Goodput(tmp_path / "goodput.jsonl")
    for activity, seconds in (("compile", 3.0), ("steps", 5.0), ("save", 0.5)):
        with clock.doing(activity):
            now[0] += seconds
        now[0] += 1.0
    clock.lost(2.0)
    clock.write()
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the wall clock goes back by decades before the next launch
    Goodput(tmp_path / "goodput.jsonl").write()
    totals = total_seconds([tmp_path / "goodput.jsonl"])
    expected = {"compile": 3.0, "steps": 3.0, "save": 0.5, "other": 3.0, "lost": 2.0}
    assert totals == {kind: expected.get(kind, 0.0) for kind in KINDS}


def test_a_goodput_line_cut_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "goodput.jsonl"
    Goodput(path).write()
    path.write_text(path.read_text() + '{"launch": "2-1", "ti')
    assert len(read_events(path)) == 1


def test_a_step_log_drops_on_resume_every_line_that_is_not_whole(tmp_path):
    log = Metrics(tmp_path / "metrics.jsonl")
    rows = [{"step": n, "segment": "trunk", "num_tokens": 64 * n, "tokens_per_second": 32.0} for n in (1, 2, 3, 4)]
    for row in rows:
        log.append(row)
    first, second, *rest = log.path.read_text().splitlines()
    odd = ["[]", "3", "{}", "[" * 100_000, '{"step": 9, "seg', first.replace("segment", "segmejt")]
    log.path.write_text("\n".join([first, *odd, second.replace("128", "129"), *rest]))
    assert read_rows(log.path) == [rows[0], *[None] * 7, *rows[2:]]
    assert log.truncate("trunk", 3) == 2.0  # one step of 64 tokens at 32 a second
    assert read_rows(log.path) == [rows[0], rows[2]]


def test_the_watchdog_fires_on_a_stall_and_not_on_a_compilation(tmp_path, monkeypatch):
    monkeypatch.setenv("KLEIBER_HANG_SECONDS", "10")
    clock, fired = Goodput(), []
    dog = Watchdog(clock, tmp_path / "stacks.txt", on_hang=fired.append)
    dog.close()
    assert dog.limit() == START_FACTOR * 10
    for seconds in (0.1, 0.2, 0.3):
        clock.call_done(seconds)
    assert dog.limit() == 10
    clock.call_seconds = [2.0, 2.0, 2.0]
    assert dog.limit() == 40
    with clock.doing("compile"):
        assert dog.limit() == START_FACTOR * 10


def test_a_fresh_lock_of_another_machine_is_respected_and_a_stale_one_taken_over(tmp_path):
    holder = {"pid": 7, "host": "elsewhere", "since": "today", "released": False}
    beat = tmp_path / "sweep.json"
    beat.write_text(json.dumps(holder))
    with pytest.raises(ValueError, match="locked by .*pid 7 on elsewhere since today"):
        DirectoryLock(tmp_path).__enter__()
    os.utime(beat, (1.0, 1.0))
    with DirectoryLock(tmp_path) as lock:
        assert "pid 7 on elsewhere" in lock.taken_over
        with pytest.raises(ValueError, match=f"pid {os.getpid()} on"):
            DirectoryLock(tmp_path).__enter__()
    assert json.loads(beat.read_text())["released"] is True


def test_attempts_count_within_one_launch_and_keep_every_reason(tmp_path):
    for number in (1, 2, 3):
        attempts = Attempts(tmp_path, "a")
        attempts.start(100 + number)
        attempts.end(f"reason {number}")
    assert Attempts(tmp_path, "a").is_exhausted() and "2. reason 2" in Attempts(tmp_path, "a").summary()
    assert Attempts(tmp_path, "b").count == 0


def test_a_start_that_was_stopped_from_outside_does_not_count(tmp_path):
    for _ in range(5):
        attempts = Attempts(tmp_path, "a")
        attempts.start(101)
        attempts.leave(was_stopped=True)
    assert Attempts(tmp_path, "a").count == 0


def test_a_process_that_ends_at_once_gives_its_start_back_first(tmp_path):
    program = f"""
import os, signal, time
from pathlib import Path
from kleiber.experiments.sweeping.failures import Attempts
from kleiber.train.watch.signals import StopRequest
stop, attempts = StopRequest(), Attempts(Path({str(tmp_path)!r}), "a")
attempts.start(101)
stop.on_leaving = lambda: attempts.leave(was_stopped=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 75
    assert (Attempts(tmp_path, "a").count, Attempts(tmp_path, "a").pid) == (0, None)


def test_the_reason_of_a_death_is_kept_when_another_worker_was_faster_than_the_driver(tmp_path):
    folder = tmp_path / "runs" / "trunk"
    Attempts(folder, "a").start(101)
    Attempts(folder, "a").start(102)  # the claim went with the dead process, before the driver looked
    assert note_death(tmp_path, "a", 101, "hung") == "trunk" and note_death(tmp_path, "a", 999, "killed") == ""
    found = Attempts(folder, "a")
    assert [(end["attempt"], end["reason"]) for end in found.ends] == [(1, "hung")] and found.pid == 102


def test_a_death_is_noted_on_the_trunk_that_was_trained_and_on_none_that_ended_before(tmp_path):
    for name in ("a-done", "b-raised"):
        before = Attempts(tmp_path / "runs" / name, "s")
        before.start(101)
        if name == "b-raised":
            before.end("ValueError: odd")
        before.leave()
    Attempts(tmp_path / "runs" / "c-running", "s").start(101)
    assert note_death(tmp_path, "s", 101, "killed") == "c-running"
    reasons = {n: [end["reason"] for end in Attempts(tmp_path / "runs" / n, "s").ends] for n in ("a-done", "b-raised")}
    assert reasons == {"a-done": [], "b-raised": ["ValueError: odd"]}


def test_a_shape_that_another_worker_is_compiling_waits_and_other_shapes_do_not(tmp_path):
    trunks = load_experiment("miniature").trunks
    one, other = trunks[0], next(trunk for trunk in trunks if trunk.model != trunks[0].model)
    cells = trunk_cells(Experiment("x", "?", (one, replace(one, seed=99), other), laws=()), "fit")
    first, second, third = groups = [
        [cell] for cell in sorted(cells, key=lambda c: (c.config.model != one.model, c.config.seed))
    ]
    assert not any(is_compiling(group, groups, tmp_path, "s") for group in groups)
    Attempts(tmp_path / "runs" / first[0].trunk_id, "s").start(101)
    assert [is_compiling(group, groups, tmp_path, "s") for group in groups] == [False, True, False]
    (tmp_path / "runs" / first[0].trunk_id / "progress.json").write_text("{}")  # its first steps are done
    assert not any(is_compiling(group, groups, tmp_path, "s") for group in groups)


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "SIGKILL"), (-6, "SIGABRT"), (1, "exit code 1"), (74, "could not write"), (-99, "signal 99")],
)
def test_an_exit_code_becomes_a_reason(code, words):
    assert words in exit_reason(code)


def test_memory_and_lost_peers_are_told_from_mistakes():
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(ValueError("RESOURCE_EXHAUSTED: Out of memory"))
    assert is_lost_peer(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"))
    assert not is_lost_peer(ValueError("learning_rate is -1")) and not is_out_of_memory(ValueError("x"))
