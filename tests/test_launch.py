"""Workers in jobs: what a driver makes of a queue and of its jobs' signs, and what a node looks at before it works.

A true Slurm stands in launch/test_slurm.py; here a queue of a few lines takes its place.
"""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from kleiber.experiments.cli import main
from kleiber.experiments.config_file import config_hash, load_experiment, to_data
from kleiber.experiments.directory.record import TIMING_COLUMNS
from kleiber.experiments.launch import job, slurm
from kleiber.experiments.launch.job import Job, Sign
from kleiber.experiments.launch.launcher import Phase, open_launcher
from kleiber.experiments.sweeping import lock, node, sweep
from kleiber.experiments.sweeping.workers import WorkerPool
from kleiber.files import write_json
from kleiber.scaling.table.reading import read_file


class FakeQueue:
    def __init__(self, **states):
        self.states, self.cancelled = states, []

    def state(self, name):
        return self.states.get(name, "")

    def cancel(self, name):
        self.cancelled.append(name)


def ended(sign, code):
    sign.exit_code = code
    sign.write()


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("slrum:partition=x", "expected local, slurm, ray, kubernetes, skypilot, xpk.*did you mean 'slurm'"),
        ("slurm:partition", "expected NAME=VALUE"),
        ("slurm:jobs=none", "jobs=none, expected a whole number"),
        ("slurm:time=2", "time=2, expected at least 3 minutes: a job saves 90 seconds before its end"),
        ("slurm:nodes=2,jobs=3", "nodes=2 train one run together.*not jobs=3"),
        ("slurm:container=a,apptainer=b", "container= is an image of pyxis and apptainer= one of Apptainer: give one"),
        ("skypilot:image=x", "needs volume=.*sky volumes apply"),
        ("skypilot:image=x,volume=y,gpu=2", "not gpu"),
        ("xpk:cluster=c,tpu-type=v5p-8,image=x", "needs storage="),
        ("xpk:hosts=0", "hosts=0, expected a whole number"),
        ("local:nodes=3", "takes workers=NUMBER alone, not nodes"),
        ("kubernetes:image=x", "needs claim="),
        ("kubernetes:image=x,claim=y,kind=Jobset", "kind=Jobset, expected Job or JobSet"),
        ("kubernetes:image=x,claim=y,cpus=2", "not cpus"),
    ],
)
def test_a_launcher_that_cannot_be_made_says_why(line, told):
    with pytest.raises(ValueError, match=told):
        open_launcher(line)


def test_a_job_is_at_work_while_it_is_in_the_queue_and_ends_as_its_sign_says(directory):
    queue = FakeQueue(a="PENDING")
    one = Job("a", directory, queue)
    assert one.poll() is None
    sign = Sign(directory, "a", "n1")
    sign.say("warning: n1: slow")
    queue.states["a"] = "RUNNING"
    assert one.poll() is None and one.heard() == ["warning: n1: slow"] and one.heard() == []
    ended(sign, 75)  # it was preempted: it is in the queue again, and so it goes on
    queue.states["a"] = "PENDING"
    assert one.poll() is None
    again = Sign(directory, "a", "n2")
    again.say("n2: odd")
    ended(again, 2)
    queue.states.clear()
    assert one.poll() == 2 and one.heard() == ["n2: odd"]


def test_a_job_that_left_the_queue_without_a_word_was_killed(directory):
    queue = FakeQueue(a="RUNNING")
    one = Job("a", directory, queue)
    Sign(directory, "a", "n1")
    assert one.poll() is None
    queue.states.clear()
    assert one.poll() == -9


def test_a_job_that_never_shows_itself_ends_the_sweep_with_the_cause(directory, monkeypatch):
    assert (one := Job("a", directory, FakeQueue())).poll() == 2
    assert "do the nodes of this cluster see that directory?" in one.heard()[0]
    two = Job("b", directory, FakeQueue(b="RUNNING"))
    assert two.poll() is None
    two.running_since -= 301  # of the 300 s of KLEIBER_START_SECONDS
    assert two.poll() == 2


