"""Cells that a program of the user's trains: what it is told, what is taken from it, and what happens when it errs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kleiber.experiments.config_file import from_data, load_experiment, to_data
from kleiber.experiments.directory.doctor import diagnose
from kleiber.experiments.directory.record import TIMING_COLUMNS, read_record, record_path
from kleiber.experiments.experiment import Experiment, Target
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.planning.plan import make_plan
from kleiber.experiments.report.checklist import checklist
from kleiber.experiments.report.drawing import Study
from kleiber.experiments.report.results import read_results
from kleiber.experiments.sweeping import command_run, law_stage, worker, workers
from kleiber.experiments.sweeping.bad_ends import FailedAlike, bad_ends
from kleiber.experiments.sweeping.inventory import check_text
from kleiber.files import write_json
from kleiber.model.config import ModelConfig
from kleiber.model.counts import num_params_total
from kleiber.scaling.table.reading import read_file
from kleiber.train.command import Command
from kleiber.train.config import GuardConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from kleiber.train.watch.metrics import whole_rows

PROGRAM = """
import json, math, os, sys, time
from pathlib import Path
width, tokens, seed, out, how = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
def loss(n):
    return 1.5 + 3 / width ** 0.5 + 90 / n ** 0.5 + 0.001 * (seed % 5)
rows = [{"num_tokens": n, "loss": loss(n)} for n in map(int, tokens.split(","))]
if how == "size": rows[-1]["num_params_total"] = 12345
if how == "curve": rows.insert(1, {"num_tokens": 1500, "loss": 9.5})
if how == "nan": rows[-1]["loss"] = math.nan
if how == "short": rows[-1]["num_tokens"] -= 7
if how == "steps": rows[-1]["num_tokens"] //= 256
if how == "sleep": time.sleep(600)
if how == "slow": time.sleep(0.3)
if how == "exit": sys.exit("no such file as train.bin")
if how == "mapped": rows = [{"it": r["num_tokens"] // 256, "val/ppl": math.exp(r["loss"])} for r in rows]
if how != "nothing": (out / "record.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "a program.py"
    path.write_text(PROGRAM)
    return path


def line(program, how="well", tokens="all_num_tokens"):
    return f"{{python}} '{program}' {{d_model}} {{{tokens}}} {{seed}} {{folder}} {how}"


def trunk(command, width=8, num_tokens=(1024,), seed=3, factors=()):
    return TrainConfig(
        ModelConfig(width, num_layers=1, num_heads=1, seq_len=64), OptimizerConfig(0.01), num_tokens, seed=seed,
        schedule=ScheduleConfig(warmup_steps=0), command=Command(command) if isinstance(command, str) else command,
        factors=factors,
    )  # fmt: skip


def cell_of(config):
    return trunk_cells(Experiment("own", "?", (config,), laws=()), "fit")[0]


class Stop:
    reason, has_work = "", False

    def __call__(self):
        return bool(self.reason)


def claimed(config, directory, times=1):
    """Returns the records of a trunk's points, and how often its program was started, after some claims of it."""
    experiment = Experiment("own", "?", (config,), laws=())
    (directory / "experiment.json").write_text("{}")
    for _ in range(times):
        worker._claim(experiment, [cell_of(config)], directory, "session", Stop())
    return records_of(config, directory), starts(directory)


def records_of(config, directory):
    paths = [record_path(directory, name) for name in cell_of(config).run_ids.values()]
    return [read_record(path) for path in paths if path.exists()]


def starts(directory):
    return sum(path.read_text().count(" $ ") for path in directory.glob("runs/*/output.txt"))


def test_a_command_is_told_the_fields_of_its_trunk():
    words = "run --w={d_model} '{optimizer.beta1:.2f} {bits}' {num_tokens} {all_num_tokens} {num_steps} {{x}}"
    config = trunk(words, num_tokens=(1000, 2050), factors=(("bits", 4),))  # steps of 4 x 64 tokens
    assert config.command.arguments(config) == ["run", "--w=8", "0.90 4", "2048", "1024,2048", "8", "{x}"]
    assert from_data(TrainConfig, to_data(config)) == config


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("run {d_modl}", r"\{d_modl\}, which is no field.*did you mean \{d_model\}"),
        ("run {model.__class__}", "no field of a trunk"),
        ("run {d_ff}", "is None here"),
        ("run {seed", "expected '}'"),
        ("run 'x", "No closing quotation"),
        ("  ", "command.line is empty"),
        ("run {seed:Q}", "Unknown format code"),
        ("run {max_iters}", r"did you mean \{num_steps\}"),
        ("run {n_embd}", r"did you mean \{d_model\}"),
        ("run {lr}", r"did you mean \{learning_rate\}"),
        ("run {block-size}", r"did you mean \{seq_len\}"),
    ],
)
def test_a_line_that_cannot_be_filled_is_refused_where_it_is_written(written, told):
    with pytest.raises(ValueError, match=told):
        trunk(written)


def test_a_plan_refuses_what_a_command_is_not_told_and_a_program_that_is_not_there():
    trunks = tuple(trunk("nosuchprogram {num_tokens} {folder}", w, seed=w) for w in (8, 16))
    refusals = make_plan(Experiment("own", "?", trunks, laws=()), 1).refusals
    assert [text.split(",")[0] for text in refusals] == [
        "there is no program 'nosuchprogram' to start; {python} is this one's own interpreter",
        "runs differ in seed",
        "runs differ in model.d_model",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "{python} nosuch.py {folder}",
            "the command names nosuch.py, which is no file in /.*, where its .* will run",
        ),
        ("{python} HERE/nosuch.py {folder}", "the command names /.*/nosuch.py, which is no file here"),
        ("{python} HERE/there.py", "the command is not told where its record goes: put {folder} into its line"),
        ("{python} HERE/there.py {folder}", ""),
        ("{python} /nosuchfolder/of_another_machine.py {folder}", ""),
    ],
)
def test_a_plan_refuses_a_script_that_is_not_there_and_a_line_without_its_folder(tmp_path, words, told):
    (tmp_path / "there.py").touch()
    config = trunk(words.replace("HERE", str(tmp_path)))
    refusals = make_plan(Experiment("own", "?", (config,), laws=()), 1).refusals
    assert len(refusals) == bool(told) and re.fullmatch(told, "".join(refusals))


