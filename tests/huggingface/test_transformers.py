"""What transformers makes of a folder of kleiber's, and kleiber of one of transformers': the same logits, the same
tokens. Runs in an environment that has both: make huggingface.
"""

import functools
import json

import jax
import numpy as np
import pytest
from huggingface_models import KINDS, run_config, weights

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.experiments.exchange.converted_run import convert
from kleiber.experiments.exchange.huggingface_folder import read_huggingface, write_huggingface
from kleiber.model.decode.generate import generate
from kleiber.model.decode.sample import Sampling
from kleiber.model.functional import apply
from kleiber.train.checkpoints.checkpoint import tree_of
from kleiber.train.data.tokenizers import ByteTokenizer, SentencePieceTokenizer, train_sentencepiece

pytestmark = pytest.mark.huggingface
TOKENS = np.random.default_rng(5).integers(0, 256, (3, 10)).astype(np.int32)
TEXTS = ("the stones of  Unmöglichkeit", "", " \u010a \u2028 日本 </s> <unk>\n", "aa aaa aaaa", "😀\t 0")
GREEDY = Sampling(temperature=0.0)


def opened(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")


def their_logits(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens.astype(np.int64))).logits.numpy()


def their_tokens(model, prompt, count):
    import torch

    inputs = torch.tensor([prompt])
    found = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=count, do_sample=False,
                           eos_token_id=None, pad_token_id=0)  # fmt: skip
    return found[0, len(prompt) :].tolist()


def own_logits(config, tree, tokens):
    return np.asarray(jax.jit(functools.partial(apply, config))(tree, tokens))


@pytest.mark.parametrize("name", KINDS)
def test_transformers_opens_a_folder_of_kleibers_as_the_same_model(tmp_path, name):
    model, tree = KINDS[name], weights(KINDS[name])
    write_huggingface(tmp_path, run_config(model), tree, ByteTokenizer())
    there = opened(tmp_path)
    assert type(there).__name__ == name
    assert np.abs(their_logits(there, TOKENS) - own_logits(model, tree, TOKENS)).max() < 1e-5
    prompt = [10, *b"he"]
    assert their_tokens(there, prompt, 7) == list(generate(model, tree, prompt, 7, GREEDY))


def made_there(name):
    """A model of a class of transformers, drawn there, of the fields that its config.json has."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if name == "GPT2LMHeadModel":
        told = {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 32, "vocab_size": 256}
        config = AutoConfig.for_model("gpt2", **told)
    else:
        kind = {"Qwen3MoeForCausalLM": "qwen3_moe", "MistralForCausalLM": "mistral"}
        more = {
            "ApertusForCausalLM": {
                "hidden_act": "relu2", "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
            },
            "Starcoder2ForCausalLM": {"use_bias": False},
            "StableLmForCausalLM": {"rope_parameters": {"rope_type": "default", "rope_theta": 9e3,
                                                        "partial_rotary_factor": 1.0}},
            "MixtralForCausalLM": {"num_local_experts": 4},
            "Qwen3MoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
                                    "head_dim": 8},
            "Qwen3ForCausalLM": {"head_dim": 8},
            "LlamaForCausalLM": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "head_dim": 6},
            "MistralForCausalLM": {"sliding_window": 4096},
        }  # fmt: skip
        told = {
            **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 32, "rope_theta": 2e3},
            **{"pad_token_id": None, **more.get(name, {})},
        }
        config = AutoConfig.for_model(kind.get(name, name.removesuffix("ForCausalLM").lower()), **told)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if not path.endswith(("attn.bias", "c_attn.bias", "c_fc.bias", "c_proj.bias")):
                weight += 0.2 * torch.randn_like(weight)
    return model


@pytest.mark.parametrize("name", [*KINDS, "MistralForCausalLM"])
def test_kleiber_reads_a_folder_that_transformers_wrote_as_the_same_model(tmp_path, name):
    model = made_there(name)
    model.save_pretrained(tmp_path / "x", max_shard_size="8KB")
    assert (tmp_path / "x" / "model.safetensors.index.json").exists(), "it is in several files"
    found = read_huggingface(tmp_path / "x")
    tree = tree_of(found.arrays)
    assert np.abs(their_logits(model, TOKENS) - own_logits(found.config, tree, TOKENS)).max() < 1e-5
    prompt = TOKENS[0].tolist()
    assert their_tokens(model, prompt, 8) == list(generate(found.config, tree, prompt, 8, GREEDY))


def documents():
    draw = np.random.default_rng(0)
    words = draw.choice(["river", "stone", "running", "under", "the", "a", "of", "Unmöglich"], 6000)
    found = [" ".join(words[start : start + 12]).encode() for start in range(0, 6000, 12)]
    return found + [bytes(row) for row in draw.integers(97, 123, (400, 30)).astype(np.uint8)]


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_the_tokenizer_there_gives_our_ids_behind_the_end_of_a_document(tmp_path, kind):
    from transformers import AutoTokenizer

    tokenizer = ByteTokenizer() if kind == "bytes" else SentencePieceTokenizer(train_sentencepiece(documents(), 1000))
    model = KINDS["ArceeForCausalLM"]
    write_huggingface(tmp_path, run_config(model), weights(model), tokenizer)
    there = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        *ids, separator = tokenizer.encode([text.encode()])[0].tolist()
        assert there(text).input_ids == [separator, *ids], text
        assert there.decode(ids) == text, text
        shown = text.replace("\n", "") if kind == "bytes" else text  # a newline is the end of a document
        assert there.decode([separator, *ids], skip_special_tokens=True) == shown
    assert there.eos_token_id == there.bos_token_id == separator


def test_kleiber_generate_and_the_pipeline_of_transformers_write_the_same(tmp_path, capsys):
    from transformers import AutoTokenizer

    model = made_there("LlamaForCausalLM")
    with np.errstate(all="ignore"):
        model.save_pretrained(tmp_path / "x")
    write_huggingface(tmp_path / "y", run_config(KINDS["ArceeForCausalLM"]), weights(KINDS["ArceeForCausalLM"]),
                      ByteTokenizer())  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "x" / name).write_bytes((tmp_path / "y" / name).read_bytes())
    convert(tmp_path / "x", tmp_path / "run")
    assert main(["generate", str(tmp_path / "run"), "hello", "--num-tokens", "12", "--temperature", "0", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["text"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "x")
    ids = their_tokens(model, tokenizer("hello").input_ids, 12)
    assert written == bytes(ids).decode(errors="replace")
    assert kb.load(tmp_path / "run").config.model.rotary_base == 5e5
