"""A training program in PyTorch, in the manner of nanoGPT; it knows nothing of kleiber.

A byte-level GPT on the source texts of Python's own standard library, so that nothing is downloaded. One start measures
several lengths: the learning rate is constant, and for each length a branch cools it down to nothing over the last
fifth; then the run goes on from where the branch began. It leaves a table of its validation losses, and a checkpoint
from which the same line goes on, killed or not, to the same numbers:

    python gpt_torch.py --width 32 --tokens 250000,500000 --seed 0 --out out/here
"""

import argparse
import copy
import json
import math
import os
import signal
import sys
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

SEQUENCE, BATCH, EVALUATED, WARMUP = 128, 4, 65_536, 50


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


class Run:
    """A model, its optimizer, and all that a resume needs to know: what is saved is what goes on."""

    def __init__(self, width, layers, heads, learning_rate, seed):
        torch.manual_seed(seed)
        self.model, self.learning_rate, self.seed = GPT(width, layers, heads), learning_rate, seed
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.99), weight_decay=0.1)
        self.step, self.rows = 0, []
        self.num_measured, self.branched = 0, None  # lengths; the weights where the branch of the next one began

    def train(self, ids, end):
        """Takes a step; `end` is the last one of a branch, None while the learning rate is constant."""
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)  # so that a resume draws the same
        left = (end - self.step) / (end - branch_of(end)) if end else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * min(left, (self.step + 1) / WARMUP)
        loss = self.model.loss(windows(ids, torch.randint(len(ids) - SEQUENCE - 1, (BATCH,), generator=draw)))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1

    def measure(self, ids):
        """Adds the validation loss to the table."""
        row = {"step": self.step, "num_tokens": self.step * SEQUENCE * BATCH, "loss": evaluate(self.model, ids)}
        self.rows.append(row | {"num_params_total": sum(each.numel() for each in self.model.parameters())})
        print(row, flush=True)

    def weights(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def take(self, weights):
        self.model.load_state_dict(weights["model"])
        self.optimizer.load_state_dict(weights["optimizer"])
        self.step = weights["step"]

    def save(self, folder):
        """Replaces the checkpoint, then the table, each whole: a kill leaves the old one or the new one."""
        state = {"run": self.weights(), "branched": self.branched, "rows": self.rows, "measured": self.num_measured}
        torch.save(state, folder / "checkpoint.partial")
        os.replace(folder / "checkpoint.partial", folder / "checkpoint.pt")
        (folder / "record.partial").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        os.replace(folder / "record.partial", folder / "record.jsonl")

    def load(self, folder):
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        self.take(state["run"])
        self.branched, self.rows, self.num_measured = state["branched"], state["rows"], state["measured"]


def branch_of(end):
    """Returns the step from which on the learning rate of a length is cooled down."""
    return end - max(1, end // 5)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("width", "layers", "heads", "seed"):
        parser.add_argument(f"--{name}", type=int, default=2)
    parser.add_argument("--tokens", help="of each length, joined by commas", required=True)
    parser.add_argument("--learning-rate", type=float, default=0.004)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    run = Run(options.width, options.layers, options.heads, options.learning_rate, options.seed)
    if (options.out / "checkpoint.pt").exists():
        run.load(options.out)
        run.save(options.out)  # the table, had a kill come between
    train, validation = texts()
    ends = sorted({max(1, int(tokens) // (SEQUENCE * BATCH)) for tokens in options.tokens.split(",")})
    for end in ends[run.num_measured :]:
        while run.step < end:
            if stopped:
                run.save(options.out)
                sys.exit(75)
            if run.step == branch_of(end):
                run.branched = copy.deepcopy(run.weights())
            run.train(train, end if run.branched else None)
            if not run.branched and run.step % max(1, ends[-1] // 5) == 0 and run.step not in ends:
                run.measure(validation)  # for the curve
                run.save(options.out)
        run.measure(validation)
        run.take(run.branched)
        run.branched, run.num_measured = None, run.num_measured + 1
        run.save(options.out)


if __name__ == "__main__":
    main()
