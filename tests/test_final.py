"""The weights that were measured: kept beside their record, and worth what it says."""

import itertools
import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.experiments.experiment import Experiment, Target
from kleiber.experiments.planning.cells import kept_weights
from kleiber.files import read_json, write_json
from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.counts import num_params_total
from kleiber.model.decode.generate import generate
from kleiber.model.decode.sample import Sampling
from kleiber.model.functional import apply, init_params
from kleiber.parallel.config import MeshConfig
from kleiber.train.config import (
    DataConfig,
    DelayedSyncConfig,
    EvalConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)

SYLLABLES = "ba ce di fo gu ka le mi no pu ra se ti vo wu xa ye zi cho sha".split()
WORDS = ["".join(pair) for pair in itertools.product(SYLLABLES, repeat=2)] * 2 + [
    "s".join(p) for p in itertools.product(SYLLABLES, repeat=2)
]
MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=2, vocab_size=256, seq_len=16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A text whose file is removed before anything is evaluated."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=draw.randint(5, 30))) for _ in range(500)))
    return path


@pytest.fixture(scope="module")
def out(corpus, tmp_path_factory) -> Path:
    """A sweep of one run alone, two as a population, replicas that synchronise late, two devices, and a tokenizer."""
    plain = TrainConfig(
        MODEL,
        OptimizerConfig(0.01),
        (640, 1_280),
        batch_size=4,
        data=DataConfig(str(corpus)),
        schedule=ScheduleConfig(warmup_steps=2),
        evaluation=EvalConfig(num_tokens=1_024),
    )
    trunks = (
        plain,
        replace(plain, seed=1),
        replace(plain, model=replace(MODEL, d_model=4), delayed_sync=DelayedSyncConfig(2, num_inner_steps=3)),
        replace(plain, mesh=MeshConfig(data=2)),
        replace(
            plain,
            model=replace(MODEL, vocab_size=1_000, param_dtype="bfloat16"),
            data=DataConfig(str(corpus), tokenizer="sentencepiece:1000"),
        ),
    )
    directory = tmp_path_factory.mktemp("sweep") / "out"
    ended = kb.sweep(
        Experiment("kept", "what was measured?", trunks, laws=(), population_size=2),
        directory,
        workers=1,
        report=False,
        is_quiet=True,
    )
    assert ended.exit_code == 0, (directory / "log.txt").read_text()[-3_000:]
    corpus.rename(corpus.with_name("moved.txt"))
    return directory


def points(out: Path) -> list[Path]:
    return sorted(path.parent for path in (out / "runs").glob("*/record.json"))


def test_every_point_scores_its_recorded_loss_to_the_last_digit_from_its_folder_alone(out, tmp_path):
    assert len(points(out)) == 10
    for folder in points(out):
        alone = shutil.copytree(folder, tmp_path / folder.name)
        run, record = kb.load(alone), json.loads((folder / "record.json").read_text())
        score = run.evaluate()
        assert (score.loss, score.loss_standard_error) == (record["loss"], record["loss_standard_error"]), run
        assert score.bits_per_byte == record["bits_per_byte"]
        assert record["final_checkpoint"] == f"final/step_{record['num_steps']}"


def test_a_trunk_gives_the_weights_of_its_longest_point_and_a_point_that_kept_none_says_so(out, tmp_path):
    longest = next(folder for folder in points(out) if folder.name.endswith("D1280"))
    trunk, point = kb.load(out / "runs" / longest.name.rpartition("-D")[0]), kb.load(longest)
    assert all(np.array_equal(trunk.params[name], array) for name, array in point.params.items())
    shutil.rmtree(shutil.copytree(longest, tmp_path / longest.name) / "final")
    with pytest.raises(FileNotFoundError, match=rf"the weights of {longest.name} were not kept"):
        kb.load(tmp_path / longest.name).params  # noqa: B018
    config = read_json(tmp_path / longest.name / "config.json")
    config["trunk"]["command"] = {"line": "python mine.py"}
    write_json(tmp_path / longest.name / "config.json", config)
    with pytest.raises(FileNotFoundError, match="a program of yours trained it"):
        kb.load(tmp_path / longest.name).generate()


def test_eval_says_that_the_loss_is_the_recorded_one_and_generate_that_equal_seeds_write_alike(out, capsys):
    folder = points(out)[0]
    assert main(["eval", str(folder)]) == 0 and "equal" in capsys.readouterr().out
    drawn = ["generate", str(folder), "bace", "--num-tokens", "20", "--seed"]
    texts = [(main([*drawn, seed]), capsys.readouterr().out)[1] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2] and texts[0].startswith("bace")


