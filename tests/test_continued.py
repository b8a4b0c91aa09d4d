"""A directory taken up with another config: what may go on, what the record says of it, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kleiber.experiments.cli import main
from kleiber.experiments.directory.record import trunk_id
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.sweeping.ownership import own_directory
from kleiber.files import read_json
from kleiber.model.config import ModelConfig
from kleiber.train.config import OptimizerConfig, ScheduleConfig, TrainConfig

MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=2, vocab_size=256, seq_len=16)
WSD = TrainConfig(MODEL, OptimizerConfig(0.01), (640, 1_280), batch_size=4)
COSINE = replace(WSD, num_tokens=(1_280,), schedule=ScheduleConfig("cosine"))


def owned(directory: Path, config: TrainConfig) -> None:
    """Makes the directory of a run that has a checkpoint."""
    own_directory(Experiment("x", "?", (config,), laws=()), directory)
    (directory / "runs" / trunk_id(config) / "checkpoints" / "trunk").mkdir(parents=True)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (COSINE, replace(COSINE, num_tokens=(2_560,)), "the cosine of another length is another one"),
        (WSD, replace(WSD, batch_size=8), "takes 128 tokens where those done took 64"),
        (WSD, replace(WSD, model=replace(MODEL, seq_len=32)), "takes 128 tokens where those done took 64"),
    ],
)
def test_a_run_whose_steps_or_rates_would_not_be_those_recorded_is_refused(tmp_path, before, after, message):
    owned(tmp_path, before)
    with pytest.raises(ValueError, match=message):
        own_directory(
            Experiment("x", "?", (after,), laws=()), tmp_path, ("num_tokens", "batch_size", "model.seq_len", "schedule")
        )
    assert not (tmp_path / "allowed.json").exists() and not (tmp_path / "runs" / trunk_id(after)).exists()


def test_a_longer_wsd_run_is_the_run_from_the_start_and_one_with_another_rate_is_not(tmp_path):
    for name, after, changed in [
        ("longer", replace(WSD, num_tokens=(640, 2_560)), []),
        ("rate", replace(WSD, optimizer=OptimizerConfig(0.02)), ["optimizer.learning_rate: 0.01 -> 0.02"]),
    ]:
        (tmp_path / name).mkdir()
        owned(tmp_path / name, WSD)
        own_directory(
            Experiment("x", "?", (after,), laws=()), tmp_path / name, ("num_tokens", "optimizer.learning_rate")
        )
        told = read_json(tmp_path / name / "runs" / trunk_id(after) / "continued.json")
        assert told == {"from": trunk_id(WSD), "changed": changed}


def test_the_record_of_a_run_that_went_on_with_another_rate_says_so_and_counts_as_no_run(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"line {n} of {n * n % 97} and {n % 7}" for n in range(2_000)))
    out, sets = (
        tmp_path / "out",
        ["model.d_model=8", "model.seq_len=16", "num_tokens=1280", "evaluation.num_tokens=512"],
    )
    line = ["train", "miniature", "--out", str(out), "--json", "--set", f"data.corpus={text}"]
    line += [word for each in [*sets, "batch_size=4"] for word in ("--set", each)]
    assert main(line) == 0
    (first,) = json.loads(capsys.readouterr().out)["records"]
    assert first["status"] == "done"
    assert main([*line, "--set", "optimizer.learning_rate=0.5", "--allow", "optimizer.learning_rate"]) == 0
    (second,) = json.loads(capsys.readouterr().out)["records"]
    assert second["status"] == "continued" and second["loss"] != first["loss"]
    assert read_json(out / "result.json", "runs")["runs"] == {
        "done": 0, "failed": 0, "diverged": 0, "pruned": 0, "continued": 1,
    }  # fmt: skip
    assert second["reason"].startswith(f"went on from {first['trunk_id']} with optimizer.learning_rate: ")
