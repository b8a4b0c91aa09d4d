"""Claims about runs that are cut early: by optuna's pruner where optuna is installed, else by its median rule below."""

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from studies import measured, trunk

from kleiber.experiments.answers.answer import answers_of
from kleiber.experiments.commands.plan import _print_table
from kleiber.experiments.config_file import to_data
from kleiber.experiments.directory.record import read_record, read_records, record_columns, record_path
from kleiber.experiments.exit_codes import EXIT_RESUMABLE
from kleiber.experiments.experiment import Experiment, Pruning
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.planning.plan import make_plan
from kleiber.experiments.planning.pruning import pruning_problems, rivals, why_hopeless
from kleiber.experiments.sweeping import sweep, worker
from kleiber.files import write_json
from kleiber.scaling.table.checks import usable_rows
from kleiber.scaling.table.table import read_table
from kleiber.train.config import EvalConfig, ScheduleConfig
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource
from kleiber.train.watch.metrics import Metrics

RATES = (0.001, 0.002, 0.004, 0.008)


class StandIn(ModuleType):
    """What kleiber asks of optuna, with the median rule as optuna documents it."""

    trial = SimpleNamespace(TrialState={name: name for name in ("COMPLETE", "PRUNED", "FAIL")})
    logging = SimpleNamespace(ERROR=0, set_verbosity=lambda _: None)

    class pruners:
        class MedianPruner:
            def __init__(self, n_startup_trials: int = 5, n_warmup_steps: int = 0):
                self.startup, self.warmup = n_startup_trials, n_warmup_steps

    def create_study(self, study_name, pruner):
        done: list[dict] = []

        def ask():
            told: dict[int, float] = {}

            def should_prune():
                step = max(told)
                others = [each[step] for each in done if step in each]
                if len(done) < pruner.startup or step < pruner.warmup or not others:
                    return False
                return min(told.values()) > np.median(others)

            return SimpleNamespace(report=lambda loss, step: told.update({step: loss}), should_prune=should_prune,
                                   told=told)  # fmt: skip

        def tell(trial, value, state):
            done.extend([trial.told] if state == "COMPLETE" else [])

        return SimpleNamespace(ask=ask, tell=tell)


@pytest.fixture(autouse=True)
def optuna(monkeypatch):
    if importlib.util.find_spec("optuna") is None:
        stand_in = StandIn("optuna")
        stand_in.__spec__ = importlib.util.spec_from_loader("optuna", None)
        monkeypatch.setitem(sys.modules, "optuna", stand_in)


def searched(**changes) -> Experiment:
    changes |= {"schedule": ScheduleConfig(warmup_steps=2), "steps_per_call": 20, "evaluation": EvalConfig(256)}
    trunks = tuple(trunk(d, rate, (6_400 * 4,), **changes) for d in (8, 16) for rate in RATES)
    return Experiment("e", "Which learning rate?", trunks, laws=(), pruning=Pruning(over=("learning_rate",)))


def wrote(directory, experiment, losses) -> None:
    """Leaves runs, by (width, rate), with this training loss all the way, and the record of each that is done."""
    rows = {row["run_id"]: row for row in measured(experiment, lambda *_: 2.0)}
    for cell in trunk_cells(experiment, "fit"):
        key = cell.config.model.d_model, cell.config.optimizer.learning_rate
        if key not in losses:
            continue
        metrics = Metrics(directory / "runs" / cell.trunk_id / "metrics.jsonl")
        loss, percents = losses[key]
        for percent in percents:
            metrics.append({"segment": "trunk", "step": percent, "num_tokens": 256 * percent, "loss": loss})
        if percents[-1] == 100:
            (name,) = cell.run_ids.values()
            write_json(record_path(directory, name), rows[name] | {"loss": loss})