def test_a_plan_refuses_to_leave_out_batches_of_a_program_that_reads_its_own():
    config = replace(trunk("{python} {folder}"), guard=GuardConfig(skip_batches=((1, 2),)))
    (refusal,) = make_plan(Experiment("own", "?", (config,), laws=()), 1).refusals
    assert refusal.startswith("guard.skip_batches")


def test_a_record_holds_what_the_program_measured_and_the_sizes_that_it_was_given(program, tmp_path):
    config = trunk(Command(line(program), num_params_total=5000))
    (record,), count = claimed(config, tmp_path)
    assert (record.status, count, record.num_params_total, record.num_tokens) == ("done", 1, 5000, 1024)
    assert record.loss == 1.5 + 3 / 8**0.5 + 90 / 32 + 0.003
    assert record.flops == 6 * 5000 * 1024 and record.corpus == "of the command"
    assert record.num_params_non_embedding == 5000 - 256 * 8
    told = trunk(Command(line(program), num_params_total=5000, num_params_non_embedding=4000))
    assert cell_of(told).planned[1024].num_params_non_embedding == 4000
    (plain,), _ = claimed(trunk(line(program)), tmp_path)
    assert plain.num_params_total == num_params_total(config.model)


def test_another_file_may_be_the_record(program, tmp_path):
    (record,), _ = claimed(trunk(Command(line(program), record="losses.csv")), tmp_path)
    assert record.status == "failed" and "/command/losses.csv. Add a line" in record.reason
    with pytest.raises(ValueError, match="expected the name of a file"):
        Command("run", record="../losses.csv")