def test_jobs_that_wait_are_cancelled_once_nothing_is_left_to_do(directory):
    (directory / "experiment.json").write_text("{}")
    queue = FakeQueue(a="RUNNING", b="PENDING")
    ended(Sign(directory, "a", "n1"), 0)
    ended(Sign(directory, "b", "n1"), 75)  # preempted: it waits for its turn
    left = [2]

    class Two:
        def num_workers(self, num_trunks):
            return 2

        def start(self, phase, indices):
            return [Job(name, directory, queue) for name in "ab"]

    def tick():
        left[0] -= 1
        if left[0] == 0:
            del queue.states["a"]

    queue.cancel = lambda name: queue.states.pop(name) and queue.cancelled.append(name)
    with open(directory / "log.txt", "a") as log:
        phase = Phase(directory, "fit", "s", log, num_trunks=2)
        pool = WorkerPool(phase, print, (Two(),), is_over=lambda: left[0] <= 0)
        assert pool.run(tick) == 0
    assert queue.cancelled == ["b"]


def test_a_job_that_never_shows_itself_is_told_with_the_end_of_its_own_log(directory):
    log = directory / "jobs" / "slurm" / "21_0_0_log.out"
    one = Job("slurm-21_0", directory, FakeQueue(), "slurm/21_0_*.out")
    assert one.poll() == 2
    assert "no log slurm/21_0_*.out there, either: do the nodes of this cluster see" in one.heard()[0]
    log.parent.mkdir(parents=True)
    log.write_text("submitit\npython: No such file or directory\n\nsrun: error: exit code 2\n")
    two = Job("slurm-21_0", directory, FakeQueue(), "slurm/21_0_*.out")
    assert two.poll() == 2
    (told,) = two.heard()
    assert told.endswith(f"its log {log} ends with: python: No such file or directory")
    assert "do the nodes" not in told  # one has written that log
    Sign(directory, "other", "n1")  # so that nodes do see the directory
    three = Job("slurm-21_0", directory, FakeQueue(), "slurm/21_0_*.out")
    assert three.poll() == -9 and "ends with: python: No such file" in three.heard()[0]


def test_the_first_node_that_begins_is_told_and_no_other(directory, monkeypatch):
    monkeypatch.setattr(slurm.Slurm, "_look", lambda self: self._states.update({"slurm-8_0": "RUNNING"}))
    monkeypatch.setattr(slurm.Slurm, "_submit", lambda self, phase, count: ["slurm-8_1"])
    said = []
    phase = Phase(directory, "fit", "s", sys.stdout, experiment_name="e", say=said.append)
    jobs = open_launcher("slurm").start(phase, range(2))
    ended(Sign(directory, "slurm-8_0", "n0"), 75)  # and waits for its turn
    assert jobs[0].poll() is None and len(said) == 2
    for number in (1, 0, 1):
        Sign(directory, f"slurm-8_{number}", f"n{number}")
        jobs[number].poll()
    assert said[2:] == [f"the first job is at work on n1, which sees {directory}"]


@pytest.mark.parametrize(("offset", "words"), [(200, "200 s ahead of"), (-300, "300 s behind"), (-20, "")])
def test_a_clock_that_differs_is_told_once(directory, monkeypatch, offset, words):
    now = time.time()
    one = Job("a", directory, FakeQueue(a="RUNNING"))
    for second in range(4):
        monkeypatch.setattr(job.time, "time", lambda at=now + second + offset: at)
        Sign(directory, "a", "n1")
        monkeypatch.setattr(job.time, "time", lambda at=now + second: at)
        one.poll()
    told = one.heard()
    assert len(told) == bool(words) and words in "".join(told)


def order(directory, experiment, **given):
    return node.Order(directory, **{"name": "x-0", "split": "fit", "session": "s", "experiment": experiment, **given})


def told_by(directory):
    sign = json.loads((directory / "jobs" / "x-0.json").read_text())
    return sign["exit_code"], " ".join(sign["words"])