def test_a_run_is_hopeless_beside_the_median_of_its_own_kind_and_no_other(tmp_path):
    experiment = searched()
    own = next(c for c in trunk_cells(experiment, "fit") if c.levels == (("d_model", 8), ("learning_rate", 0.008)))
    among = rivals(experiment, own)
    assert {dict(each.levels)["d_model"] for each in among} == {8} and len(among) == 4
    done = tuple(range(10, 101, 10))
    wide = {(16, rate): (1.0, done) for rate in RATES}  # better by far, and of another width
    wrote(tmp_path, experiment, wide | {(8, RATES[0]): (2.0, done), (8, 0.008): (3.0, (10, 20, 30))})
    assert why_hopeless(experiment, own, among, tmp_path) == ""  # one has ended; two must have
    wrote(tmp_path, experiment, {(8, RATES[1]): (3.5, done)})  # the median is 2.75
    assert "at 30 % of its tokens, with a training loss of 3" in why_hopeless(experiment, own, among, tmp_path)
    late = replace(experiment, pruning=replace(experiment.pruning, options=(("n_startup_trials", 3),)))
    assert why_hopeless(late, own, among, tmp_path) == ""


class Never:
    has_work = False

    def __call__(self) -> bool:
        return False


def test_a_run_that_is_cut_has_a_record_that_says_so_and_is_in_no_fit_and_in_the_answer(tmp_path, monkeypatch):
    experiment = searched()
    done = tuple(range(10, 101, 10))
    all_but_one = {(d, rate): (0.5, done) for d in (8, 16) for rate in RATES if (d, rate) != (8, 0.008)}
    wrote(tmp_path, experiment, all_but_one)
    tokens = np.random.default_rng(0).integers(0, 256, 40_000).astype(np.uint8)
    file = TokenFile(tokens, np.array([0, 40_000]), np.zeros(1, np.int32), "bytes", 256, 40_000, "x/0")
    monkeypatch.setattr(
        "kleiber.train.data.run_data.open_tokens", lambda data, split, seq_len: TokenSource(file, seq_len, "x", split)
    )
    (cell,) = [each for each in trunk_cells(experiment, "fit") if each.missing(tmp_path)]
    worker._train(experiment, [cell], tmp_path, "now", Never())
    (name,) = cell.run_ids.values()  # calls of 20 steps of 100
    record = read_record(record_path(tmp_path, name))
    assert record.status == "pruned" and "cut by optuna's MedianPruner at 20 % of its tokens" in record.reason
    records = read_records(tmp_path)
    assert len(usable_rows(read_table(record_columns(records)), ["num_params_total"])) == 7
    found = answers_of(to_data(experiment), [each.to_json() for each in records], tmp_path)
    assert "0.008 cut early in 1 of 2 runs" in found.of("learning_rate").sentence
    assert any("1 of 8 points were cut early as hopeless" in line for line in found.lines)

    monkeypatch.setattr(sweep, "prepare_data", lambda *_: None)
    monkeypatch.setattr(sweep._Sweep, "_phase", lambda *_: EXIT_RESUMABLE)
    sweep.run_sweep(experiment, tmp_path / "other", 1, is_quiet=True)
    (tmp_path / "runs").rename(tmp_path / "other" / "runs")
    whole = replace(experiment, pruning=Pruning())
    sweep.run_sweep(experiment, tmp_path / "other", 1, is_quiet=True)
    assert not cell.missing(tmp_path / "other")
    sweep.run_sweep(whole, tmp_path / "other", 1, is_quiet=True, allow=("pruning",))
    assert cell.missing(tmp_path / "other")  # asked for whole, it is trained to its end


def test_pruning_that_cannot_be_done_is_refused_by_the_plan(monkeypatch, capsys):
    experiment = searched()
    assert pruning_problems(experiment) == pruning_problems(replace(experiment, pruning=Pruning())) == []

    def problem(**changes) -> str:
        return " ".join(pruning_problems(replace(experiment, pruning=replace(experiment.pruning, **changes))))

    assert "'dropout', in which no two runs differ; these do: d_model, learning_rate" in problem(over=("dropout",))
    assert "no pruner as" in problem(pruner="MedianPrune") and "no pruner as" in problem(options=(("n_startup", 2),))
    assert "population_size=1" in " ".join(pruning_problems(replace(experiment, population_size=2)))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: name != "optuna" and found(name, *more) or None
    )
    assert "kleiber[prune]" in problem()
    _print_table(make_plan(experiment, 1))
    assert "pip install 'kleiber[prune]'" in capsys.readouterr().out  # brackets are text, not a style