def test_a_program_of_two_cores_has_half_the_workers(tmp_path, monkeypatch):
    code = "import os, sys; open(sys.argv[1] + '/record.csv', 'w').write('loss\\n' + os.environ['OMP_NUM_THREADS'])"
    config = trunk(Command(f'{{python}} -c "{code}" {{folder}}', num_cores=2))
    (record,), _ = claimed(config, tmp_path)
    assert record.loss == 2.0
    monkeypatch.setattr(workers, "num_cores", lambda: 6)
    assert (workers.default_workers([config]), workers.default_workers([trunk("run")])) == (3, 6)


def test_the_example_runs_as_it_stands(tmp_path):
    experiment = load_experiment(str(Path(__file__).parents[1] / "examples" / "own_trainer.py"))
    assert make_plan(experiment, 1).refusals == ()
    (record,), _ = claimed(experiment.trunks[0], tmp_path)
    assert record.status == "done" and 2.0 < record.loss < np.log(32)


def test_rows_between_the_points_are_the_curve(program, tmp_path):
    config = trunk(line(program, "curve"), num_tokens=(1024, 2048))
    records, count = claimed(config, tmp_path)
    assert [record.loss for record in records] == [1.5 + 3 / 8**0.5 + 90 / n**0.5 + 0.003 for n in (1024, 2048)]
    rows = whole_rows(tmp_path / "runs" / records[0].trunk_id / "metrics.jsonl")
    assert [row["num_tokens"] for row in rows] == [1024, 1500, 2048] and rows[1]["loss"] == 9.5 and count == 1


def test_columns_of_another_name_are_mapped_as_for_a_table(program, tmp_path):
    command = Command(line(program, "mapped"), columns="loss=log(`val/ppl`),step=it")
    (record,), _ = claimed(trunk(command), tmp_path)
    np.testing.assert_allclose(record.loss, 1.5 + 3 / 8**0.5 + 90 / 32 + 0.003, rtol=1e-12)


@pytest.mark.parametrize(
    ("how", "status", "told"),
    [
        (
            "nothing",
            "failed",
            r'wrote no /\S+/command/record.json, nor \S+ nor \S+ there. Add .*: json.dump\(.*"num_tokens"',
        ),
        ("size", "failed", r"says num_params_total 12,345, the plan [\d,]+; .*Command\(num_params_total=12345\)"),
        ("short", "failed", "no loss at 1,024 tokens, the nearest is at 1,017.*multiple of .* = 256"),
        (
            "steps",
            "failed",
            "at 4, which is the number of steps: call that column step, .* the 256 tokens",
        ),
        ("nan", "diverged", "loss is nan at 1,024 tokens"),
    ],
)
def test_a_program_that_ends_well_with_a_wrong_record_is_not_tried_again(program, tmp_path, how, status, told):
    config = trunk(line(program, how))
    (record,), count = claimed(config, tmp_path, times=2)
    assert (record.status, count, record.loss) == (status, 1, None)
    assert re.search(told, record.reason)


def test_a_record_that_was_refused_is_out_of_the_way_of_the_next_try(program, tmp_path):
    config = trunk(line(program, "size"))
    (record,), _ = claimed(config, tmp_path)
    program.write_text(PROGRAM.replace('if how == "size"', "if False").replace("record.jsonl", "record.json"))
    record_path(tmp_path, record.run_id).unlink()  # as --retry-failed does
    (record,), count = claimed(config, tmp_path)
    assert (record.status, count) == ("done", 2)


def test_a_record_without_a_loss_says_how_a_command_maps_columns(program, tmp_path):
    command = Command(line(program, "mapped"), columns="step=it")
    (record,), _ = claimed(trunk(command), tmp_path)
    told = r"/command/record.jsonl has no column 'loss'. .*Command\(columns=\"loss="
    assert record.status == "failed" and re.search(told, record.reason) and "--columns" not in record.reason


