"""What peft makes of an exported adapter: the same logits. Runs in an environment that has both: make huggingface."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_models import KINDS, run_config, weights

from kleiber.experiments.exchange.huggingface_folder import write_huggingface
from kleiber.experiments.exchange.peft_folder import write_peft
from kleiber.model.adapter import AdapterConfig
from kleiber.model.config import ModelConfig
from kleiber.model.functional import apply
from kleiber.train.checkpoints.checkpoint import named_leaves
from kleiber.train.data.tokenizers import ByteTokenizer

pytestmark = pytest.mark.huggingface
TOKENS = np.random.default_rng(5).integers(0, 256, (3, 10)).astype(np.int32)
MODEL = ModelConfig(d_model=16, num_layers=2, num_heads=2, vocab_size=256, seq_len=10, base_d_model=16)
KINDS_OF_ADAPTERS = {
    "lora": AdapterConfig("lora", rank=3, alpha=6.0),
    "dora": AdapterConfig("dora", rank=3, alpha=6.0),
    "adalora": AdapterConfig("adalora", rank=3, alpha=6.0, target_rank=2),
}


def flat(tree):
    return {name: np.asarray(array) for name, array in named_leaves(tree).items()}


def decoder(arrays):
    """A torch module with our names of the matrices, and our forward pass written out."""
    import torch

    def turned(x):  # [B, N, T, H], pairs (h, h + H / 2)
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[2])[:, None] * 10_000.0 ** -(torch.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def norm(x):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.tensor(arrays["input/embedding"])
            self.blocks = torch.nn.ModuleDict()
            for path in (p for p in arrays if p.startswith("blocks/")):
                matrix, place = arrays[path], path.removesuffix("/base").split("/")
                if place[-1] not in ("query", "key", "value", "output", "up", "down"):
                    continue
                held = self.blocks
                for each in place[1:-1]:
                    if each not in held:
                        held[each] = torch.nn.ModuleDict()
                    held = held[each]
                held[place[-1]] = torch.nn.Linear(*matrix.shape, bias=False)
                held[place[-1]].weight.data = torch.tensor(np.ascontiguousarray(matrix.T))

        def forward(self, tokens):
            x = self.table[tokens] * 4.0  # the square root of d_model
            for block in self.blocks.values():
                attention, y = block["attention"], norm(x)
                q, k, v = (
                    attention[each](y).unflatten(-1, (2, 8)).transpose(1, 2) for each in ("query", "key", "value")
                )
                scores = turned(q) @ turned(k).transpose(-1, -2) / 8**0.5
                scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -1e30)
                x = x + attention["output"]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
                feed_forward = block["feed_forward"]
                x = x + feed_forward["down"](feed_forward["up"](norm(x)).relu() ** 2)
            return norm(x) @ self.table.T

    return Decoder().eval()


@pytest.mark.parametrize("kind", KINDS_OF_ADAPTERS)
@pytest.mark.parametrize("is_scanned", [False, True])
def test_peft_opens_an_exported_adapter_and_gives_the_same_logits(tmp_path, kind, is_scanned):
    import torch
    from peft import PeftModel

    config = replace(MODEL, adapter=KINDS_OF_ADAPTERS[kind], has_scanned_layers=is_scanned)
    tree = weights(config)
    expected = np.asarray(apply(config, tree, TOKENS))
    params = flat(tree)
    write_peft(tmp_path, run_config(config), params, "base")
    apart = {}
    for name, array in params.items():
        first, _, rest = name.partition("/")
        stacked = is_scanned and first == "blocks"
        apart |= {f"blocks/{n:02d}/{rest}": each for n, each in enumerate(array)} if stacked else {name: array}
    base = decoder(apart)
    with torch.no_grad():
        before = base(torch.tensor(TOKENS.astype(np.int64))).numpy()
        tuned = PeftModel.from_pretrained(base, str(tmp_path))
        found = tuned(torch.tensor(TOKENS.astype(np.int64))).numpy()
    assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert np.abs(found - before).max() > 0.1, "the adapter does something"


def test_peft_opens_an_exported_prompt_in_front_of_a_model_of_transformers(tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = replace(
        KINDS["ArceeForCausalLM"], has_scanned_layers=False, num_heads=3, num_kv_heads=None, head_width=None
    )
    config = replace(plain, adapter=AdapterConfig("prompt", num_virtual_tokens=5))
    tree = weights(config)
    expected = np.asarray(apply(config, tree, TOKENS))
    base = {**tree, "input": {"embedding": tree["input"]["embedding"]}}
    write_huggingface(tmp_path / "base", run_config(plain), base, ByteTokenizer())
    write_peft(tmp_path / "prompt", run_config(config), flat(tree), str(tmp_path / "base"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    tuned = PeftModel.from_pretrained(model, str(tmp_path / "prompt"))
    with torch.no_grad():
        found = tuned(torch.tensor(TOKENS.astype(np.int64))).logits.numpy()[:, 5:]
    assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    told = json.loads(Path(tmp_path / "prompt" / "adapter_config.json").read_text())
    assert told["peft_type"] == "PROMPT_TUNING" and told["num_virtual_tokens"] == 5
