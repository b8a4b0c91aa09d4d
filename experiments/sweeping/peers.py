"""What the processes of one run must have in common, compared before they train, at every start and resume.

Each reads text, tokenizer and code for itself, and a mesh of processes that differ computes a number of none of them.
"""

import importlib.metadata
import json
import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from kleiber.experiments.config_file import config_hash, from_data, to_data
from kleiber.experiments.directory.release import PACKAGES, code_digests
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.sweeping.follow import GIVEN
from kleiber.experiments.sweeping.inventory import own_laws
from kleiber.files import read_json
from kleiber.parallel import hosts
from kleiber.parallel.environment import numeric_settings
from kleiber.train.checkpoints.identity import differences, show
from kleiber.train.config import TrainConfig

CLOCK = "clock"
CLOCK_SECONDS = 60.0
"""How far the clocks of two hosts may be apart: dates of records and of forecasts come from them."""
FRESH_SECONDS = 10.0
"""Age of a sign of life, by the clock of the folder it is in, from which on its process counts as gone."""


class PeersDiffer(ValueError):
    """The processes of a run are not alike."""


def presence(directory: Path, number: int) -> Path:
    """Returns the file by which a process of several shows, in the directory they share, that it is there."""
    return directory / f".process-{number}"


def is_here(directory: Path, number: int, own_number: int) -> bool:
    """Returns whether a process has lately shown that it is there."""
    ours, theirs = presence(directory, own_number), presence(directory, number)
    try:
        return ours.stat().st_mtime - theirs.stat().st_mtime < FRESH_SECONDS
    except OSError:
        return False


def agree_on_hosts(experiment: Experiment) -> None:
    """Compares experiment, versions, code, variables that change numbers, clock, and then devices of all processes; all
    must ask, right after they have met.

    Args:
      experiment: as this process read it from the directory; one that follows has another from its command line.

    Raises:
      PeersDiffer: in every process, with each field that differs and what it is where.
    """
    facts: dict[str, Any] = {"experiment": _experiment_fact(experiment)}
    facts |= {f"version of {name}": importlib.metadata.version(name) for name in PACKAGES}
    facts |= {f"code of kleiber.{room}": digest for room, digest in code_digests().items()}
    facts |= {f"file {path}": digest for path, digest in own_laws(experiment).items()}
    facts |= {f"variable {name}": value for name, value in numeric_settings().items()}
    _agree("hosts", {**facts, CLOCK: time.time()})
    devices = jax.local_devices()
    kinds = {"local devices": len(devices), "device": f"{devices[0].platform}:{devices[0].device_kind}"}
    _agree("devices", kinds)


def agree_on_data(configs: Iterable[TrainConfig]) -> None:
    """Compares the text and the tokens that each process reads for the runs; all must ask.

    Raises:
      PeersDiffer: as agree_on_hosts; also when a process cannot read them.
    """
    facts: dict[str, str] = {}
    for config in configs:
        if f"text of {config.data.corpus}" not in facts or _tokens_name(config) not in facts:
            facts |= _data_facts(config)
    _agree("data", facts)


def _experiment_fact(experiment: Experiment) -> str:
    path = os.environ.get(GIVEN)
    given = from_data(Experiment, read_json(Path(path))) if path else experiment
    if given == experiment:
        return config_hash(experiment)
    found = differences(to_data(experiment), to_data(given))
    return f"{config_hash(given)} ({', '.join(map(show, found[:3]))})"


def _tokens_name(config: TrainConfig) -> str:
    return f"tokens of {config.data.corpus} as {config.data.tokenizer}"


def _data_facts(config: TrainConfig) -> dict[str, str]:
    from kleiber.train.data.corpora.catalogue import find_corpus, prepared_folder
    from kleiber.train.data.corpora.prepared import read_corpus_manifest
    from kleiber.train.data.run_data import open_run_data
    from kleiber.train.data.tokens import fingerprint

    try:
        tokens = open_run_data(config).train.fingerprint
        folder = prepared_folder(find_corpus(config.data.corpus))
        assert folder is not None
        text = fingerprint(folder, read_corpus_manifest(folder), "bytes").rpartition("/")[2]
    except (OSError, ValueError) as problem:  # the others must hear of it too, or they would wait
        text = tokens = f"not readable ({problem})"
    return {f"text of {config.data.corpus}": text, _tokens_name(config): tokens}


def _agree(name: str, facts: dict[str, Any]) -> None:
    every = [json.loads(text) for text in hosts.gather(name, json.dumps(facts))]
    fields = dict.fromkeys(field for found in every for field in found)
    told = [_difference(field, [found.get(field, "nothing") for found in every]) for field in fields]
    if any(told):
        raise PeersDiffer(
            f"the processes of this run differ in {'; '.join(filter(None, told))}. Give every host the same, then type "
            "the same line on each."
        )


def _difference(field: str, values: list[Any]) -> str:
    """Returns a field with each of its values and the processes that have it; nothing when they are alike."""
    if field == CLOCK:
        if max(values) - min(values) <= CLOCK_SECONDS:
            return ""
        values = [datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds") for value in values]
    where: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        where.setdefault(str(value)[:300], []).append(number)
    if len(where) == 1:
        return ""
    parts = [f"{value} in process{'es' if len(n) > 1 else ''} {', '.join(map(str, n))}" for value, n in where.items()]
    return f"{field}: {', '.join(parts)}"
