"""Training that begins with the weights of another run: which weights move, what they cost, and what is refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_flops import program_flops

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.experiments.exchange.peft_folder import write_peft
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.model.adapter import AdapterConfig
from kleiber.model.config import ModelConfig
from kleiber.model.functional import abstract_params, init_params
from kleiber.parallel.config import MeshConfig
from kleiber.train.checkpoints.checkpoint import load_arrays
from kleiber.train.config import (
    DataConfig,
    DelayedSyncConfig,
    EvalConfig,
    OptimizerConfig,
    ScheduleConfig,
    StartConfig,
    TrainConfig,
)
from kleiber.train.data.batch import Batch
from kleiber.train.data.run_data import open_run_data
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource, open_tokens
from kleiber.train.gradients import gradients
from kleiber.train.state import optimizer_of
from kleiber.train.trained import num_params_trained, trained_flops_per_token
from kleiber.train.trunk import Stopped, Trunk, TrunkIO

MODEL = ModelConfig(d_model=16, num_layers=2, num_heads=2, vocab_size=32, seq_len=8, has_tied_head=False)
FIRST = TrainConfig(
    MODEL, OptimizerConfig(0.02), (320,), batch_size=4, schedule=ScheduleConfig("wsd", 2, 0.5), steps_per_call=4,
    evaluation=EvalConfig(64, 4),
)  # fmt: skip
"""Ten steps of 32 tokens."""
LORA = AdapterConfig(rank=2, alpha=4.0)


def tuned(trainable="all", adapter=None, **fields):
    model = replace(MODEL, adapter=adapter)
    return replace(FIRST, model=model, start=StartConfig(train=FIRST), trainable=trainable, seed=5, **fields)


WAYS = {
    "head": tuned("head"),
    "lora": tuned(adapter=LORA),
    "lora and head": tuned("head", LORA),
    "last layer": tuned("blocks/01"),
    "adalora": tuned(adapter=AdapterConfig("adalora", rank=2, alpha=4.0, budget_steps=(2, 8))),
    "prompt": tuned(adapter=AdapterConfig("prompt", num_virtual_tokens=4)),
}


def source(data, split, seq_len):
    if data.corpus != DataConfig().corpus:
        return open_tokens(data, split, seq_len)
    tokens = (np.cumsum(np.random.default_rng(len(split)).integers(1, 4, 1201)) % 32).astype(np.uint8)
    file = TokenFile(tokens, np.array([0, 1201]), np.zeros(1, np.int32), "bytes", 32, 1201, "x/0")
    return TokenSource(file, seq_len, "test", split)


@pytest.fixture(scope="module")
def no_corpus():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kleiber.train.data.run_data.open_tokens", source)
        yield


def run(config, folder, start=None, **io):
    """Returns (loss, the weights that were measured, the trunk) of a run."""
    points, final = [], lambda place, tokens: folder / "final"
    rest = {"is_measured": lambda tokens: False, "final_folder": final, "start": start, **io}
    trunk = Trunk([config], open_run_data(config), TrunkIO(folder, [folder], points.append, **rest))
    trunk.run()
    return points[-1].evaluation.loss, load_arrays(folder / "final" / "step_10")[0], trunk


@pytest.fixture(scope="module")
def start(no_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return run(FIRST, folder)[1], folder / "final" / "step_10"


@pytest.fixture(scope="module")
def runs(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: run(config, folder / name, start[1]) for name, config in WAYS.items()}


MOVING = {
    "head": lambda name: name == "params/head",
    "lora": lambda name: "lora_" in name,
    "lora and head": lambda name: "lora_" in name or name == "params/head",
    "last layer": lambda name: name.startswith("params/blocks/01/"),
    "adalora": lambda name: name.endswith(("_vectors", "_values")),
    "prompt": lambda name: name == "params/input/prompt",
}


@pytest.mark.parametrize("name", WAYS)
def test_weights_that_stay_are_those_of_the_start_to_the_last_bit_and_the_others_move(name, runs, start):
    for path, found in runs[name][1].items():
        before = start[0].get(path.removesuffix("/base"))
        if MOVING[name](path):
            assert before is None or not np.array_equal(found, before), path
        else:
            np.testing.assert_array_equal(found, before, err_msg=path)


@pytest.mark.parametrize("name", WAYS)
def test_the_optimizer_holds_two_numbers_of_each_weight_that_moves_and_none_of_the_others(name, runs):
    counted = num_params_trained(WAYS[name])
    # By hand: the head 16 x 32; LoRA of rank 2 (inputs + outputs) of four 16 x 16, 16 x 64 and 64 x 16, two layers.
    assert counted == {"head": 512, "lora": 2 * 2 * (4 * 32 + 80 + 80), "lora and head": 512 + 1152,
                       "last layer": 4 * 256 + 2 * 1024, "adalora": 1152 + 2 * 2 * 6,
                       "prompt": 4 * 16}[name]  # fmt: skip
    moments = [leaf for leaf in jax.tree.leaves(runs[name][2].initial.opt_state) if leaf.ndim]
    each = 4 if name == "adalora" else 2  # and of AdaLoRA how sensitive the loss is to it
    assert sum(leaf.size for leaf in moments) == each * counted


@pytest.mark.parametrize("mesh", [{"data": 2}, {"fsdp": 2}, {"tensor": 2}], ids=str)
def test_a_mesh_fine_tunes_to_the_loss_of_one_device(mesh, runs, start, tmp_path):
    loss, _, _ = run(replace(WAYS["lora and head"], accumulation_steps=2, mesh=MeshConfig(**mesh)), tmp_path, start[1])
    assert loss == pytest.approx(runs["lora and head"][0], abs=1e-5)


def test_a_run_that_is_stopped_and_taken_up_has_the_weights_of_one_that_is_not(runs, start, tmp_path):
    config, asked = WAYS["lora and head"], []
    with pytest.raises(Stopped):
        run(config, tmp_path, start[1], should_stop=lambda: len(asked) == 1 or asked.append(1))
    again = run(config, tmp_path, start[1])[1]
    assert all(np.array_equal(again[name], array) for name, array in runs["lora and head"][1].items())


def test_a_group_has_its_own_learning_rate_and_the_first_that_means_a_weight_counts():
    rates = [optimizer_of(replace(WAYS["last layer"], optimizer=OptimizerConfig(0.1, groups=groups))).rate_multipliers
             for groups in ((), (("*/down", 3.0), ("blocks/01", 20.0)))]  # fmt: skip
    plain, grouped = (tree["blocks"]["01"] for tree in rates)
    assert grouped["feed_forward"]["down"] == 3 * plain["feed_forward"]["down"]
    assert grouped["attention"]["query"] == 20 * plain["attention"]["query"] and rates[1]["head"] is None


@pytest.mark.parametrize("name", ["all", *WAYS])
def test_flops_are_the_products_of_the_compiled_gradient(name):
    config = WAYS.get(name, FIRST)
    config = replace(config, model=replace(config.model, attention_blocks=1), accumulation_steps=1)
    batch = Batch(jax.ShapeDtypeStruct((4, 9), jnp.int32))
    compiled = jax.jit(lambda p, b: gradients(config, p, b, None)[1]).lower(abstract_params(config.model), batch)
    found = program_flops(compiled.compile().as_text()) / 32
    # On CPU attention adds up the columns of a head by products with zeros and ones, 4 N D = 128 a layer, half of them
    # backward. And the lowest layer that moves needs no gradient of its input, which three matrices 16 x 16 would give,
    # with LoRA through three of 16 x 2 besides: that is not counted out.
    sums, spared = {
        "all": (256, 0), "head": (128, 0), "last layer": (192, 3 * 512),
        "prompt": (256 * 12 / 8, 0),  # four virtual tokens in front of eight
    }.get(name, (256, 3 * (512 + 64)))  # fmt: skip
    assert found == trained_flops_per_token(config) + sums - spared


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": replace(MODEL, d_model=32)}, "the start has model.d_model 16, and this run 32"),
        ({"data": DataConfig(tokenizer="sentencepiece:32")}, "data.tokenizer 'bytes', and this run 'sentencepiece:32'"),
        ({"delayed_sync": DelayedSyncConfig(2), "trainable": "head"}, "delayed_sync moves all weights"),
        ({"initialisation": "device"}, "initialisation='device'"),
        ({"trainable": " "}, "no weight would move"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_and_the_field_named(fields, words):
    with pytest.raises(ValueError, match=words):
        replace(tuned(), **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "needs either run"),
        ({"train": FIRST, "num_tokens": 7}, "start.num_tokens 7 is none of those of train"),
        ({"run": "nowhere/D1"}, "start.run nowhere/D1 is no measured point"),
    ],
)
def test_a_start_that_names_no_weights_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        StartConfig(**fields)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep whose trunks begin with a run that it trains first, and that run."""
    folder = tmp_path_factory.mktemp("swept")
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefgh"), 4)) for _ in range(300)]
    for name in ("old.txt", "new.txt"):
        text = "\n\n".join(" ".join(draw.choice(words, 20)) for _ in range(200))
        (folder / name).write_text(text if name == "old.txt" else text.upper())
    first = replace(FIRST, model=replace(MODEL, vocab_size=256), num_tokens=(640, 1280),
                    data=DataConfig(str(folder / "old.txt")), evaluation=EvalConfig(1024))  # fmt: skip
    trunk = replace(first, start=StartConfig(train=first), num_tokens=(320,), data=DataConfig(str(folder / "new.txt")))
    few = replace(trunk, model=replace(trunk.model, adapter=LORA))
    scratch = replace(trunk, start=None)
    early = replace(trunk, start=StartConfig(train=first, num_tokens=640), trainable="head")
    experiment = Experiment("swept", "what is a start worth?", (trunk, few, scratch, early), laws=())
    ended = kb.sweep(experiment, folder / "out", workers=1, report=False, is_quiet=True, track=())
    assert ended.exit_code == 0, (folder / "out" / "log.txt").read_text()[-3000:]
    return folder, experiment