def test_a_node_begins_nothing_where_it_does_not_see_what_the_driver_sees(directory, monkeypatch, capsys):
    monkeypatch.setattr(node, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(node, "WorkerPool", None)  # whoever begins fails
    assert node.main(order(directory / "elsewhere", "abc")) == 2
    assert "sees no sweep in" in capsys.readouterr().out and not (directory / "elsewhere").exists()
    experiment = load_experiment("miniature")
    write_json(directory / "experiment.json", to_data(experiment))
    assert node.main(order(directory, "abc")) == 2
    assert told_by(directory)[0] == 2 and "holds another experiment than the driver has" in told_by(directory)[1]
    assert node.main(order(directory, config_hash(experiment), split="target", ledger="f00d")) == 2
    assert "ledger.jsonl has no line f00d: no target begins before it" in told_by(directory)[1]
    monkeypatch.setattr(node, "is_seen", lambda directory: False)
    assert node.main(order(directory, config_hash(experiment))) == 2
    assert "two workers would train one run" in told_by(directory)[1]


def test_locks_that_do_not_hold_here_are_found_while_their_driver_lives(directory, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    (directory / "sweep.json").touch()
    assert lock.is_seen(directory)  # of a driver that is gone: nothing to see
    leave = threading.Event()

    def live():
        while not leave.wait(0.005):
            os.utime(directory / "sweep.json")

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert not lock.is_seen(directory)
    finally:
        leave.set()
        thread.join()
    (directory / "sweep.json").unlink()
    with lock.DirectoryLock(directory):
        assert lock.is_seen(directory)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Puts commands of Slurm on the PATH that write down how they are called: a queue of two jobs, one partition."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": 'case "$*" in *=debug*) ;; *) echo "invalid partition specified: x" >&2; exit 1;; esac',
        "squeue": "printf '7_0 RUNNING %s\\n7_1 PENDING %s\\n6 RUNNING %s-old\\n5 RUNNING other\\n' $NAME $NAME $PLACE",
        "sinfo": "printf 'debug* 1:00:00\\nlong infinite\\n'",
        "scancel": "",
    }
    for name, program in programs.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/called\n{program}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: True)
    return tmp_path


def test_a_partition_that_does_not_exist_is_refused_before_anything_is_made(cluster, capsys):
    out = cluster / "out"
    assert main(["sweep", "miniature", "--out", str(out), "--launch", "slurm:partition=x"]) == 2
    assert "Slurm does not take such a job: invalid partition specified: x" in capsys.readouterr().err
    assert not out.exists()


def test_without_submitit_or_slurm_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'kleiber\[slurm\]'"):
        open_launcher("slurm").check(tmp_path)
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no sbatch here"):
        open_launcher("slurm").check(tmp_path)


def phase_of(directory, monkeypatch, submitter):
    """Returns a phase, and what is said of it, with the jobs of two that a launcher has submitted in the queue."""
    said, place = [], f"kleiber-e-fit-{hashlib.sha256(str(directory).encode()).hexdigest()[:6]}"
    phase = Phase(directory, "fit", "s", sys.stdout, 1, 24, "e", "abc", say=said.append)
    submitter._name = f"{place}-abc"
    monkeypatch.setenv("PLACE", place)
    monkeypatch.setenv("NAME", submitter._full_name())
    submitter._name = ""
    return phase, said


def test_jobs_of_a_line_with_another_time_are_not_taken_for_its_own(cluster, directory, monkeypatch):
    monkeypatch.setattr(slurm.Slurm, "_submit", lambda self, phase, count: [f"slurm-8_{i}" for i in range(count)])
    phase, said = phase_of(directory, monkeypatch, open_launcher("slurm:partition=debug,time=5,jobs=2"))
    jobs = open_launcher("slurm:partition=debug,time=50,jobs=3").start(phase, range(3))
    assert [each.name for each in jobs] == ["slurm-7_0", "slurm-8_0", "slurm-8_1"]
    called = (cluster / "called").read_text()
    assert "scancel --state=PENDING 7_1\n" in called and "scancel 7_0" not in called  # which is at work
    assert said[0] == "job 7_1 waited with other options than this line has: cancelled"
    assert said[1].startswith("job 7_0, submitted with other options") and said[1].endswith("scancel 7_0")
    assert said[2:] == ["found job 7_0 in the queue", "submitted jobs 8_0, 8_1 to debug"]


@pytest.mark.parametrize("options", ["partition=debug,time=61", "job_name=debug,time=61"])
def test_more_time_than_a_partition_gives_is_refused_with_both_numbers(cluster, directory, options):
    with pytest.raises(ValueError, match="time=61 minutes, and partition debug gives 60 at most"):
        open_launcher(f"slurm:{options}").check(directory)


def test_time_that_a_partition_gives_is_taken(cluster, directory):
    for options in ("partition=debug,time=60", "comment=debug,partition=long,time=9999", "qos=debug,time=61"):
        open_launcher(f"slurm:{options}").check(directory)


