"""Models leave as the folder that transformers opens, and enter from one. What transformers itself makes of it is asked
in an environment of its own (make huggingface, tests/huggingface); here a slow clear NumPy model of each architecture
(slow_huggingface.py) says what the logits of a folder are.
"""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_models import BASE, EXPERTS, KINDS, run_config, weights
from slow_huggingface import expected_logits, read_tensors

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.experiments.directory.record import source_columns
from kleiber.experiments.exchange.converted_run import convert
from kleiber.experiments.exchange.huggingface_config import config_json, model_of
from kleiber.experiments.exchange.huggingface_folder import read_huggingface, write_huggingface
from kleiber.experiments.exchange.plain_form import as_plain
from kleiber.experiments.exchange.safetensors_file import read_safetensors, write_safetensors
from kleiber.experiments.exchange.tokenizer_files import tokenizer_files
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.start_problems import start_problems
from kleiber.experiments.presets import MODELS
from kleiber.model.adapter import AdapterConfig
from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.model.decode.inference import inference_config
from kleiber.model.functional import apply as plain_apply
from kleiber.train.beginning import first_weights
from kleiber.train.checkpoints.checkpoint import named_leaves, tree_of
from kleiber.train.config import StartConfig
from kleiber.train.data.tokenizers import ByteTokenizer, SentencePieceTokenizer, train_sentencepiece
from kleiber.train.start import FREE, kept_weights_of

apply = jax.jit(plain_apply, static_argnums=0)
TOKENS = np.random.default_rng(3).integers(0, 256, 10).astype(np.int32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("folders")
    for name, model in KINDS.items():
        write_huggingface(home / name, run_config(model), weights(model), ByteTokenizer())
    return home


@pytest.mark.parametrize("name", KINDS)
def test_the_architecture_that_a_folder_names_has_the_logits_of_the_model_and_of_what_is_read(folders, name):
    own = apply(KINDS[name], weights(KINDS[name]), TOKENS[None])[0]
    assert json.loads((folders / name / "config.json").read_text())["architectures"] == [name]
    expected = expected_logits(folders / name, TOKENS)
    np.testing.assert_allclose(own, expected, atol=1e-4)
    assert np.abs(own).max() > 1
    found = read_huggingface(folders / name)
    np.testing.assert_allclose(apply(found.config, tree_of(found.arrays), TOKENS[None])[0], expected, atol=1e-4)


def test_the_tensors_of_the_default_shape_are_named_and_shaped_as_arcee_publishes_them(tmp_path):
    model = ModelConfig(8, 1, 2, num_kv_heads=1, d_ff=20, vocab_size=256)
    write_huggingface(tmp_path, run_config(model), weights(model), ByteTokenizer())
    layer = "model.layers.0"
    assert {name: array.shape for name, array in read_tensors(tmp_path / "model.safetensors").items()} == {
        "model.embed_tokens.weight": (256, 8), "model.norm.weight": (8,),
        f"{layer}.input_layernorm.weight": (8,), f"{layer}.post_attention_layernorm.weight": (8,),
        f"{layer}.self_attn.q_proj.weight": (8, 8), f"{layer}.self_attn.k_proj.weight": (4, 8),
        f"{layer}.self_attn.v_proj.weight": (4, 8), f"{layer}.self_attn.o_proj.weight": (8, 8),
        f"{layer}.mlp.up_proj.weight": (20, 8), f"{layer}.mlp.down_proj.weight": (8, 20),
    }  # fmt: skip
    told = json.loads((tmp_path / "config.json").read_text())
    assert (told["model_type"], told["hidden_act"], told["tie_word_embeddings"]) == ("arcee", "relu2", True)


@pytest.mark.parametrize(
    "fields",
    [
        {"adapter": AdapterConfig("dora", rank=2)},
        {"compression": CompressionConfig(weight_bits=4)},
        {"compression": CompressionConfig(rank_share=0.25), "head_width": None, "num_heads": 2},
        {"param_dtype": "bfloat16"},
    ],
)
def test_adapters_are_merged_few_bits_and_low_ranks_written_out_and_dtypes_kept(tmp_path, fields):
    model = replace(KINDS["ArceeForCausalLM"], **fields)
    tree = weights(model)
    write_huggingface(tmp_path, run_config(model), tree, ByteTokenizer())
    found = read_huggingface(tmp_path)
    got, own = (apply(c, t, TOKENS[None]) for c, t in ((found.config, tree_of(found.arrays)), (model, tree)))
    np.testing.assert_allclose(got, own, atol=0.15 if "param_dtype" in fields else 1e-4)
    kind = fields.get("param_dtype", "float32")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == kind
    assert {str(array.dtype) for array in found.arrays.values()} == {kind}


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"has_previous_token_mix": True}, "model.has_previous_token_mix=True has no counterpart"),
        ({"has_float8_products": True}, "model.has_float8_products=True has no counterpart"),
        ({"adapter": AdapterConfig("bottleneck", rank=2)}, "model.adapter.kind='bottleneck' has no counterpart"),
        ({"positions": "learned", "is_gated": True, "norm": "layernorm"}, "positions='learned' with .* StableLmFor"),
        ({"norm": "layernorm", "has_qk_norm": True}, "model.norm='layernorm' with .*has_qk_norm=True"),
        ({"norm": "layernorm"}, "model.head_width=4 has no counterpart"),
        ({"experts": EXPERTS}, "model.experts with these fields"),
        ({"experts": replace(EXPERTS, num_shared=1), "is_gated": True}, "model.experts.num_shared=1"),
        ({"experts": replace(EXPERTS, has_normalised_weights=False), "is_gated": True}, "has_normalised_weights"),
    ],
)  # fmt: skip
def test_a_field_without_counterpart_is_named_and_nothing_is_written(tmp_path, fields, said):
    model = replace(BASE, **fields)
    with pytest.raises(ValueError, match=said):
        write_huggingface(tmp_path / "x", run_config(model), weights(model), ByteTokenizer())
    assert not (tmp_path / "x").exists()