def test_points_before_a_loss_that_is_no_number_are_kept(program, tmp_path):
    records, _ = claimed(trunk(line(program, "nan"), num_tokens=(1024, 2048)), tmp_path)
    assert [record.status for record in records] == ["done", "diverged"]


def test_a_program_that_fails_is_tried_three_times_and_its_last_words_are_the_reason(program, tmp_path):
    config = trunk(line(program, "exit"))
    records, count = claimed(config, tmp_path, times=3)
    assert (records, count) == ([], 3)
    (record,), count = claimed(config, tmp_path)
    assert (record.status, count) == ("failed", 3) and "exit code 1: no such file as train.bin" in record.reason


def test_a_program_that_is_silent_is_ended_and_counts_as_an_attempt(program, tmp_path):
    config = trunk(Command(line(program, "sleep"), max_silent_seconds=0.5))
    assert claimed(config, tmp_path) == ([], 1)
    ends = json.loads((tmp_path / "runs" / cell_of(config).trunk_id / "attempts.json").read_text())["ends"]
    assert "the command hung" in ends[0]["reason"]


def test_what_ended_well_is_read_and_not_run_again_when_its_worker_died_before_the_record(program, tmp_path):
    config = trunk(line(program))
    (before,), _ = claimed(config, tmp_path)
    record_path(tmp_path, before.run_id).unlink()
    (after,), count = claimed(config, tmp_path)
    assert count == 1 and after == before


def test_a_program_that_outlived_its_worker_is_ended_before_it_is_started_again(program, tmp_path):
    config = trunk(line(program, "sleep"))
    cell = cell_of(config)
    code = (
        "import sys, json; from pathlib import Path; sys.path.insert(0, 'tests')\n"
        "from kleiber.experiments.config_file import from_data\n"
        "from kleiber.experiments.experiment import Experiment\n"
        "from kleiber.experiments.planning.cells import trunk_cells\n"
        "from kleiber.experiments.sweeping.command_run import run_command\n"
        "experiment = from_data(Experiment, json.loads(sys.argv[1]))\n"
        "stop = type('Stop', (), {'__call__': lambda self: False, 'reason': ''})()\n"
        "run_command(trunk_cells(experiment, 'fit')[0], Path(sys.argv[2]), stop)\n"
    )
    (tmp_path / "runs" / cell.trunk_id).mkdir(parents=True)
    data = json.dumps(to_data(Experiment("own", "?", (config,), laws=())))
    holder = subprocess.Popen([sys.executable, "-c", code, data, str(tmp_path)])
    mark = tmp_path / "runs" / cell.trunk_id / "command.json"
    while not mark.exists():
        assert holder.poll() is None
        time.sleep(0.05)
    first = json.loads(mark.read_text())["pid"]
    holder.kill()
    holder.wait()
    os.kill(first, 0)  # it is there
    assert not command_run._CommandRun(cell, tmp_path).has_ended()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and _lives(first):
        time.sleep(0.05)
    assert not _lives(first)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


CONFIG = """
from kleiber.experiments.experiment import Experiment, Target
from kleiber.model.config import ModelConfig
from kleiber.train.command import Command
from kleiber.train.config import OptimizerConfig, ScheduleConfig, TrainConfig

def train(width, num_tokens, seed):
    return TrainConfig(
        ModelConfig(width, num_layers=1, num_heads=1, seq_len=64), OptimizerConfig(0.01), (num_tokens,), seed=seed,
        schedule=ScheduleConfig(warmup_steps=0), command=Command(LINE, num_params_total=1000 * width),
    )

def experiment():
    trunks = tuple(train(w, n, w + n) for w in (8, 16, 32) for n in (1024, 4096, 16384))
    return Experiment("own", "?", trunks, (Target("far", train(64, 65536, 1)),), laws=("chinchilla",))
"""


