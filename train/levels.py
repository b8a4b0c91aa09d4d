"""Runs that are alike up to their cooldown, or up to their end, and share what is alike: levels of one trunk."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kleiber.model.config import CompressionConfig
from kleiber.train.checkpoints.identity import said
from kleiber.train.config import TrainConfig
from kleiber.train.trained import trained_flops_per_token

NONE = CompressionConfig()


def plateau(config: TrainConfig) -> TrainConfig:
    """Returns the config in force up to the cooldown: runs of equal plateaus, dense ones too, are one trunk."""
    if config.compressed_from == "start" and not config.model.compression.is_none:
        return config
    return replace(config, model=replace(config.model, compression=NONE), compressed_from="cooldown")


def cooldown(config: TrainConfig) -> TrainConfig:
    """Returns the config in force during the cooldown: runs for which it is equal are one branch."""
    sets_in = config.compressed_from == "cooldown" and not config.model.compression.is_none
    return config if sets_in else plateau(config)


@dataclass(frozen=True)
class Branch:
    """What cools down together: the members of a population, or the levels that set in at the end."""

    config: TrainConfig
    """In force during the cooldown; of a population, that of its first member."""
    places: tuple[int, ...]
    """Of those measured at its end, in the order of the trunk's configs."""

    def name(self, num_tokens: int) -> str:
        """Returns the name of its checkpoints and of its part of the log."""
        compression = self.config.model.compression
        if self.config == plateau(self.config):
            return f"branch_{num_tokens}"
        return f"branch_{num_tokens}_{hashlib.sha256(json.dumps(said(compression)).encode()).hexdigest()[:6]}"


def split(configs: Sequence[TrainConfig]) -> tuple[list[TrainConfig], list[Branch]]:
    """Returns (the plateaus that train, one a member; the branches at each token count) of the configs of a trunk.

    Raises:
      ValueError: they are neither a population nor levels of one plateau.
    """
    plateaus = [plateau(config) for config in configs]
    if len(set(plateaus)) == len(configs):
        if len({(config.model.compression, config.compressed_from) for config in configs}) == 1:
            return plateaus, [Branch(cooldown(configs[0]), tuple(range(len(configs))))]
    if len(set(plateaus)) > 1:
        raise ValueError("a trunk has members or levels, not both: give the levels of each seed a trunk of their own.")
    branches: dict[TrainConfig, list[int]] = {}
    for place, config in enumerate(configs):
        branches.setdefault(cooldown(config), []).append(place)
    return plateaus[:1], [Branch(config, tuple(places)) for config, places in branches.items()]


def flops_of(config: TrainConfig, num_tokens: int) -> float:
    """Returns counted FLOPs of training one run of so many tokens: each part by the config in force."""
    from kleiber.train.update.schedule import cooldown_start

    before, after = (trained_flops_per_token(each) for each in (plateau(config), cooldown(config)))
    total = config.steps_at(num_tokens)
    start = cooldown_start(config.schedule, total) if before != after else total
    return float((before * start + after * (total - start)) * config.tokens_per_step)


def trained_steps(configs: Sequence[TrainConfig]) -> int:
    """Returns the optimizer steps of a trunk of one member, each shared part counted once."""
    return sum(steps for _, steps in _phases(configs))


def trained_flops(configs: Sequence[TrainConfig]) -> float:
    """Returns counted FLOPs of a trunk of one member, each shared part counted once."""
    return float(sum(trained_flops_per_token(each) * steps * each.tokens_per_step for each, steps in _phases(configs)))


def _phases(configs: Sequence[TrainConfig]) -> list[tuple[TrainConfig, int]]:
    """Returns the configs in force one after another in a trunk, and the steps of each."""
    from kleiber.train.update.schedule import cooldown_start

    plateaus, branches = split(configs)
    found, shared = [], 0
    for num_tokens in plateaus[0].num_tokens:
        total = plateaus[0].steps_at(num_tokens)
        start = cooldown_start(plateaus[0].schedule, total)
        found += [(branch.config, total - start) for branch in branches]
        shared = max(shared, start)
    return [(plateaus[0], shared), *found]
