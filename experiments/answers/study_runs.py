"""The measured runs of a sweep as a table of factor levels and losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.answers.asked import is_named, words
from kleiber.experiments.directory.record import LOST
from kleiber.experiments.planning.varied import COLUMN_OF, LENGTH, Factor, Level, varied_fields
from kleiber.files import read_json

EPOCHS = "epochs"
STEPS = "num_steps"
LARGER = 1.5
"""Times the parameters from which on models count as of different size."""
OF_A_STEP = ("batch_size", "model.seq_len")
"""Fields that say how many tokens a step has."""


@dataclass(frozen=True)
class StudyRun:
    """One measured point."""

    levels: Mapping[str, Level]
    """By factor, the length among them."""
    seed: int
    trunk: str
    value: float
    """Loss in nats per token, or bits per byte where tokenizers differ."""
    record: Mapping[str, Any]


@dataclass(frozen=True)
class StudyRuns:
    """A sweep's measured points and what varies over them."""

    factors: tuple[Factor, ...]
    """The trunks' varied fields, and `epochs` or `num_tokens` where the points differ in length."""
    runs: tuple[StudyRun, ...]
    unit: str
    """`nats per token`, or `bits per byte`."""
    lost: tuple[StudyRun, ...] = ()
    """Points that ended without a loss: diverged, failed or pruned, as the status of their record says."""

    @property
    def num_seeds(self) -> int:
        """Most runs that differ in nothing but the seed."""
        cells: dict[tuple, int] = {}
        for run in self.runs:
            key = tuple(run.levels.values())
            cells[key] = cells.get(key, 0) + 1
        return max(cells.values(), default=0)

    @property
    def in_order(self) -> list[StudyRun]:
        """The runs by the order of their levels, factor by factor."""
        ranks = {each.name: {level: rank for rank, level in enumerate(each.levels)} for each in self.factors}
        return sorted(self.runs, key=lambda run: [ranks[name].get(level, -1) for name, level in run.levels.items()])

    def grows_with(self, factor: Factor) -> bool:
        """Returns whether the models of a factor's levels are larger from level to level, embeddings apart."""
        sizes = [
            np.mean([run.record["num_params_non_embedding"] for run in self.runs if run.levels[factor.name] == level])
            for level in {run.levels[factor.name]: None for run in self.in_order}
        ]
        return len(sizes) > 1 and sizes == sorted(sizes) and sizes[-1] > LARGER * sizes[0]

    def by_steps(self, factor: Factor) -> "StudyRuns | None":
        """Returns the runs by their steps in place of their tokens; None where that brings no levels together."""
        if self.length is None or self.length.name != LENGTH or factor.path not in OF_A_STEP:
            return None
        steps = tuple(run.record["num_steps"] for run in self.runs)
        alike = {(count, run.levels[factor.name]) for count, run in zip(steps, self.runs, strict=True)}
        if len({count for count, _ in alike}) == len(alike):
            return None

        def told(run: StudyRun) -> StudyRun:
            others = {name: level for name, level in run.levels.items() if name != LENGTH}
            return replace(run, levels={**others, STEPS: run.record["num_steps"]})

        factors = tuple(Factor(STEPS, STEPS, steps) if each == self.length else each for each in self.factors)
        return replace(self, factors=factors, runs=tuple(map(told, self.runs)), lost=tuple(map(told, self.lost)))

    def factor(self, word: str) -> Factor | None:
        """Returns the factor that a word names, or None."""
        return next((each for each in self.factors if each.is_called(word)), None)

    @property
    def length(self) -> Factor | None:
        """The factor of length, if there is one."""
        return next((each for each in self.factors if each.name in (EPOCHS, LENGTH)), None)