def test_a_sweep_of_commands_that_was_killed_goes_on_to_the_same_table(program, tmp_path):
    config = tmp_path / "own.py"
    config.write_text(CONFIG.replace("LINE", repr(line(program, "slow", "num_tokens"))))

    def sweep(out, **options):
        words = ["sweep", str(config), "--out", str(out), "--no-report", "--workers", "2"]
        return subprocess.Popen([sys.executable, "-m", "kleiber.experiments.cli", *words], **options)

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first, second = sweep(whole, **quiet), sweep(killed, start_new_session=True, **quiet)
    while not list(killed.glob("runs/*-D*/record.json")):
        assert second.poll() is None
        time.sleep(0.05)
    second.kill()
    for mark in killed.glob("runs/*/attempts.json"):  # and the workers that it has
        if pid := json.loads(mark.read_text())["pid"]:
            os.kill(int(pid.rpartition(":")[2]), signal.SIGKILL)
    second.wait()
    assert first.wait() in (0, 3)
    assert sweep(killed, **quiet).wait() == first.returncode
    tables = [read_file(out / "table.parquet") for out in (whole, killed)]
    assert len(tables[0]["loss"]) == 10 and None not in tables[0]["loss"]
    for name in tables[0].keys() - set(TIMING_COLUMNS):
        assert tables[0][name] == tables[1][name], name
    said = {item.question: item.answer for item in checklist(read_results(whole))}
    assert said["Architecture"] == "" and "6 N D where N is given" in said["How are N, D and C counted?"]
    ended = [out / "ledger.jsonl" for out in (whole, killed)]
    assert [sum(1 for _ in open(path)) for path in ended] == [2, 2]
    assert starts(whole) == 10 and starts(killed) <= 12


@pytest.mark.parametrize(
    ("hows", "stops"),
    [
        (("nothing", "nothing"), True),
        (("size", "size"), True),
        (("exit", "exit"), True),
        (("nothing", "size"), False),
        (("nan", "nan"), False),
        (("well", "nothing", "nothing"), False),
    ],
)
def test_a_sweep_stops_once_the_first_two_programs_have_failed_by_one_mistake(program, tmp_path, hows, stops):
    configs = [trunk(line(program, how), width=8 * (i + 1), seed=i) for i, how in enumerate((*hows, "well"))]
    seen = FailedAlike([cell_of(config) for config in configs], tmp_path)
    said = [claimed(config, tmp_path, times=4) and seen() for config in configs]  # one that crashes is tried thrice
    assert [bool(each) for each in said[: len(hows)]] == [False] * (len(hows) - 1) + [stops]
    assert not stops or said[1].endswith("Mend the script, then add --retry-failed --allow program")


def test_failures_before_a_launch_do_not_stop_it(program, tmp_path):
    configs = [trunk(line(program, "nothing"), seed=seed) for seed in (1, 2)]
    assert all(claimed(config, tmp_path) for config in configs)
    assert FailedAlike([cell_of(config) for config in configs], tmp_path)() == ""


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("nothing", r"failed: what it printed is in \S+output.txt; mend the script, .* --retry-failed --allow program"),
        ("nan", "diverged: points before it count; lower the learning rate, or have the script leave"),
    ],
)
def test_the_advice_after_a_program_names_nothing_that_is_kleibers_own_trainers(program, tmp_path, how, told):
    records, _ = claimed(trunk(line(program, how)), tmp_path)
    *_, advice = bad_ends(records, tmp_path)
    assert re.search(told, advice) and "rewind" not in advice and "checkpoint" not in advice
    remedies = {found.remedy for found in diagnose(tmp_path).findings if found.path.endswith("record.json")}
    assert remedies == {"kleiber sweep ... --retry-failed --allow program tries it again" * (how == "nothing")}


@pytest.fixture
def half_done(program, tmp_path):
    """Returns the cells of two runs of a program, one done and one failed, and their directory."""
    out, configs = tmp_path / "out", [trunk(line(program)), trunk(line(program, "nothing"), width=16)]
    cells = [cell_of(config) for config in configs]
    out.mkdir()
    assert check_text(cells, out, 1, ()) == []
    assert [claimed(config, out)[0][0].status for config in configs] == ["done", "failed"]
    program.write_text(PROGRAM.replace("1.5", "1.6").replace('how != "nothing"', "True"))
    return configs, cells, out


