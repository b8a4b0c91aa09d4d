"""How fast one model trains on all cores, next to its peers: tokens per second and ratios.

    python -m kleiber.experiments.bench.step_speed d64 d128 --rounds 7

Every arrangement is a process with its own threads and flags; they take turns, and wait idle while others run.
"""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from kleiber.experiments.bench.interleave import interleaved
from kleiber.experiments.bench.step_shapes import Arrangement, arrangements, shapes
from kleiber.model.counts import flops_per_token

AGREEMENT = 2e-3
"""Relative difference of the losses of the first steps up to which two peers train the same thing. Equal at step one
to rounding; after that AdamW of near-zero gradients (output matrices start at zero) amplifies it."""


class Peer:
    """A trainer process that waits for a number of steps and answers their seconds."""

    def __init__(self, name: str, arrangement: Arrangement, shape: str, environment: dict[str, str] | None = None):
        self.name = name
        command = [sys.executable, "-m", "kleiber.experiments.bench.step_worker", name, shape]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=arrangement.environment() | (environment or {}),
        )
        self.about: dict[str, Any] = {}

    def ready(self) -> None:
        """Waits until the first steps are done.

        Raises:
          RuntimeError: if the process ended instead; the message holds the end of what it wrote.
        """
        self.about = json.loads(self._answer())

    def seconds(self, num_steps: int) -> float:
        """Returns the seconds of training so many steps."""
        assert self.process.stdin
        self.process.stdin.write(f"{num_steps}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout and self.process.stderr
        line = self.process.stdout.readline()
        if not line:
            tail = self.process.stderr.read()[-2000:]
            raise RuntimeError(f"the {self.name} trainer ended with {self.process.wait()}:\n{tail}")
        return line

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def _peers(names: Sequence[str], shape: str) -> Iterator[dict[str, Peer]]:
    known = arrangements()
    peers: dict[str, Peer] = {}
    try:
        for name in names:
            peers[name] = Peer(name, known[name], shape)
            peers[name].ready()  # one after another: compiling side by side would only fight for the cores
        yield peers
    finally:
        for peer in peers.values():
            peer.close()


def measure_shape(name: str, rounds: int, peers: Sequence[str], tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Returns tokens per second of each arrangement on one shape, and kleiber's ratios to the others.

    Args:
      name: of shapes().
      rounds: turns of each.
      peers: names of arrangements(); those of kleiber start with `kleiber`.
      tell: gets a line of progress now and then.

    Raises:
      ValueError: if two peers do not train the same function.
    """
    shape = shapes()[name]
    tell(f"{name}: starting {', '.join(peers)}")
    with _peers(peers, name) as running:
        reference = np.array(running[peers[0]].about["losses"])
        for peer in running.values():
            difference = np.max(np.abs(np.array(peer.about["losses"]) / reference - 1))
            if not difference < AGREEMENT:
                raise ValueError(f"{name}: losses of {peer.name} differ by {difference:.1e} from {peers[0]}'s.")
        samples = interleaved(
            {peer.name: functools.partial(peer.seconds, shape.num_steps) for peer in running.values()},
            rounds,
            warm=1,
            each_round=lambda done: tell(f"{name}: round {done} of {rounds}"),
        )
        losses = {peer.name: peer.about["losses"] for peer in running.values()}
    tokens = shape.num_steps * shape.tokens_per_step
    ours = [peer for peer in peers if peer.startswith("kleiber")]
    best = min(ours, key=lambda peer: samples.spread(peer).median)
    return {
        "shape": {**dataclasses.asdict(shape.model), "batch_size": shape.batch_size},
        "flops_per_token": flops_per_token(shape.model),
        "losses": losses,
        "tokens_per_second": {peer: tokens / samples.spread(peer).median for peer in peers},
        "best_arrangement": best,
        "ratios": {peer: samples.ratio(peer, best).as_dict() for peer in peers if peer not in ours},
    }


def measure_steps(
    rounds: int = 7,
    shape_names: Sequence[str] = ("d64", "d128", "d256"),
    peers: Sequence[str] = ("kleiber_threads", "kleiber_data", "torch", "torch_compiled", "jax"),
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Returns measure_shape of several shapes by name."""
    return {name: measure_shape(name, rounds, peers, tell) for name in shape_names}


if __name__ == "__main__":
    names = [a for a in sys.argv[1:] if a in shapes()]
    given = {a.split("=")[0]: a.split("=")[1] for a in sys.argv[1:] if "=" in a}
    chosen = given["peers"].split(",") if "peers" in given else ("kleiber_threads", "kleiber_data", "torch")
    for name in names:
        result = measure_shape(name, int(given.get("rounds", 7)), chosen, tell=lambda line: None)
        speeds = {peer: round(speed) for peer, speed in result["tokens_per_second"].items()}
        ratios = {p: [round(r[k], 2) for k in ("median", "low", "high")] for p, r in result["ratios"].items()}
        print(name, speeds, ratios, f"load {os.getloadavg()[0]:.1f}")
