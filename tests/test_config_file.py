"""Experiments as files and data."""

import dataclasses
import json
from dataclasses import replace

import pytest

from kleiber.experiments.arguments import count
from kleiber.experiments.cli import main
from kleiber.experiments.config_file import (
    changed,
    config_hash,
    from_data,
    load_experiment,
    set_field,
    shipped,
    to_data,
)
from kleiber.experiments.directory.record import trunk_id
from kleiber.experiments.experiment import Experiment
from kleiber.train.checkpoints.identity import allow_words, differences, is_allowed, run_identity, show

TEN_LINES = """
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig

def experiment():
    trunks = [TrainConfig(ModelConfig(d_model=d, num_layers=1, num_heads=2), OptimizerConfig({field}=rate), (1000,))
              for d in (8, 16) for rate in (0.005, 0.01)]
    return Experiment(name="mine", question="Which rate?", trunks=tuple(trunks), laws=())
"""


def test_every_shipped_experiment_survives_the_way_to_data_and_back():
    assert {"quickstart", "miniature"} <= set(shipped())
    for name in shipped():
        experiment = load_experiment(name)
        assert from_data(Experiment, to_data(experiment)) == experiment


def test_a_users_file_is_loaded(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEN_LINES.replace("{field}", "learning_rate"))
    experiment = load_experiment(str(path))
    assert [trunk.optimizer.learning_rate for trunk in experiment.trunks] == [0.005, 0.01, 0.005, 0.01]


def test_a_misspelt_field_is_named_with_the_nearest_one(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEN_LINES.replace("{field}", "learning_rat"))
    with pytest.raises(ValueError, match="learning_rat'.*did you mean 'learning_rate'"):
        load_experiment(str(path))


def test_a_misspelt_name_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'quickstart'"):
        load_experiment("quikstart")


def test_heads_that_do_not_divide_the_width_are_refused_with_what_would():
    model = load_experiment("miniature").trunks[0].model
    with pytest.raises(ValueError, match=r"num_heads 7 does not divide d_model 64; try num_heads in \[2, 4, 8\]"):
        replace(model, d_model=64, num_heads=7)


def test_set_changes_one_nested_field_and_nothing_else():
    config = load_experiment("miniature").trunks[0]
    changed = set_field(config, "optimizer.learning_rate=0.5")
    assert changed.optimizer.learning_rate == 0.5
    found = differences(to_data(config), to_data(changed))
    assert list(map(show, found)) == ["optimizer.learning_rate: 0.01 -> 0.5"]
    assert set_field(config, "num_tokens=1e3,2000").num_tokens == (1000, 2000)
    assert set_field(config, "data.num_unique_tokens=none").data.num_unique_tokens is None
    assert set_field(config, "model.has_tied_head=false").model.has_tied_head is False


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.learning_rte=1", "did you mean 'learning_rate'"),
        ("dropout=0.1", "TrainConfig has no field 'dropout'; did you mean 'model.dropout'"),
        ("learning_rte=1", "did you mean 'optimizer.learning_rate'"),
        ("num_tokns=1", "did you mean 'num_tokens'"),  # not evaluation.num_tokens
        ("nothing_alike=1", "it has model, optimizer, num_tokens"),
        ("model.d_model=1.5", "d_model is '1.5', expected int"),
        ("optimizer.name=adam", "expected adamw or sgd or adafactor or muon"),
        ("seed", "expected field=value"),
        ("seed.x=1", "seed of TrainConfig has no fields"),
    ],
)
def test_a_wrong_assignment_says_what_was_expected(assignment, message):
    with pytest.raises(ValueError, match=message):
        set_field(load_experiment("miniature").trunks[0], assignment)


def test_the_hash_changes_with_any_field_and_not_with_the_process():
    config = load_experiment("miniature").trunks[0]
    assert config_hash(config) == config_hash(from_data(type(config), to_data(config)))
    assert config_hash(config) != config_hash(replace(config, z_loss=1e-4))


def test_a_checkpoint_outlives_a_release_that_adds_a_field_and_no_change_of_one():
    config = load_experiment("miniature").trunks[0]

    @dataclasses.dataclass(frozen=True)
    class Later(type(config)):
        brand_new: int = 3

    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    now = run_identity([config])
    assert differences(now, run_identity([Later(**values)])) == []
    (added,) = differences(now, run_identity([Later(**values, brand_new=4)]))
    assert show(added) == 'brand_new: "(default)" -> 4'
    assert [d[0] for d in differences(now, run_identity([replace(config, z_loss=1e-4)]))] == ["z_loss"]


