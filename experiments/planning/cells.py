"""The cells of an experiment: which trunk makes which measured point, and in which order."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from kleiber.collector import collector_paused
from kleiber.experiments.directory.record import (
    TIMING_COLUMNS,
    RunRecord,
    cell_problem,
    planned_records,
    read_record,
    record_path,
    trunk_id,
)
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.law_columns import filled_columns, laws_variables
from kleiber.experiments.planning.varied import LENGTH, Level, level_words, varied_fields
from kleiber.model.counts import num_params_total
from kleiber.train.config import TrainConfig
from kleiber.train.levels import plateau, trained_flops, trained_steps

KEPT_BYTES = 2_000_000_000
"""Of measured weights that are kept where the experiment leaves it open."""
IN_NAME = ("d_model", "num_layers")
"""What a trunk's name says of itself."""


@dataclass(frozen=True)
class TrunkCell:
    """One trunk and where it belongs."""

    split: str
    """`fit`, `target`, or `start`: trained first, for others to begin with."""
    config: TrainConfig
    target: str = ""
    experiment: str = ""
    levels: tuple[tuple[str, Level], ...] = ()
    """Of every field that varies over the experiment's trunks, by name."""
    columns: tuple[tuple[str, float | str | None], ...] = ()
    """Columns of its records besides those that every run has, and its own factors."""
    shares: tuple[TrainConfig, ...] = ()
    """The configs of its trunk, its own among them, where it is one of several levels."""

    @property
    def label(self) -> str:
        """What tells it from the other trunks, for people: its shape, seed, and the level of whatever else varies."""
        varied = [f"{name} {level_words(level)}" for name, level in self.levels if name not in IN_NAME]
        return " ".join([self.shape, *varied])

    @property
    def shape(self) -> str:
        """Its shape and seed, for people."""
        return self.trunk_id.rsplit("-", 1)[0]

    @cached_property
    def trunk_id(self) -> str:
        """Name of the trunk and its folder."""
        return trunk_id(self.config)

    @cached_property
    def run_ids(self) -> dict[int, str]:
        """Names of the measured points, by token count."""
        return {num_tokens: f"{self.trunk_id}-D{num_tokens}" for num_tokens in self.config.num_tokens}

    @cached_property
    def trained_tokens(self) -> int:
        """Tokens actually trained on: the shared part once, each cooldown branch by itself; of levels that share a
        trunk an equal part."""
        levels = self.shares or (self.config,)
        return -(-trained_steps(levels) * self.config.tokens_per_step // len(levels))

    @property
    def trained_flops(self) -> float:
        """FLOPs actually spent on training, counted; of levels that share a trunk an equal part."""
        levels = self.shares or (self.config,)
        return trained_flops(levels) / len(levels)

    @cached_property
    def planned(self) -> dict[int, RunRecord]:
        """The planned record of each point, by token count; made once, as it hashes the config."""
        planned = planned_records(self.experiment, self.split, self.config, self.target)
        return {tokens: replace(each, factors=each.factors + self.columns) for tokens, each in planned.items()}

    def missing(self, directory: Path) -> list[int]:
        """Returns the token counts that have no record yet."""
        return [n for n, name in self.run_ids.items() if not record_path(directory, name).exists()]

    def ended_as(self, statuses: Sequence[str], directory: Path) -> list[str]:
        """Returns the run ids whose record has one of some statuses."""
        paths = (record_path(directory, name) for name in self.run_ids.values())
        return [p.parent.name for p in paths if p.exists() and read_record(p).status in statuses]


def populations(cells: list[TrunkCell], size: int) -> list[list[TrunkCell]]:
    """Returns the cells in groups of at most size that can train as one compiled program, in the order of the cells;
    and levels that share a trunk as a group of their own, whatever their number.

    Members may differ in seed, learning rate, weight decay and factors only. A command trains one alone.
    """
    groups: list[list[TrunkCell]] = []
    open_groups: dict[TrainConfig, list[TrunkCell]] = {}
    for cell in cells:
        if cell.shares:
            levels = open_groups.setdefault(plateau(cell.config), [])
            groups += [] if levels else [levels]
            levels.append(cell)
            continue
        alike = replace(
            cell.config,
            seed=0,
            factors=(),
            optimizer=replace(cell.config.optimizer, learning_rate=1.0, weight_decay=0.0),
        )
        group = open_groups.get(alike)
        if group is None or len(group) >= size or cell.config.command:
            group = open_groups[alike] = []
            groups.append(group)
        group.append(cell)
    return groups


def group_id(cells: list[TrunkCell]) -> str:
    """Returns the name of a trunk's folder of checkpoints: that of the trunk itself but for a population."""
    if len({plateau(cell.config) for cell in cells}) == 1:
        return trunk_id(plateau(cells[0].config))
    digest = hashlib.sha256(" ".join(cell.trunk_id for cell in cells).encode()).hexdigest()[:6]
    return f"population-{len(cells)}-{digest}"


def kept_weights(experiment: Experiment) -> tuple[tuple[str, ...], int]:
    """Returns (the splits whose measured weights are kept, the bytes that these take)."""

    def num_bytes(config: TrainConfig) -> int:
        one = num_params_total(config.model) * (4 if config.model.param_dtype == "float32" else 2)
        return 0 if config.command else one * len(config.num_tokens)

    sizes = {"fit": sum(map(num_bytes, experiment.trunks))}
    sizes["target"] = sum(num_bytes(target.train) for target in experiment.targets)
    policy = experiment.keep_final or ("all" if sum(sizes.values()) <= KEPT_BYTES else "none")
    splits: tuple[str, ...] = {"all": ("fit", "target"), "targets": ("target",), "none": ()}[policy]
    if starts := experiment.starts:
        sizes["start"], splits = sum(map(num_bytes, starts)), ("start", *splits)
    return splits, sum(sizes[split] for split in splits)


def trunk_cells(experiment: Experiment, split: str) -> list[TrunkCell]:
    """Returns the trunks of one split, most expensive first so that workers end together.

    Raises:
      ValueError: two trunks that are the same run.
    """
    chosen = [("", config) for config in (experiment.starts if split == "start" else experiment.trunks)]
    if split == "target":
        chosen = [(target.name, target.train) for target in experiment.targets]
    factors = [each for each in varied_fields(experiment.trunks) if each.name != LENGTH] if split == "fit" else []
    cells, variables = [], laws_variables(experiment)
    for index, (target, config) in enumerate(chosen):
        levels = tuple((each.name, each.values[index]) for each in factors)
        extra = [each for each in factors if each.column == f"factor.{each.name}"]
        own = ((each.column, each.in_column[each.values[index]]) for each in extra)
        columns = (*filled_columns(variables, config), *own)
        cells.append(TrunkCell(split, config, target, experiment.name, levels, columns))
    for name, count in Counter(cell.trunk_id for cell in cells).items():
        if count > 1:
            raise ValueError(f"trunk {name} appears {count} times: give each its own seed or factor level.")
    alike: dict[TrainConfig, list[TrainConfig]] = {}
    for cell in cells:
        alike.setdefault(plateau(cell.config), []).append(cell.config)
    shared = [replace(c, shares=tuple(s)) if len(s := alike[plateau(c.config)]) > 1 else c for c in cells]
    return sorted(shared, key=lambda cell: -cell.trained_flops)


def all_cells(experiment: Experiment) -> list[TrunkCell]:
    """Returns the trunks of all splits; one that others begin with and that counts itself stands once."""
    counted = trunk_cells(experiment, "fit") + trunk_cells(experiment, "target")
    names = {cell.trunk_id for cell in counted}
    return [cell for cell in trunk_cells(experiment, "start") if cell.trunk_id not in names] + counted


@collector_paused()
def cell_records(cells: list[TrunkCell], directory: Path) -> list[RunRecord]:
    """Returns the records there are of the cells' points, by run id; what else lies there counts for nothing.

    Raises:
      ValueError: a record is damaged, or not that of its cell; says which file, and what is wrong.
    """
    records = []
    for cell in cells:
        for num_tokens, name in cell.run_ids.items():
            path, planned = record_path(directory, name), cell.planned[num_tokens]
            if not path.exists():
                continue
            record = replace(read_record(path), split=cell.split, target=cell.target, experiment=cell.experiment)
            if problem := cell_problem(record, planned):
                raise ValueError(f"{path}: {problem}; remove the file to have that point measured again.")
            records.append(record)
    return sorted(records, key=lambda record: record.run_id)


def records_digest(records: list[RunRecord]) -> str:
    """Returns 16 hexadecimal digits that change with any number of a measured record, and with which others there are.

    Seconds, versions and the device are left out: equal numbers of another machine are equal.
    """
    rows = []
    for record in records:
        row = record.to_json() if record.status == "done" else {"run_id": record.run_id, "status": record.status}
        rows.append({name: value for name, value in row.items() if not _is_circumstance(name)})
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def _is_circumstance(column: str) -> bool:
    return column in (*TIMING_COLUMNS, "device", "experiment") or column.endswith("_version")