@pytest.mark.parametrize(
    ("limit", "minutes"), [("2-01:00:00", 2940), ("1:00:00", 60), ("30:00", 30), ("0:30", 0), ("infinite", None)]
)
def test_limits_of_slurm_are_read(limit, minutes):
    assert slurm.minutes_of(limit) == minutes


def test_a_driver_takes_up_the_jobs_that_one_before_it_has_left_and_submits_the_rest(cluster, directory, monkeypatch):
    submitted = []
    monkeypatch.setattr(slurm.Slurm, "_submit", lambda self, phase, count: submitted.append(count) or ["slurm-8"])
    launcher = open_launcher("slurm:partition=debug,time=5,jobs=3")
    phase, said = phase_of(directory, monkeypatch, launcher)
    launcher.check(directory)
    assert launcher.num_workers(24) == 3 and launcher.num_workers(2) == 2
    jobs = launcher.start(phase, range(3))
    assert [each.name for each in jobs] == ["slurm-7_0", "slurm-7_1", "slurm-8"] and submitted == [1]
    assert said == ["found jobs 7_0, 7_1 in the queue", "submitted job 8 to debug"]
    assert launcher.start(phase, [1])[0].name == "slurm-8" and submitted == [1, 1]  # in place of one that died
    jobs[1].terminate()
    called = (cluster / "called").read_text()
    assert (
        "sbatch --test-only --time=5 --nodes=1 --ntasks-per-node=1 --requeue --partition=debug --wrap=true" in called
        and "scancel 7_1" in called
    )
    assert "scancel 6" in called and "scancel 5" not in called  # of a config that was changed since


PROGRAM = """
import json, sys
from pathlib import Path
width, tokens, seed, out = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
rows = [{"num_tokens": int(n), "loss": 1.5 + 3 / width + 90 / int(n) + 0.001 * seed} for n in tokens.split(",")]
(out / "record.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""
EXPERIMENT = """
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.command import Command
from kleiber.train.config import OptimizerConfig, TrainConfig


def experiment():
    line = "{python} program.py {d_model} {all_num_tokens} {seed} {folder}"
    trunks = [
        TrainConfig(ModelConfig(d, 1, 1), OptimizerConfig(0.01), (10_240, 20_480), seed=s, command=Command(line))
        for d in (8, 16) for s in (1, 2)
    ]
    return Experiment(name="own", question="?", trunks=tuple(trunks), laws=())
"""


class NodesHere:
    """A cluster of processes: its first job is lost before it can do anything."""

    def __init__(self):
        self.processes, self.lost = {}, []

    def check(self, directory): ...

    def num_workers(self, num_trunks):
        return 1

    def start(self, phase, indices):
        name = f"here-{len(self.processes)}"
        command = [sys.executable, "-m", "kleiber.experiments.sweeping.node", f"--name={name}", *phase.arguments(1)]
        if not self.processes:
            command = ["false"]
            Sign(phase.directory, name, "n1")
        self.processes[name] = subprocess.Popen(command)
        return [Job(name, phase.directory, self)]

    def state(self, name):
        return "RUNNING" if self.processes[name].poll() is None else ""

    def cancel(self, name):
        self.processes[name].terminate()


def test_jobs_give_the_table_of_local_workers_and_a_lost_one_is_replaced(tmp_path, monkeypatch, capsys):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "own.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "own.py", "--out", "a", "--no-report", "--workers", "1"]) == 0
    monkeypatch.setattr(sweep, "open_launcher", lambda line, workers: NodesHere())
    assert main(["sweep", "own.py", "--out", "b", "--no-report", "--launch", "here"]) == 0
    one, other = (read_file(tmp_path / name / "table.parquet") for name in "ab")
    assert set(one) == set(other)
    assert all(list(one[name]) == list(other[name]) for name in one if name not in TIMING_COLUMNS)
    assert "killed by SIGKILL" in (tmp_path / "b" / "log.txt").read_text()
    capsys.readouterr()
    assert main(["sweep", "own.py", "--out", "b", "--no-report", "--launch", "here"]) == 0
    assert "nothing is left to submit: 8 of 8 points are done in b\n" in capsys.readouterr().out
    assert main(["sweep", "own.py", "--out", "a", "--no-report"]) == 0
    assert "nothing is left to submit" not in capsys.readouterr().out
