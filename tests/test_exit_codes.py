"""Claims about exit codes: what a second try does not mend is never 75 or 0, and its cause stands on the screen."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kleiber.experiments import cli
from kleiber.experiments.cli import VERBS, main
from kleiber.experiments.commands import data as data_verb
from kleiber.experiments.config_file import load_experiment
from kleiber.experiments.launch import local
from kleiber.experiments.launch.launcher import Phase
from kleiber.experiments.planning.cells import all_cells, trunk_cells
from kleiber.experiments.sweeping.follow import lead_launch
from kleiber.experiments.sweeping.workers import WorkerPool
from kleiber.files import write_json


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Returns a function that runs a phase whose workers run lines of Python: (exit code, pool, what was said)."""

    def run(*programs: str):
        (tmp_path / "experiment.json").write_text("{}")
        started = []

        def start_worker(arguments, log, num_devices, variables=None):
            read, write = os.pipe()
            os.set_blocking(read, False)
            code = programs[min(len(started), len(programs) - 1)]
            started.append(code)
            environment = {**os.environ, "PIPE": str(write)}
            process = subprocess.Popen(
                [sys.executable, "-c", code], stdout=log, stderr=log, env=environment, pass_fds=(write,)
            )
            os.close(write)
            return process, read

        if programs:
            monkeypatch.setattr(local, "start_worker", start_worker)
        said: list[str] = []
        with open(tmp_path / "log.txt", "a") as log:
            pool = WorkerPool(Phase(tmp_path, "fit", "session", log), said.append)
            return pool.run(lambda: None), pool, said

    return run


def test_workers_that_die_alike_before_they_take_up_a_run_end_with_3_and_the_cause(pool):
    code, ended, said = pool("raise RuntimeError('the disk of code is gone')")
    assert code == 3 and len(said) == 2
    assert ended.messages == [
        "3 workers in a row, before they took up a run, ended with exit code 1: RuntimeError: the disk of code is gone"
    ]


def test_a_worker_that_dies_once_is_started_again_with_its_cause_on_the_screen(pool):
    code, ended, said = pool("raise RuntimeError('once')", "pass")
    assert code == 0 and not ended.messages
    assert said[0].endswith("ended with exit code 1: RuntimeError: once; starting it again")


def test_workers_killed_from_outside_may_go_better_another_time(pool):
    killed = "import os; os.kill(os.getpid(), 9)"
    code, ended, said = pool(killed, killed, killed, killed, "pass")
    assert code == 0 and len(said) == 4


def test_a_mistake_that_a_worker_tells_ends_with_2_at_once(pool):
    code, ended, said = pool("import os; os.write(int(os.environ['PIPE']), b'it is wrong\\n'); os._exit(2)")
    assert (code, ended.messages, said) == (2, ["it is wrong"], [])


def test_a_phase_that_is_of_no_use_ends_with_3_and_why(tmp_path):
    (tmp_path / "experiment.json").write_text("{}")

    class Idle:
        def num_workers(self, num_trunks):
            return 1

        def start(self, phase, indices):
            return [SimpleNamespace(pid=None, heard=list, poll=lambda: 0, terminate=str, close=str) for _ in indices]

    with open(tmp_path / "log.txt", "a") as log:
        phase = Phase(tmp_path, "fit", "session", log)
        pool = WorkerPool(phase, print, (Idle(),), is_hopeless=lambda: "all fail")
        assert (pool.run(lambda: None), pool.messages) == (3, ["all fail"])


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"name": 1}', "{"])
def test_a_worker_that_cannot_read_its_experiment_says_so_and_ends_with_2(tmp_path, content):
    (tmp_path / "experiment.json").write_text(content)
    with open(tmp_path / "log.txt", "a") as log:
        pool = WorkerPool(Phase(tmp_path, "fit", "session", log), print)
        assert pool.run(lambda: None) == 2
    assert len(pool.messages) == 1 and "\n" not in pool.messages[0]


@pytest.mark.parametrize("value", ["0", "-1", "1e-3", "nan", "inf", "abc"])
@pytest.mark.parametrize("name", ["KLEIBER_HANG_SECONDS", "KLEIBER_START_SECONDS"])
def test_nonsense_seconds_of_the_environment_are_refused_before_anything_is_made(
    tmp_path, monkeypatch, capsys, name, value
):
    monkeypatch.setenv(name, value)
    assert main(["sweep", "miniature", "--out", str(tmp_path / "out")]) == 2
    assert f"{name} is '{value}', expected a number of seconds, at least 1." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["nan", "0", "-5", "inf"])
