"""How fast one model trains on all cores, next to its peers: tokens per second and ratios.

Every arrangement is a process with its own threads and flags; they take turns, and wait idle while others run. The
matmul peak takes its turn too: a step that were nothing but its products, at that peak, is the roof of every ratio.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kleiber.experiments.bench.interleave import interleaved, spread_of
from kleiber.experiments.bench.matmul import peaks, start_kernels
from kleiber.experiments.bench.partner import Partner
from kleiber.experiments.bench.setting import Setting
from kleiber.experiments.bench.step_shapes import Arrangement, arrangements, shapes
from kleiber.model.counts import flops_per_token, flops_per_token_causal
from kleiber.parallel.environment import num_cores

AGREEMENT = 2e-3
"""Relative difference of the losses of the first steps up to which two peers train the same thing. Equal at step one
to rounding; after that AdamW of near-zero gradients (output matrices start at zero) amplifies it."""
FIRST = 4
"""Steps whose losses are compared."""


def measure_shape(setting: Setting, name: str, peers: Sequence[str]) -> dict[str, Any]:
    """Returns tokens per second of each arrangement (peers, kleiber's first) on one of shapes(), kleiber's ratios to
    the others, and their roofs: what a step of its products alone would reach at the matmul peak of the same round,
    half the attention square counted. Raises ValueError if two peers do not train the same function."""
    shape, known = shapes()[name], arrangements()
    with contextlib.ExitStack() as stack:
        candidates: dict[str, Callable[[], float]] = {}
        losses: dict[str, list[float]] = {}
        for peer in peers:  # one after another: compiling side by side would only fight for the cores
            setting.tell(f"{name}: starting {peer}")
            partner = stack.enter_context(_start(peer, known[peer], name))
            losses[peer] = partner.ask()["losses"][:FIRST]
            _check_agreement(name, peer, losses[peer], peers[0], losses[peers[0]])
            candidates[peer] = lambda partner=partner: float(partner.ask()["seconds"])  # type: ignore[misc]
        candidates |= start_kernels(stack, setting, num_cores())
        samples = interleaved(candidates, setting.rounds, each_round=setting.each_round(name))
    tokens = shape.num_steps * shape.tokens_per_step
    ours = [peer for peer in peers if known[peer].kind == "kleiber"]
    best = min(ours, key=lambda peer: samples.spread(peer).median)
    products = tokens * flops_per_token_causal(shape.model)

    def roof(peer: str) -> dict[str, float | int]:
        turns = zip(samples.values[peer], peaks(samples), strict=True)
        return spread_of([seconds * peak / products for seconds, peak in turns]).as_dict()

    return {
        "shape": {**dataclasses.asdict(shape.model), "batch_size": shape.batch_size},
        "flops_per_token": flops_per_token(shape.model),
        "losses": losses,
        "tokens_per_second": {peer: tokens / samples.spread(peer).median for peer in peers},
        "best_arrangement": best,
        "ratios": {peer: samples.ratio(peer, best).as_dict() for peer in peers if peer not in ours},
        "roofs": {peer: roof(peer) for peer in peers if peer not in ours},
    }


def _start(name: str, how: Arrangement, shape: str) -> Partner:
    return Partner("trainers:steps", {"arrangement": name, "shape": shape}, how.num_threads, how.num_devices)


def _check_agreement(shape: str, peer: str, losses: list[float], first: str, expected: list[float]) -> None:
    difference = np.max(np.abs(np.array(losses) / np.array(expected) - 1))
    if not difference < AGREEMENT:
        raise ValueError(f"{shape}: losses of {peer} differ by {difference:.1e} from those of {first}.")