def test_runs_of_a_program_that_was_edited_since_are_refused_and_trained_anew_by_allow_data(half_done):
    _, cells, out = half_done
    told = r"program \S+/a program\.py was \w{16}, and is \w{16} now.*--allow data or --retry-failed --allow program"
    with pytest.raises(ValueError, match=told):
        check_text(cells, out, 1, ())
    check_text(cells, out, 1, ("data",))
    assert list((out / "runs").iterdir()) == [] and check_text(cells, out, 1, ()) == []


def test_allow_program_keeps_what_is_done_of_an_edited_program_and_says_that_two_versions_count(half_done):
    configs, cells, out = half_done
    failed = records_of(configs[1], out)[0].run_id
    record_path(out, failed).unlink()  # as --retry-failed does
    told = check_text(cells, out, 1, ("program",))
    assert "1 points that are done count together" in told[0] and "2 folders" in told[1]
    done, anew = (claimed(config, out)[0][0] for config in configs)
    assert (done.loss, anew.loss) == (1.5 + 3 / 8**0.5 + 90 / 32 + 0.003, 1.6 + 3 / 16**0.5 + 90 / 32 + 0.003)
    assert len(done.program_fingerprint) == 16 and done.program_fingerprint != anew.program_fingerprint
    assert check_text(cells, out, 1, ()) == []  # allowed once, the same line goes on
    (out / "made_with.json").unlink()
    with pytest.raises(ValueError, match="another text or program"):  # the records say it, too
        check_text(cells, out, 1, ())
    write_json(out / "experiment.json", to_data(Experiment("own", "?", tuple(configs), laws=())))
    (caveat,) = Study(read_results(out)).answers.caveats
    assert caveat.startswith("2 versions of the program trained these points (1 and 1)")
    said = {item.question: item.answer for item in checklist(read_results(out))}["Hardware and versions"]
    assert "2 versions of the program count together: " in said and said.count("(one point)") == 2


def test_the_forecast_of_a_target_that_is_done_stands_when_its_program_is_edited(program, tmp_path):
    config = trunk(line(program))
    own = Experiment("own", "?", (replace(config, seed=4),), (Target("far", config),))
    target = trunk_cells(own, "target")[0]
    check_text([target], tmp_path, 1, ())
    before = law_stage._texts(own, tmp_path)
    assert claimed(config, tmp_path)[0][0].program_fingerprint == before["far"]["text"]
    program.write_text(PROGRAM.replace("1.5", "1.6"))
    check_text([target], tmp_path, 1, ("program",))
    assert law_stage._texts(own, tmp_path) == before
    record_path(tmp_path, target.run_ids[1024]).unlink()
    assert law_stage._texts(own, tmp_path) != before  # trained anew, by the program as it is now


def test_an_edited_program_of_which_nothing_is_done_needs_no_option(program, tmp_path):
    config = trunk(line(program, "nothing"))
    cells, out = [cell_of(config)], tmp_path / "out"
    out.mkdir()
    check_text(cells, out, 1, ())
    assert claimed(config, out)[0][0].status == "failed"
    program.write_text(PROGRAM.replace('how != "nothing"', "True"))
    record_path(out, cells[0].run_ids[1024]).unlink()
    check_text(cells, out, 1, ())
    assert claimed(config, out)[0][0].status == "done"


def test_a_program_that_is_edited_while_a_sweep_runs_is_not_started(program, tmp_path):
    config = trunk(line(program))
    check_text([cell_of(config)], tmp_path, 1, ())
    program.write_text(PROGRAM.replace("1.5", "1.6"))
    (record,), count = claimed(config, tmp_path)
    assert (record.status, count) == ("failed", 0)
    assert re.search(r"a program.py was \w{16} when this sweep began, and is \w{16} now", record.reason)