def test_a_sweep_trains_what_its_trunks_begin_with_once_and_says_so_in_each_record(swept):
    folder, experiment = swept
    rows = {record["run_id"]: record for record in kb.results(folder / "out").records}
    assert sorted(row["split"] for row in rows.values()) == ["fit"] * 4 + ["start"] * 2
    cells = {cell.config: next(iter(cell.run_ids.values())) for cell in trunk_cells(experiment, "fit")}
    trunk, few, scratch, early = (rows[cells[config]] for config in experiment.trunks)
    begun = rows[trunk["start_run"]]
    assert begun["num_tokens"] == trunk["pretrained_tokens"] == 1280 and trunk["pretrained_loss"] == begun["loss"]
    assert early["pretrained_tokens"] == 640 and early["num_params_trained"] == 16 * 256
    assert few["num_params_trained"] == 1152 and few["num_params_total"] == trunk["num_params_total"] + 1152
    assert "pretrained_tokens" not in scratch or scratch["pretrained_tokens"] is None
    again = kb.sweep(experiment, folder / "out", workers=1, report=False, is_quiet=True, track=())
    assert again.summary == json.loads(json.dumps(again.summary)) and again.exit_code == 0
    plan = kb.plan(experiment, 1)
    assert [cell.config for cell in plan.start_cells] == [experiment.trunks[0].start.train] and plan.start_seconds > 0
    assert plan.to_json()["kept_weights"]["splits"][0] == "start" and not plan.refusals