@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_a_nonsense_time_limit_is_refused_before_anything_is_made(tmp_path, capsys, verb, value):
    assert main([verb, "miniature", "--out", str(tmp_path / "out"), f"--max-seconds={value}"]) == 2
    assert f"a time limit of {float(value):g} seconds, expected a positive one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("laws=('chinchila',)", "there is no law 'chinchila'. Did you mean 'chinchilla'"),
        ("level=1.5", "level is 1.5, expected 0 < level < 1."),
        ("trunks=trunks(num_tokens=(25.6e2 + 0.5,))", "num_tokens is (2560.5,), expected a whole number, at least 1."),
        ("trunks=trunks(optimizer=OptimizerConfig(.01, name='adam'))", "did you mean 'adamw'?"),
        ("trunks=trunks(factors=(('loss', 5.0),))", "a factor is named 'loss'"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_a_mistake_of_a_config_is_2_before_anything_is_trained(tmp_path, capsys, verb, config, said):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from kleiber.experiments.configs.miniature import experiment as shipped\n"
        "from kleiber.train.config import OptimizerConfig\n"
        "def trunks(**changes):\n    return tuple(replace(trunk, **changes) for trunk in shipped().trunks)\n"
        f"def experiment():\n    return replace(shipped(), {config})\n"
    )
    out = ["--out", str(tmp_path / "out")] if verb == "sweep" else []
    assert main([verb, str(path), *out]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 74, "cannot write under here: [Errno 28] No space left"),
        (OSError(errno.ENOSPC, "No space left on device", "there/fit.json"), 74, "there/fit.json"),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "a/record.json"),
            2,
            "a/record.json: Is a directory. Move it",
        ),
        (
            OSError(errno.ELOOP, "Too many levels of symbolic links", "a"),
            2,
            "a: Too many levels of symbolic links. Move",
        ),
        (OSError(errno.ESTALE, "Stale file handle", "a"), 74, "a: Stale file handle. What is saved is kept; the same"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), 74, "mend that, then type the same line"),
    ],
)
def test_an_error_of_the_system_says_what_it_was_with_its_path(monkeypatch, capsys, problem, code, said):
    def run(options):
        raise problem

    class Options:
        out = Path("here")

    monkeypatch.setattr(data_verb, "run", run)
    monkeypatch.setattr("tyro.cli", lambda *_, **__: Options())
    assert cli.main(["data"]) == code
    told = capsys.readouterr().err
    assert told.startswith("kleiber data: ") and said in told and told.count("\n") == 1
    assert ("MB free" in told) == (problem.errno in (errno.ENOSPC, errno.EROFS))
    assert ("make room" in told) == (problem.errno == errno.ENOSPC)


@pytest.mark.parametrize(
    ("problem", "code"), [(ValueError("wrong"), 2), (OSError(errno.ENOSPC, "full"), 74), (KeyboardInterrupt(), 75)]
)
def test_the_others_are_told_how_the_lead_ended(tmp_path, problem, code):
    def run():
        raise problem

    with pytest.raises(type(problem)):
        lead_launch(tmp_path, run)
    assert json.loads((tmp_path / "launch.json").read_text())["exit_code"] == code


def test_a_record_that_is_a_directory_is_told_and_ends_with_2(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from kleiber.experiments.configs.miniature import experiment as shipped\n"
        "from kleiber.train.config import DataConfig, EvalConfig\n"
        f"data = DataConfig('{tmp_path}/text.txt')\n"
        "def experiment():\n"
        "    trunk = replace(shipped().trunks[0], num_tokens=(1280,), data=data, evaluation=EvalConfig(512))\n"
        "    return replace(shipped(), trunks=(trunk,), targets=(), laws=())\n"
    )
    (tmp_path / "text.txt").write_text("\n\n".join(f"line {i} of a text, {i * i}" for i in range(3000)))
    from kleiber.experiments.config_file import load_experiment
    from kleiber.experiments.planning.cells import trunk_cells
    from kleiber.experiments.sweeping.ownership import make_directory, own_directory

    experiment, out = load_experiment(str(path)), tmp_path / "out"
    make_directory(out)
    own_directory(experiment, out)
    for name in trunk_cells(experiment, "fit")[0].run_ids.values():
        (out / "runs" / name / "record.json").mkdir(parents=True)
    assert main(["sweep", str(path), "--out", str(out), "--no-report"]) == 2
    assert "record.json is no file but a folder; move it out of the way" in capsys.readouterr().err


def test_a_shell_is_told_every_verb_and_option(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--tyro-print-completion", "bash"])
    script = capsys.readouterr().out
    assert not end.value.code and "complete -F" in script
    assert all(f"'{verb}'" in script for verb in VERBS) and "--retry-failed" in script


def test_a_sweep_that_is_interrupted_says_how_far_it_is(tmp_path, capsys, monkeypatch):
    def stopped(self, retry_failed, allow):
        experiment = load_experiment("miniature")
        for cell in trunk_cells(experiment, "fit")[:2]:
            name = next(iter(cell.run_ids.values()))
            write_json(tmp_path / "out" / "runs" / name / "record.json", {})
        raise KeyboardInterrupt

    monkeypatch.setattr("kleiber.experiments.sweeping.sweep._Sweep.run", stopped)
    assert main(["sweep", "miniature", "--out", str(tmp_path / "out")]) == 75
    total = sum(len(cell.run_ids) for cell in all_cells(load_experiment("miniature")))
    assert f"interrupted, 2 of {total} points are done; the same line goes on" in capsys.readouterr().err