def study_runs(experiment: dict[str, Any], records: Sequence[dict[str, Any]], directory: Path) -> StudyRuns:
    """Returns the finished points of split `fit` with the level of every factor.

    Args:
      experiment: experiment.json.
      records: of the sweep, as dicts.
      directory: of the sweep; where a record has no column for a factor, the run's own config.json there tells.
    """
    done = [r for r in records if r["status"] == "done" and r["split"] == "fit"]
    said = words(str(experiment.get("question", "")))
    configs = experiment.get("trunks", [])
    found = varied_fields(configs, lambda path: is_named([COLUMN_OF.get(path, path.rpartition(".")[2])], said))
    if not all(_is_known(each, done, directory) for each in found):
        found = varied_fields(configs)  # named as the records' columns are
    factors = [each for each in found if each.name != LENGTH and _is_known(each, done, directory)]
    varied = [word for each in factors for word in (each.path, *each.goes_with)]
    in_bytes = "data.tokenizer" in varied and all(r.get("bits_per_byte") for r in done)
    name, lengths = _lengths(done, factors)
    known = {_asked_tokens(r): level for r, level in zip(done, lengths, strict=True)}

    def run(r: dict[str, Any], length: Level, value: float) -> StudyRun:
        levels = {each.name: _level(each, r, directory) for each in factors if each.path != LENGTH}
        return StudyRun(
            {**levels, **({name: length} if name else {})}, int(r.get("seed") or 0), str(r["trunk_id"]), value, r
        )

    column = "bits_per_byte" if in_bytes else "loss"
    runs = tuple(run(r, length, float(r[column])) for r, length in zip(done, lengths, strict=True))
    rest = [r for r in records if r["split"] == "fit" and r["status"] in LOST]
    lost = tuple(
        run(r, known.get(_asked_tokens(r), _asked_tokens(r)), float("inf"))
        for r in rest
        if all(_is_known(each, [r], directory) for each in factors)
    )
    if name:
        factors.append(Factor(name, LENGTH, tuple(lengths)))
    return StudyRuns(tuple(factors), runs, "bits per byte" if in_bytes else "nats per token", lost)


def _lengths(done: Sequence[dict[str, Any]], factors: Sequence[Factor]) -> tuple[str, list[Level]]:
    """Returns the name of the factor of length and its levels [runs]; no name where it is no factor of its own."""
    asked: list[Level] = [_asked_tokens(r) for r in done]
    trunks: dict[str, set[Level]] = {}
    for r, tokens in zip(done, asked, strict=True):
        trunks.setdefault(str(r["trunk_id"]), set()).add(tokens)
    sets = {frozenset(each) for each in trunks.values()}
    leads = [each for each in factors if LENGTH in each.goes_with]
    if leads and len(sets) > 1 and not frozenset.intersection(*sets):
        if max(map(len, sets)) == 1:
            return "", asked  # the other factor has set the length
        ranks = [sorted(trunks[str(r["trunk_id"])]).index(t) for r, t in zip(done, asked, strict=True)]  # type: ignore[type-var]
        return LENGTH, [f"length {rank + 1}" for rank in ranks]
    epochs = [r.get("epochs") or 0.0 for r in done]
    if len(set(asked)) < 2:
        return "", asked
    if max(epochs, default=0.0) > 1.01 and len(set(zip(asked, [round(e, 2) for e in epochs], strict=True))) == len(
        set(asked)
    ):
        return EPOCHS, [float(f"{e:.3g}") for e in epochs]
    return LENGTH, asked


def _asked_tokens(record: dict[str, Any]) -> int:
    tail = str(record.get("run_id", "")).rpartition("-D")[2]
    return int(tail) if tail.isdecimal() else int(record["num_tokens"])


def _is_known(factor: Factor, done: Sequence[dict[str, Any]], directory: Path) -> bool:
    return all(factor.column in r or _config_path(r, directory).exists() for r in done)


def _config_path(record: dict[str, Any], directory: Path) -> Path:
    return directory / "runs" / str(record.get("run_id")) / "config.json"


def _level(factor: Factor, record: dict[str, Any], directory: Path) -> Level:
    """Returns the level of a run: of its column, else of its config."""
    if factor.column in record:
        return factor.of_column.get(record[factor.column], record[factor.column])
    found: Any = read_json(_config_path(record, directory))["trunk"]
    for name in factor.path.split("."):
        found = dict(found).get(name) if found is not None else None
    return tuple(found) if isinstance(found, list) else found