def test_a_finished_run_is_a_start_until_its_weights_are_others(swept):
    folder, experiment = swept
    begun = next((folder / "out" / "runs").glob("*-D1280"))
    trunk = replace(experiment.trunks[1], start=StartConfig(run=str(begun)))
    assert trunk.start.digest and not kb.plan(Experiment("x", "?", (trunk,), laws=()), 1).refusals
    changed = replace(trunk, start=replace(trunk.start, digest="0" * 16))
    wide = replace(trunk, model=replace(trunk.model, d_model=32))
    bare = replace(trunk, start=None)
    grouped = replace(trunk, optimizer=OptimizerConfig(0.1, groups=(("hed", 2.0),)))
    refusals = kb.plan(Experiment("x", "?", (changed, wide, bare, grouped), laws=()), 1).refusals
    for words in ("other weights than this config was made for", "has model.d_model 16, and this run 32",
                  "model.adapter without start", "'hed' means no weight of this model; the nearest"):  # fmt: skip
        assert any(words in refusal for refusal in refusals), words
    with pytest.raises(ValueError, match="'blocks/07' means no weight"):
        kb.plan(Experiment("x", "?", (replace(trunk, trainable="blocks/07"),), laws=()), 1)


def test_an_adapter_is_exported_as_peft_names_and_turns_it_and_merged_as_a_plain_model(swept, capsys):
    folder, experiment = swept
    name = next(iter(trunk_cells(Experiment("x", "?", (experiment.trunks[1],), laws=()), "fit")[0].run_ids.values()))
    place = folder / "out" / "runs" / name
    assert main(["export", str(place), "--to", str(folder / "adapter"), "--form", "peft"]) == 0
    told = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert told["peft_type"] == "LORA" and (told["r"], told["lora_alpha"], told["use_dora"]) == (2, 4.0, False)
    assert told["target_modules"] == ["down", "key", "output", "query", "up", "value"]
    params = kb.load(place).params
    found = read_safetensors(folder / "adapter" / "adapter_model.safetensors")
    assert len(found) == 2 * 2 * 6
    start = "base_model.model.blocks.01.feed_forward.up.lora_"
    np.testing.assert_array_equal(found[f"{start}A.weight"], params["blocks/01/feed_forward/up/lora_a"].T)
    np.testing.assert_array_equal(found[f"{start}B.weight"], params["blocks/01/feed_forward/up/lora_b"].T)
    kb.load(place).export(folder / "merged.safetensors", "merged")
    whole = read_safetensors(folder / "merged.safetensors")["blocks.01.feed_forward.up"]
    matrices = {each: params[f"blocks/01/feed_forward/up/{each}"] for each in ("base", "lora_a", "lora_b")}
    np.testing.assert_allclose(
        whole, matrices["base"] + 2 * matrices["lora_a"] @ matrices["lora_b"], rtol=1e-5, atol=1e-6
    )
    plain = next((folder / "out" / "runs").glob("*-D1280"))
    assert main(["export", str(plain), "--to", str(folder / "no"), "--form", "peft"]) == 2
    assert "the run has no adapter, expected lora, dora, adalora, prompt" in capsys.readouterr().err


