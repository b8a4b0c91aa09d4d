"""The peer: the same Transformer written plainly in PyTorch, as its users would, to measure kleiber against.

It computes what kleiber.model computes for the dense shapes of the bench (rotary positions, RMSNorm without gain,
squared ReLU, tied head, previous-token mix where the shape has it): the losses of both are compared before any clock
starts. It uses what PyTorch offers for speed: fused scaled_dot_product_attention, one product for queries, keys and
values, fused AdamW, zero_grad that frees.

B batch, T position, D model width, N heads, H head size.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kleiber.model.config import ModelConfig
from kleiber.model.parametrization import rules


def _rotary(length: int, d_head: int) -> tuple[torch.Tensor, torch.Tensor]:
    half = d_head // 2
    angle = torch.arange(length)[:, None] * 10_000.0 ** -(torch.arange(half) / half)
    return torch.cos(angle).repeat(1, 2), torch.sin(angle).repeat(1, 2)


def _rotate(x_BNTH: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
    first, second = x_BNTH.chunk(2, dim=-1)
    return x_BNTH * cos_TH + torch.cat((-second, first), dim=-1) * sin_TH


class TorchBlock(nn.Module):
    """Attention and feed-forward, each behind an RMSNorm, added to the residual stream."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        d_model = config.d_model
        self.num_heads = config.num_heads
        self.branch = rules(config)["output"].multiplier
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, config.feed_forward_width, bias=False)
        self.down = nn.Linear(config.feed_forward_width, d_model, bias=False)

    def forward(self, x_BTD: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor) -> torch.Tensor:
        """Returns the residual stream after this block."""
        batch, length, d_model = x_BTD.shape
        packed = self.query_key_value(F.rms_norm(x_BTD, (d_model,), eps=1e-6))
        packed = packed.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = (_rotate(x, cos_TH, sin_TH) for x in (packed[0], packed[1]))
        mixed = F.scaled_dot_product_attention(query, key, packed[2], is_causal=True)
        x_BTD = x_BTD + self.branch * self.output(mixed.transpose(1, 2).reshape(batch, length, d_model))
        hidden = F.relu(self.up(F.rms_norm(x_BTD, (d_model,), eps=1e-6))).square()
        return x_BTD + self.branch * self.down(hidden)


class TorchTransformer(nn.Module):
    """Token ids in, logits out."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.multiplier = rules(config)["embedding"].multiplier
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.mix = nn.Parameter(torch.full((config.d_model,), 0.5)) if config.has_previous_token_mix else None
        self.blocks = nn.ModuleList(TorchBlock(config) for _ in range(config.num_layers))
        cos_TH, sin_TH = _rotary(config.seq_len, config.d_head)
        self.register_buffer("cos_TH", cos_TH)
        self.register_buffer("sin_TH", sin_TH)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, T, V]."""
        x_BTD = self.embedding(tokens_BT) * self.multiplier
        if self.mix is not None:
            x_BTD = x_BTD + self.mix * F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
        for block in self.blocks:
            x_BTD = block(x_BTD, self.cos_TH, self.sin_TH)
        return F.linear(F.rms_norm(x_BTD, (self.config.d_model,), eps=1e-6), self.embedding.weight)

    def load(self, params: Any) -> None:
        """Takes the weights of kleiber.model.functional.init_params."""

        def put(to: Any, *matrices: np.ndarray) -> None:
            to.weight.copy_(torch.from_numpy(np.concatenate([np.asarray(m).T for m in matrices]).copy()))

        with torch.no_grad():
            self.embedding.weight.copy_(torch.from_numpy(np.array(params["input"]["embedding"])))
            if self.mix is not None:
                self.mix.copy_(torch.from_numpy(np.array(params["input"]["mix"])))
            blocks: Any = self.blocks
            for name, block in zip(sorted(params["blocks"]), blocks, strict=True):
                weights = params["blocks"][name]
                attention, feed_forward = weights["attention"], weights["feed_forward"]
                put(block.query_key_value, attention["query"], attention["key"], attention["value"])
                put(block.output, attention["output"])
                put(block.up, feed_forward["up"])
                put(block.down, feed_forward["down"])


class TorchTrainer:
    """One model and its AdamW: `step` trains on a batch."""

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        learning_rate: float,
        is_compiled: bool = False,
        weight_decay: float = 0.1,
    ):
        """Makes the model of params of init_params, and an optimizer whose rates and decays (given at the base shape)
        follow kleiber's rules."""
        self.model = TorchTransformer(config)
        self.model.load(params)
        groups: dict[str, list] = {"embedding": [], "mix": [], "hidden": []}
        for name, parameter in self.model.named_parameters():
            groups["mix" if name == "mix" else "embedding" if name.startswith("embedding") else "hidden"] += [parameter]
        table: Any = rules(config)
        self.rate_multipliers = [table[role].learning_rate for role, members in groups.items() if members]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": members, "weight_decay": weight_decay * table[role].weight_decay / table[role].learning_rate}
                for role, members in groups.items()
                if members
            ],
            betas=(0.9, 0.99),
            eps=1e-8,
            fused=True,
        )
        self.set_rate(learning_rate)
        self.run = torch.compile(self.model) if is_compiled else self.model

    def set_rate(self, learning_rate: float) -> None:
        """Sets the learning rate, given as that of the base shape."""
        for group, multiplier in zip(self.optimizer.param_groups, self.rate_multipliers, strict=True):
            group["lr"] = learning_rate * multiplier

    def loss(self, tokens_BT1: np.ndarray) -> torch.Tensor:
        """Returns the mean cross entropy of the targets, nats."""
        tokens = torch.from_numpy(tokens_BT1.astype(np.int64))
        logits = self.run(tokens[:, :-1])
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))

    def step(self, tokens_BT1: np.ndarray) -> float:
        """Trains on one batch with the gradients clipped at norm 1; returns the loss before the update."""
        loss = self.loss(tokens_BT1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()
