"""A training program in PyTorch, in the manner of nanoGPT; it knows nothing of kleiber.

A byte-level GPT on the source texts of Python's own standard library, so that nothing is downloaded. It leaves a table
of its validation losses, and a checkpoint from which the same line goes on after a SIGTERM:

    python gpt_torch.py --width 32 --layers 2 --tokens 500000 --seed 0 --out out/here
"""

import argparse
import json
import math
import signal
import sys
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

SEQUENCE, BATCH, EVALUATED = 128, 4, 65_536


class Block(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        batch, length, width = x.shape
        heads = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    """Bytes in, logits out. The head is the embedding; each position sees a part of the one before, without which small
    models learn bigrams late and all at once."""

    def __init__(self, width, layers, heads):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, width), nn.Embedding(SEQUENCE, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.before, self.norm = nn.Parameter(torch.zeros(width)), nn.LayerNorm(width, bias=False)
        for name, each in self.named_parameters():
            if each.dim() > 1:
                scale = 1 / math.sqrt(2 * layers) if name.endswith(("out.weight", "down.weight")) else 1
                nn.init.normal_(each, std=0.08 * scale)

    def loss(self, ids):
        x = self.tokens(ids[:, :-1])
        x = x + self.before * functional.pad(x, (0, 0, 1, -1)) + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def texts():
    """Returns (training bytes, validation bytes): every tenth file of the standard library is for validation."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts = [b"\n\n".join(p.read_bytes() for i, p in enumerate(files) if (i % 10 == 9) == last) for last in (0, 1)]
    return [torch.frombuffer(bytearray(part), dtype=torch.uint8).long() for part in parts]


def windows(ids, starts):
    return torch.stack([ids[start : start + SEQUENCE + 1] for start in starts])


@torch.no_grad()
def evaluate(model, ids):
    starts = torch.arange(0, min(len(ids), EVALUATED) - SEQUENCE, SEQUENCE)
    return sum(model.loss(windows(ids, part)).item() * len(part) for part in starts.split(32)) / len(starts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("width", "layers", "heads", "tokens", "seed"):
        parser.add_argument(f"--{name}", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=0.004)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    saved, record, stopped = options.out / "checkpoint.pt", options.out / "record.jsonl", []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    torch.manual_seed(options.seed)
    model = GPT(options.width, options.layers, options.heads)
    num_params = sum(each.numel() for each in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.1)
    num_steps, first = max(1, options.tokens // (SEQUENCE * BATCH)), 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    train, validation = texts()
    for step in range(first, num_steps):
        draw = torch.Generator().manual_seed(options.seed * 1_000_003 + step)  # so that a resume draws the same
        for group in optimizer.param_groups:
            warmed = min(1.0, (step + 1) / 50)
            group["lr"] = options.learning_rate * warmed * (0.5 + 0.5 * math.cos(math.pi * step / num_steps))
        loss = model.loss(windows(train, torch.randint(len(train) - SEQUENCE - 1, (BATCH,), generator=draw)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done = step + 1
        if stopped and done < num_steps:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, saved)
            sys.exit(75)
        if done == num_steps or done % max(1, num_steps // 4) == 0:
            row = {"step": done, "num_tokens": done * SEQUENCE * BATCH, "loss": evaluate(model, validation)}
            print(row, flush=True)
            with open(record, "a") as file:
                file.write(json.dumps({**row, "num_params_total": num_params}) + "\n")


if __name__ == "__main__":
    main()