def test_the_lengths_of_a_dora_are_exported_as_they_are_and_stacked_layers_one_by_one(tmp_path):
    adapter = AdapterConfig("dora", rank=1, targets=("up",))
    config = replace(tuned(adapter=adapter), model=replace(MODEL, adapter=adapter, has_scanned_layers=True), start=None)
    base = np.array([[[3.0, 0.0], [4.0, 1.0]]] * 2, np.float32)
    params = {
        "blocks/feed_forward/up/base": base,
        "blocks/feed_forward/up/magnitude": np.array([[2.0, 1.0], [1.0, 3.0]]),
    }
    write_peft(tmp_path, config, {name: array.astype(np.float32) for name, array in params.items()}, "base")
    found = read_safetensors(tmp_path / "adapter_model.safetensors")
    module = "base_model.model.blocks.01.feed_forward.up.lora_magnitude_vector"
    np.testing.assert_array_equal(found[module], [5.0, 3.0])
    np.testing.assert_array_equal(found[module.replace("01", "00")], [10.0, 1.0])


def read_safetensors(path):
    """The arrays of a file, by its format: eight bytes of length, a header, then the bytes."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = {name: each for name, each in json.loads(raw[8:end]).items() if name != "__metadata__"}
    return {
        name: np.frombuffer(raw[end:][slice(*each["data_offsets"])], np.float32).reshape(each["shape"])
        for name, each in header.items()
    }


def test_weights_read_at_the_start_are_checked_and_of_another_tokenizer_refused(start):
    from kleiber.train.beginning import first_weights

    params = first_weights(WAYS["lora"], start[1])
    np.testing.assert_array_equal(params["head"], start[0]["params/head"])
    drawn = init_params(WAYS["lora"].model, 5)["blocks"]["00"]["attention"]["query"]
    np.testing.assert_array_equal(params["blocks"]["00"]["attention"]["query"]["lora_a"], drawn["lora_a"])
    with pytest.raises(ValueError, match="another model of the tokenizer"):
        first_weights(WAYS["lora"], start[1], b"pieces")