def test_an_encoder_has_no_counterpart(tmp_path):
    model = replace(BASE, family="encoder")
    with pytest.raises(ValueError, match="model.family='encoder' has no counterpart"):
        write_huggingface(tmp_path / "x", run_config(model, objective="masked"), weights(model), ByteTokenizer())


def test_a_write_that_is_interrupted_leaves_no_config_json(tmp_path, monkeypatch):
    model = KINDS["LlamaForCausalLM"]
    write_huggingface(tmp_path, run_config(model), weights(model), ByteTokenizer())
    assert (tmp_path / "config.json").exists()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kleiber.experiments.exchange.huggingface_folder.write_safetensors", full)
    with pytest.raises(OSError):
        write_huggingface(tmp_path, run_config(model), weights(model), ByteTokenizer())
    assert not (tmp_path / "config.json").exists()


def copied(source, target, **told):
    """Copies a folder, with keys of its config.json changed; None removes one."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text()) | told
    (target / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))
    return target


@pytest.mark.parametrize(
    "told, said",
    [
        ({"architectures": ["LlammaForCausalLM"]}, "is none that kleiber reads; did you mean LlamaForCausalLM"),
        ({"architectures": ["FalconForCausalLM"]}, "is none that kleiber reads It reads|It reads LlamaForCausalLM"),
        ({"architectures": "gone"}, "architectures is None, expected a list"),
        ({"hidden_size": "gone"}, "it has no hidden_size"),
        ({"hidden_size": "12"}, "hidden_size is '12', expected a number"),
        ({"hidden_size": 16}, r"has the shape \[256, 12\], expected \[256, 16\]"),
        ({"num_hidden_layers": 3}, "the tensor model.layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 1}, "model.layers.1.* and 8 more is no tensor of a LlamaForCausalLM"),
        ({"attention_bias": True}, "attention_bias is True, which kleiber has no counterpart of"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', which kleiber has no counterpart of"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "stretched"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "stretched"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"num_key_value_heads": 3}, "num_kv_heads 3 does not divide"),
    ],
)
def test_a_config_that_cannot_be_is_answered_with_the_key(folders, tmp_path, told, said):
    with pytest.raises(ValueError, match=said):
        read_huggingface(copied(folders / "LlamaForCausalLM", tmp_path / "x", **told))


def test_files_that_are_damaged_are_answered_with_a_sentence(folders, tmp_path, capsys):
    place = copied(folders / "LlamaForCausalLM", tmp_path / "x")
    weights_file, whole = place / "model.safetensors", (place / "model.safetensors").read_bytes()
    for content, said in (
        (whole[: len(whole) // 2], "is cut short"),
        (whole[:6], "is no whole safetensors file"),
        (b"\xff" * 8 + whole[8:], "is no whole safetensors file"),
        (whole.replace(b'"F32"', b'"I32"', 1), "holds I32, expected F32, BF16, F16"),
        (whole[:8] + b"x" + whole[9:], "its header makes no sense"),
    ):
        weights_file.write_bytes(content)
        assert main(["convert", str(place), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    tensors = dict(read_tensors(folders / "LlamaForCausalLM" / "model.safetensors"))
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    tensors["model.norm.weight"] = np.full(12, np.nan, np.float32)
    write_safetensors(weights_file, tensors, {})
    with pytest.raises(ValueError, match="model.norm.weight holds a number that is not finite"):
        read_huggingface(place)
    weights_file.unlink()
    with pytest.raises(ValueError, match="has neither model.safetensors nor model.safetensors.index.json"):
        read_huggingface(place)
    (place / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"pytorch_model.bin, a format that can run code"):
        read_huggingface(place)
    (place / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not whole JSON"):
        read_huggingface(place)
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        read_huggingface(tmp_path / "nowhere")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))


def test_weights_in_several_files_are_read_by_their_index_and_only_beside_it(folders, tmp_path):
    source = folders / "Qwen3ForCausalLM"
    place = copied(source, tmp_path / "x")
    tensors = {n: a.astype(np.float32) for n, a in read_tensors(source / "model.safetensors").items()}
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for name, those in parts.items():
        write_safetensors(place / name, {each: tensors[each] for each in those}, {"format": "pt"})
    (place / "model.safetensors").unlink()
    weight_map = {each: name for name, those in parts.items() for each in those}
    index = place / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    one, two = read_huggingface(source), read_huggingface(place)
    assert one.arrays.keys() == two.arrays.keys()
    assert all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)
    for wrong, said in (
        ("../x/model.safetensors", "lies outside its folder"),
        ("none.safetensors", "none.safetensors"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map | {names[0]: wrong}}))
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            read_huggingface(place)
    index.write_text(json.dumps({"weight_map": weight_map | {"spare": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ValueError, match="has no spare, which model.safetensors.index.json says it has"):
        read_huggingface(place)


def test_a_bias_of_gpt2_that_is_not_zero_has_no_counterpart(folders, tmp_path):
    place = copied(folders / "GPT2LMHeadModel", tmp_path / "x")
    tensors = {n: a.astype(np.float32) for n, a in read_tensors(place / "model.safetensors").items()}
    tensors["transformer.h.1.mlp.c_fc.bias"][3] = 0.5
    write_safetensors(place / "model.safetensors", tensors, {})
    with pytest.raises(ValueError, match="transformer.h.1.mlp.c_fc.bias is not zero"):
        read_huggingface(place)


def test_a_published_config_is_read_with_the_defaults_of_its_class():
    mistral = {
        "architectures": ["MistralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
    }  # fmt: skip
    _, model = model_of(mistral)
    assert (model.activation, model.d_head, model.rotary_base, model.norm_epsilon) == ("silu", 128, 1e6, 1e-5)
    assert not model.has_tied_head and model.kv_heads == 8
    with pytest.raises(ValueError, match="sliding_window is 4096"):
        model_of({name: value for name, value in mistral.items() if name != "sliding_window"})
    _, short = model_of(mistral | {"sliding_window": 4096}, seq_len=4096)
    assert short.seq_len == 4096
    qwen3 = {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "head_dim": 128, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936,
        "max_position_embeddings": 40960, "rope_theta": 1000000, "tie_word_embeddings": True,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "use_sliding_window": False, "rope_scaling": None,
    }  # fmt: skip
    _, model = model_of(qwen3)
    assert (model.head_width, model.has_qk_norm_gain, model.has_tied_head) == (128, True, True)
    assert kb_params(model) == 596_049_920  # of the published Qwen3-0.6B, whose table is tied


def kb_params(model):
    from kleiber.model.counts import num_params_total

    return num_params_total(model)


def slow_encode(content, text):
    """What a tokenizer.json of merges makes of a text: of all pairs the one that stands first in the list merges."""
    model = content["model"]
    if content["pre_tokenizer"]:
        words = [b for b in text.encode()]
        letters = {byte: letter for letter, byte in model["vocab"].items()}
        return [model["vocab"][letters[each]] for each in words]
    rank = {tuple(pair): place for place, pair in enumerate(model["merges"])}
    pieces = list(text.replace(" ", "\u2581"))
    while pairs := [(rank[p], i) for i, p in enumerate(zip(pieces, pieces[1:], strict=False)) if p in rank]:
        _, place = min(pairs)
        pieces[place : place + 2] = ["".join(pieces[place : place + 2])]
    found = []
    for piece in pieces:
        spelt = [f"<0x{byte:02X}>" for byte in piece.encode()]
        found += [model["vocab"][each] for each in ([piece] if piece in model["vocab"] else spelt)]
    return found


def test_a_tokenizer_json_gives_the_ids_of_the_tokenizer():
    words = np.random.default_rng(0).choice(["river", "stone", "running", "under", "the", "a", "of", "Unmöglich"], 6000)
    documents = [" ".join(words[start : start + 12]).encode() for start in range(0, 6000, 12)]
    documents += [bytes(row) for row in np.random.default_rng(1).integers(97, 123, (400, 30)).astype(np.uint8)]
    pieces = SentencePieceTokenizer(train_sentencepiece(documents, 1000))
    for tokenizer in (ByteTokenizer(), pieces):
        files = tokenizer_files(tokenizer, True, 16)
        content = json.loads(files["tokenizer.json"])
        separator = int(tokenizer.encode([b""])[0][0])
        (special,) = content["post_processor"]["special_tokens"].values()
        assert special["ids"] == [separator] and content["added_tokens"][0]["id"] == separator
        for text in ("the running  stones of  Unmöglichkeit", " 日本 </s>", "aa aaa aaaa", "under theriver"):
            assert slow_encode(content, text) == tokenizer.encode([text.encode()])[0][:-1].tolist(), text
    assert json.loads(tokenizer_files(pieces, False, 16)["tokenizer.json"])["post_processor"] is None


@pytest.fixture(scope="module")
def converted(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "own"
    convert(folders / "LlamaForCausalLM", out)
    return out


def test_a_converted_folder_is_a_run_that_scores_writes_on_and_leaves_as_it_came(converted, folders, tmp_path, capsys):
    run = kb.load(converted)
    logits = expected_logits(folders / "LlamaForCausalLM", np.array([10, *b"hello"]))
    np.testing.assert_allclose(run.model(np.array([[10, *b"hello"]]))[0], logits, atol=1e-4)
    losses = np.log(np.exp(logits).sum(-1))[:5] - logits[np.arange(5), list(b"hello")]
    ending = expected_logits(folders / "LlamaForCausalLM", np.array([10, *b"hello"]))[5]
    total = losses.sum() + np.log(np.exp(ending).sum()) - ending[10]
    assert run.evaluate("hello").loss == pytest.approx(total / 6, abs=1e-4)
    assert run.generate("hello", 1, temperature=0) == bytes([logits[-1].argmax()]).decode(errors="replace")
    assert main(["export", str(converted), "--to", str(tmp_path / "back"), "--form", "huggingface"]) == 0
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (folders / "LlamaForCausalLM" / name).read_bytes(), name
    capsys.readouterr()
    assert main(["eval", str(converted)]) == 2
    assert "was converted, and has no validation text" in capsys.readouterr().err
    assert main(["convert", str(folders / "LlamaForCausalLM"), "--out", str(converted)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_another_run_begins_with_a_converted_one(converted):
    run, start = kb.load(converted), StartConfig(str(converted))
    config = run_config(run.config.model, start=start)
    assert not start_problems(Experiment("tuned", "?", (config,), laws=()))
    first = first_weights(config, kept_weights_of(converted))
    assert all(np.array_equal(array, run.params[name]) for name, array in named_leaves(first).items())
    assert source_columns(config, Path())["pretrained_params"] == sum(array.size for array in run.params.values())
    wider = run_config(replace(run.config.model, rotary_base=60.0), start=start)
    (problem,) = start_problems(Experiment("tuned", "?", (wider,), laws=()))
    assert "has model.rotary_base 50.0, and this run 60.0" in problem


def test_a_folder_of_an_unknown_tokenizer_says_so_and_gives_logits(folders, tmp_path, capsys):
    place = copied(folders / "LlamaForCausalLM", tmp_path / "x")
    content = json.loads((place / "tokenizer.json").read_text())
    content["model"]["merges"] = [["t", "h"]]
    (place / "tokenizer.json").write_text(json.dumps(content))
    assert main(["convert", str(place), "--out", str(tmp_path / "run")]) == 0
    assert "its tokenizer is none of kleiber's (bytes and SentencePiece)" in capsys.readouterr().out
    assert kb.load(tmp_path / "run").model(TOKENS[None]).shape == (1, 10, 256)
    assert main(["generate", str(tmp_path / "run"), "hello"]) == 2
    assert "the tokenizer of this model is none of kleiber's" in capsys.readouterr().err


def test_a_safetensors_file_is_read_as_it_was_written(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {"a": draw.standard_normal((3, 5)).astype(np.float32), "b": np.float16([1, 2, 3]), "c": np.float32([])}
    write_safetensors(tmp_path / "x.safetensors", arrays, {"k": "v"})
    found = read_safetensors(tmp_path / "x.safetensors")
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        name: (array.dtype, array.tolist()) for name, array in arrays.items()
    }


def test_experts_that_may_be_full_leave_with_room_for_all_as_when_generating(tmp_path):
    model = replace(KINDS["MixtralForCausalLM"], experts=ExpertsConfig(4, 2, capacity_factor=0.6, group_size=5))
    tree = weights(model)
    write_huggingface(tmp_path, run_config(model), tree, ByteTokenizer())
    own = apply(inference_config(replace(model, experts=replace(model.experts, group_size=None))), tree, TOKENS[None])
    np.testing.assert_allclose(expected_logits(tmp_path, TOKENS), own[0], atol=1e-4)
    assert np.abs(apply(model, tree, TOKENS[None]) - own).max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_the_config_of_a_preset_comes_back_or_is_refused_by_its_field(name):
    model = as_plain(MODELS[name])
    if name == "1t-moe":
        with pytest.raises(ValueError, match="model.experts.num_shared=1 has no counterpart"):
            config_json(model, "float32", 0)
        return
    _, back = model_of(config_json(model, "float32", 0))
    free = {each: getattr(model, each) for each in (*FREE, "has_scanned_layers", "d_ff", "num_kv_heads")}
    assert replace(back, **free) == model
    assert (back.feed_forward_width, back.kv_heads) == (model.feed_forward_width, model.kv_heads)