def test_the_options_that_allow_differences_name_each_field_once_and_allow_them_all():
    found = [(f"trunks[{i}].num_tokens[{k}]", 1, 2) for i in (0, 1) for k in (0, 2)] + [("gate.max_error", 1, 2)]
    assert allow_words(found) == "--allow num_tokens --allow gate.max_error"
    assert all(is_allowed(path, ("num_tokens", "gate.max_error")) for path, _, _ in found)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{}['no']", ", line 3: KeyError: 'no'"),
        ("1 / 0", ", line 3: ZeroDivisionError: division by zero"),
        ("open('/no/such/file')", ", line 3: FileNotFoundError: [Errno 2] No such file"),
        ("raise OSError(28, 'No space left on device')", ", line 3: OSError: [Errno 28] No space left on device"),
        ("raise PermissionError('mine')", ", line 3: PermissionError: mine"),
        ("import sys; sys.exit(0)", ", line 3: it ends the program (sys.exit: 0); a config returns an Experiment"),
        ("import sys; sys.exit()", ", line 3: it ends the program (sys.exit)"),
        ("import sys; sys.exit('some text')", ", line 3: it ends the program (sys.exit: some text)"),
        ("def deep(): deep()\n    deep()", ", line 3: RecursionError: maximum recursion depth exceeded"),
        ("raise RuntimeError('two\\nlines')", ", line 3: RuntimeError: two lines"),
        ("assert False", ", line 3: AssertionError"),
        ("raise MemoryError", ", line 3: MemoryError"),
        ("unknown_name", ", line 3: name 'unknown_name' is not defined"),
        ("import no_such_module", ", line 3: No module named 'no_such_module'"),
        ("int('x')", ", line 3: invalid literal for int() with base 10: 'x'"),
        ("return 1 +", ", line 3: invalid syntax"),
        ("return 3", ": experiment() returned int, expected an Experiment."),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "sweep"])
def test_whatever_a_config_raises_is_one_line_with_its_place_and_exit_code_2(tmp_path, capsys, verb, body, said):
    path = tmp_path / "mine.py"
    path.write_text(f"import os\ndef experiment():\n    {body}\n")
    out = ["--out", str(tmp_path / "out")] if verb == "sweep" else []
    assert main([verb, str(path), *out]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"kleiber {verb}: {path}{said}") and told.err.count("\n") == 1 and not told.out
    assert not (tmp_path / "out").exists()


def test_a_mistake_at_the_top_of_a_config_is_told_like_one_inside(tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text("import sys\nsys.exit(0)\n")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    assert f"{path}, line 2: it ends the program (sys.exit: 0)" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "mine.py"]) == 2
    assert capsys.readouterr().err.startswith("kleiber plan: mine.py, line 2: it ends the program")


def test_what_is_run_is_what_would_be_read_back(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEN_LINES.replace("{field}", "learning_rate").replace("(1000,)", "[1e3]"))
    experiment = load_experiment(str(path))
    assert experiment.trunks[0].num_tokens == (1000,)
    assert from_data(Experiment, to_data(experiment)) == experiment


def test_set_changes_every_trunk_and_target_and_grid_multiplies_the_trunks():
    experiment = load_experiment("quickstart")
    sets, grids = ["model.num_layers=1", "keep_final=none"], ["optimizer.learning_rate=.004,.008", "batch_size=2,4,8"]
    found = changed(experiment, sets, grids)
    assert found.keep_final == "none"
    assert [target.train for target in found.targets] == [
        replace(t.train, model=replace(t.train.model, num_layers=1)) for t in experiment.targets
    ]
    cells = [(t.model.d_model, t.seed, t.num_tokens, t.optimizer.learning_rate, t.batch_size) for t in found.trunks]
    assert cells == [
        (t.model.d_model, t.seed, t.num_tokens, rate, size)
        for t in experiment.trunks
        for rate in (0.004, 0.008)
        for size in (2, 4, 8)
    ]
    assert len({trunk_id(trunk) for trunk in found.trunks}) == 6 * len(experiment.trunks)
    (lists,) = {t.num_tokens for t in changed(experiment, [], ["num_tokens=640+1280"]).trunks}
    assert lists == (640, 1_280)
    searched = changed(experiment, ["pruning.over=learning_rate,batch_size"])
    assert searched.pruning.over == ("learning_rate", "batch_size")
    assert changed(searched, ["pruning.over="]) == experiment


def test_plan_takes_set_and_grid_and_shows_the_bytes_of_the_weights_it_keeps(capsys):
    line = ["plan", "miniature", "--json", "--set", "model.num_layers=1", "--grid", "optimizer.learning_rate=.004,.008"]
    assert main(line) in (0, 2)
    plan = json.loads(capsys.readouterr().out)
    assert {point["learning_rate"] for point in plan["points"] if point["split"] == "fit"} == {0.004, 0.008}
    assert plan["kept_weights"]["bytes"] == sum(4 * point["num_params_total"] for point in plan["points"])
    assert plan["kept_weights"]["splits"] == ["fit", "target"]
    assert main(["plan", "miniature", "--grid", "optimiser.learning_rate=1"]) == 2
    assert "did you mean 'optimizer'?" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "number"), [("7B", 7e9), ("1.4T", 1.4e12), ("125m", 1.25e8), ("3e9", 3e9)])
def test_a_count_may_be_written_as_people_do(text, number):
    assert count(text) == number


def test_what_is_no_count_is_named():
    with pytest.raises(ValueError, match="'7X' is no number"):
        count("7X")


def test_a_plan_and_a_law_of_one_name_are_both_shown(capsys):
    assert main(["laws", "data_constrained"]) == 0
    shown = capsys.readouterr().out
    assert "R_D: repeats after which more repeats are worth little" in shown and "--unique-tokens U" in shown