def test_without_its_own_text_a_run_says_how_to_prepare_it_and_scores_any_other(out, tmp_path, monkeypatch, capsys):
    folder = next(path for path in points(out) if json.loads((path / "record.json").read_text())["vocab_size"] == 1000)
    monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / "empty"))
    assert main(["eval", str(folder)]) == 2
    assert "kleiber data prepare" in capsys.readouterr().err
    text = "bace difo guka\n\nlemi, and nothing else at all"  # too short to be cut: one document
    (tmp_path / "note.txt").write_text(text)
    assert main(["eval", str(folder), "--text", str(tmp_path / "note.txt"), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    run = kb.load(folder)
    (encoded,) = run.tokenizer.encode([text.encode()])
    ids, losses = [encoded[-1], *encoded], []  # behind the end of a document
    for position in range(1, len(ids)):
        start = (position - 1) // 16 * 16
        window = np.pad(ids[start:position], (0, 16))[None, :16]
        logits = np.asarray(apply(run.config.model, run.tree, window), np.float64)[0, position - start - 1]
        losses.append(np.log(np.exp(logits).sum()) - logits[ids[position]])
    assert score["num_tokens"] == len(encoded) == len(losses) > 16
    assert score["loss"] == pytest.approx(np.mean(losses), rel=2e-3)  # bfloat16 weights
    assert score["bits_per_byte"] == pytest.approx(score["loss"] * len(losses) / math.log(2) / (len(text) + 1))


def test_an_exported_file_holds_by_the_format_of_safetensors_what_the_run_holds(out, tmp_path, capsys):
    for folder in points(out):
        path, run = tmp_path / f"{folder.name}.safetensors", kb.load(folder)
        assert main(["export", str(folder), "--to", str(path)]) == 0
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
        told = header.pop("__metadata__")
        assert json.loads(told["config"])["model"]["d_model"] == run.config.model.d_model
        assert json.loads(told["record"]) == run.record
        end = 0
        for (name, entry), (expected, array) in zip(header.items(), run.params.items(), strict=True):
            start, end = end, entry["data_offsets"][1]
            assert (name, entry["shape"]) == (expected.replace("/", "."), list(array.shape))
            assert entry["data_offsets"][0] == start and data[start:end] == array.tobytes()
            assert entry["dtype"] == {"float32": "F32", "bfloat16": "BF16"}[str(array.dtype)]
        assert len(data) == end and (8 + length) % 8 == 0


def test_the_doctor_names_damaged_weights_and_how_to_measure_again(out, tmp_path, capsys):
    folder = shutil.copytree(points(out)[0], tmp_path / points(out)[0].name)
    chunk = max(
        (path for path in (folder / "final").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    assert main(["doctor", str(folder)]) == 3
    said = capsys.readouterr().out
    assert "differs from its digest" in said and "that point is measured again" in " ".join(said.split())


@pytest.mark.parametrize("options", [{}, {"positions": "learned"}, {"experts": ExpertsConfig(num_experts=4)}])
def test_greedy_text_is_what_the_growing_sequence_gives_step_by_step_beyond_the_window_too(options):
    config = replace(MODEL, vocab_size=16, seq_len=4, **options)
    params = init_params(config, 3)
    seen, room = [5, 9], config
    if config.experts:  # as many places as tokens
        room = replace(config, experts=replace(config.experts, capacity_factor=100.0))
    for _ in range(6):
        logits = apply(room, params, np.array([seen[-4:]], np.int32))
        seen.append(int(np.argmax(logits[0, -1])))
    assert list(generate(config, params, [5, 9], 6, Sampling(0))) == seen[2:]


def test_weights_are_kept_by_policy_and_of_all_runs_while_they_are_small():
    small = TrainConfig(MODEL, OptimizerConfig(0.01), (640, 1_280))
    large = replace(small, model=replace(MODEL, d_model=1_024, num_layers=80), num_tokens=(640,))
    one, two = 4 * num_params_total(small.model), 4 * num_params_total(large.model)
    assert two > 2e9 > one
    experiment = Experiment("x", "x", (small,), (Target("t", replace(small, num_tokens=(9_999,))),))
    assert kept_weights(experiment) == (("fit", "target"), 3 * one)
    assert kept_weights(replace(experiment, keep_final="none")) == ((), 0)
    beyond = replace(experiment, targets=(Target("t", large),))
    assert kept_weights(beyond) == ((), 0)
    assert kept_weights(replace(beyond, keep_final="targets")) == (("target",), two)
    assert kept_weights(replace(beyond, keep_final="all")) == (("fit", "target"), 2 * one + two)
