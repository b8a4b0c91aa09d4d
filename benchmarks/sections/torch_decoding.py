"""The peers of section decode: a loop with a memory by hand in PyTorch, and generate of transformers.

B batch, T new positions, D model width, N heads, S places, H head size.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kleiber.experiments.bench.torch_gpt import TorchTransformer, _rotate
from kleiber.model.config import ModelConfig
from kleiber.model.functional import apply, init_params
from sections.decoding import lengths


class Cached:
    """TorchTransformer, with keys and values of what it has read in buffers of the whole window."""

    def __init__(self, model: TorchTransformer, batch: int):
        config = model.config
        self.model = model
        shape = (batch, config.num_heads, config.seq_len, config.d_head)
        self.held = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_layers)]

    def read(self, tokens_BT: torch.Tensor, place: int) -> torch.Tensor:
        """Returns logits_BV of the last of new tokens, the first of which goes to a place."""
        model: Any = self.model
        batch, length = tokens_BT.shape
        end, d_model = place + length, model.config.d_model
        cos_TH, sin_TH = model.cos_TH[place:end], model.sin_TH[place:end]
        x_BTD = model.embedding(tokens_BT) * model.multiplier
        for block, (keys_BNSH, values_BNSH) in zip(model.blocks, self.held, strict=True):
            packed = block.query_key_value(F.rms_norm(x_BTD, (d_model,), eps=1e-6))
            packed = packed.view(batch, length, 3, block.num_heads, -1).permute(2, 0, 3, 1, 4)
            query, key = (_rotate(x, cos_TH, sin_TH) for x in (packed[0], packed[1]))
            keys_BNSH[:, :, place:end], values_BNSH[:, :, place:end] = key, packed[2]
            seen = (keys_BNSH[:, :, :end], values_BNSH[:, :, :end])
            mixed = F.scaled_dot_product_attention(query, *seen, is_causal=length > 1)
            x_BTD = x_BTD + block.branch * block.output(mixed.transpose(1, 2).reshape(batch, length, d_model))
            hidden = F.relu(block.up(F.rms_norm(x_BTD, (d_model,), eps=1e-6))).square()
            x_BTD = x_BTD + block.branch * block.down(hidden)
        return F.linear(F.rms_norm(x_BTD[:, -1], (d_model,), eps=1e-6), model.embedding.weight)


def _prompts(model: ModelConfig, batch: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, model.vocab_size, (batch, lengths(model)[0])))


def torch_rate(batch: int, **shape: Any) -> Callable[[], float]:
    """Returns a function that draws for a batch of prompts and gives tokens per second; what is read is checked against
    kleiber first."""
    model = ModelConfig(**shape)
    torch_model, params = TorchTransformer(model), init_params(model, 0)
    torch_model.load(params)
    tokens_BT, (known, new) = _prompts(model, batch), lengths(model)
    with torch.inference_mode():
        cached = Cached(torch_model, batch)
        cached.read(tokens_BT[:, :-1], 0)
        own = cached.read(tokens_BT[:, -1:], known - 1).numpy()
    np.testing.assert_allclose(own, np.asarray(apply(model, params, tokens_BT.numpy()))[:, -1], atol=1e-4, rtol=1e-3)

    @torch.inference_mode()
    def measure() -> float:
        begun = time.perf_counter()
        cached, last_BT, place = Cached(torch_model, batch), tokens_BT, 0
        for _ in range(new):
            logits_BV = cached.read(last_BT, place)
            place += last_BT.shape[1]
            last_BT = torch.multinomial(F.softmax(logits_BV, dim=-1), 1)
        return batch * new / (time.perf_counter() - begun)

    measure()
    return measure


def transformers_rate(batch: int, **shape: Any) -> Callable[[], float]:
    """Returns the same of transformers, of the folder that kleiber exports."""
    from transformers import AutoModelForCausalLM

    from kleiber.experiments.exchange.huggingface_folder import write_huggingface
    from kleiber.train.config import OptimizerConfig, TrainConfig
    from kleiber.train.data.tokenizers import ByteTokenizer

    model = ModelConfig(**shape)
    tokens_BT, new = _prompts(model, batch), lengths(model)[1]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(model, OptimizerConfig(0.1), (1000,))
        write_huggingface(Path(folder) / "model", config, init_params(model, 0), ByteTokenizer())
        peer = AutoModelForCausalLM.from_pretrained(Path(folder) / "model")

    @torch.inference_mode()
    def measure() -> float:
        begun = time.perf_counter()
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "top_k": 0, "pad_token_id": 0}
        found = peer.generate(tokens_BT, attention_mask=torch.ones_like(tokens_BT), **options)
        assert found.shape[1] == tokens_BT.shape[1] + new
        return batch * new / (time.perf_counter() - begun)

    measure()
    return measure
