"""What a level is worth: of compression in parameters, of a teacher or an optimizer in tokens.

It is the size, or the length, at which a plain model of the same seed and of equal all else has the loss of the level,
over the size of that one before it was compressed, or its own length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.experiments.answers.effects import interval, tuned_factors
from kleiber.experiments.answers.study_runs import StudyRun, StudyRuns
from kleiber.experiments.planning.varied import LENGTH, Factor, Level, level_words


@dataclass(frozen=True)
class Yardstick:
    """What levels of a factor are measured by."""

    plain: Level
    """The level that is none."""
    along: str
    """The factor over which plain runs make a line."""
    column: str
    """Of the record: what the line is over."""
    unit: str
    """In which a worth is told."""
    basis: str
    """What it rests on."""
    beyond: str
    """Plain runs past which the line is carried on."""
    is_gain: bool = False
    """Whether a level is hoped to lower the loss."""


def _of_parameters(plain: Level) -> Yardstick:
    basis = "the share of the parameters with which a dense model, of the same seed and length, has the same loss"
    return Yardstick(
        plain, "d_model", "num_params_total", "of the parameters", basis, "that of the smallest dense model"
    )


YARDSTICKS = {
    "weight_bits": _of_parameters(32),
    "sparsity": _of_parameters(0),
    "rank_share": _of_parameters(1),
    "teacher": Yardstick(
        None, LENGTH, "num_tokens", "times the tokens",
        "the tokens with which a model without a teacher, of the same seed and size, has the same loss, over its own",
        "those of all lengths without a teacher", is_gain=True,
    ),
    "update_rule": Yardstick(
        "AdamW", LENGTH, "num_tokens", "times the tokens",
        "the tokens with which AdamW, of the same seed and size, has the same loss, over its own",
        "those of all lengths with AdamW", is_gain=True,
    ),
}  # fmt: skip
"""By factor."""
SMALL = 0.01
"""Change of a worth that counts as none."""
UNTOLD = 0.5
"""Change of a worth that nothing has been said of where an interval reaches so far."""
Key = tuple[tuple[str, Level], ...]


@dataclass(frozen=True)
class Worth:
    """What one level is worth at one size."""

    level: Level
    d_model: int
    by_seed: dict[int, float]
    """Mean log share over the lengths and the levels of all else, by seed."""
    damage: dict[int, float]
    """Mean loss less that of the plain model, by seed."""
    is_beyond: bool
    """Whether the loss lies past the end of the line of plain runs: the slope there is carried on."""


def worths(study: StudyRuns, factor: Factor) -> list[Worth]:
    """Returns the worth of every level at every size, from the losses of plain runs: ln loss by a straight line in ln
    parameters, or ln tokens, between one trained run and the next. Numbers of the optimizer that were tried at three
    levels or more are each at their best."""
    stick = YARDSTICKS.get(factor.name)
    if stick is None or not any(each.name == stick.along for each in study.factors):
        return []
    aside = {factor.name, stick.along, *(each.name for each in tuned_factors(study))}
    best: dict[tuple[Level, Level, tuple[Key, int]], StudyRun] = {}
    for run in study.runs:
        key = run.levels[factor.name], run.levels[stick.along], _place(run, aside)
        if key not in best or run.value < best[key].value:
            best[key] = run
    plain: dict[tuple[Key, int], dict[Level, tuple[float, float]]] = {}  # (parameters or tokens, loss)
    for (level, own, place), run in best.items():
        if level == stick.plain:
            plain.setdefault(place, {})[own] = (float(run.record[stick.column]), run.value)
    found: dict[tuple[Level, int], list[tuple[int, float, float, bool]]] = {}
    for (level, own, place), run in best.items():
        line = plain.get(place, {})
        if level == stick.plain or len(line) < 2 or own not in line:
            continue
        (size, loss), (sizes, losses) = line[own], np.log(sorted(line.values())).T
        share = _size_of(sizes, losses, np.log(run.value)) - np.log(size)
        is_beyond = np.log(run.value) < losses[-1] if stick.is_gain else np.log(run.value) > losses[0]
        row = (run.seed, float(share), run.value - loss, bool(is_beyond))
        found.setdefault((level, int(run.levels.get("d_model") or run.record["d_model"])), []).append(row)  # type: ignore[arg-type]
    return [
        Worth(level, width, _means(rows, 1), _means(rows, 2), any(row[3] for row in rows))
        for (level, width), rows in sorted(
            found.items(), key=lambda item: (factor.levels.index(item[0][0]), item[0][1])
        )
    ]


def _place(run: StudyRun, aside: set[str]) -> tuple[Key, int]:
    return tuple((n, v) for n, v in run.levels.items() if n not in aside), run.seed


def _size_of(sizes: np.ndarray, losses: np.ndarray, loss: float) -> float:
    """Returns the ln size at which the line through (ln size, ln loss) has a loss; its ends are carried on."""
    if np.any(np.diff(losses) >= 0):
        slope, level = np.polyfit(sizes, losses, 1)  # a larger model did worse by chance: one line through all
        return float((loss - level) / slope)
    segment = int(np.clip(np.searchsorted(-losses, -loss) - 1, 0, len(sizes) - 2))
    slope = (losses[segment + 1] - losses[segment]) / (sizes[segment + 1] - sizes[segment])
    return float(sizes[segment] + (loss - losses[segment]) / slope)


def _means(rows: Sequence[tuple], column: int) -> dict[int, float]:
    seeds = dict.fromkeys(row[0] for row in rows)
    return {seed: float(np.mean([row[column] for row in rows if row[0] == seed])) for seed in seeds}


def worth_lines(study: StudyRuns, factor: Factor) -> tuple[list[str], list[str]]:
    """Returns (a sentence on each level: its worth at every size and whether that is constant; what these rest on),
    empty where no dense runs tell."""
    by_level: dict[Level, list[Worth]] = {}
    for each in worths(study, factor):
        by_level.setdefault(each.level, []).append(each)
    if not by_level:
        return [], []
    stick = YARDSTICKS[factor.name]
    basis = [f"A worth is {stick.basis}; brackets are 95 % intervals over seeds."]
    if any(each.is_beyond for found in by_level.values() for each in found):
        basis.append(f"* has a loss beyond {stick.beyond}: by the slope there carried on.")
    return [f"{factor.name} {_level_line(level, found, stick)}" for level, found in by_level.items()], basis


def _level_line(level: Level, found: Sequence[Worth], stick: Yardstick) -> str:
    said = [f"{_share(each.by_seed)}{'*' * each.is_beyond} at d_model {each.d_model}" for each in found]
    damages = [f"{np.mean(list(each.damage.values())):+.4f}" for each in found]
    seen = [_is_seen(each.damage, stick.is_gain) for each in found]
    what = "change of the loss" if stick.is_gain else "damage"
    line = f"{level_words(level)} is worth {', '.join(said)} {stick.unit} ({what} {', '.join(damages)}"
    line += " nats; seen at every size)" if all(seen) else f" nats; told from none at {sum(seen)} of {len(seen)} sizes)"
    if len(found) < 2:
        return line + "."
    both = sorted(set(found[0].by_seed) & set(found[-1].by_seed))
    moved = np.array([found[-1].by_seed[seed] - found[0].by_seed[seed] for seed in both])
    if len(moved) < 2:
        return line + "; one seed, so whether that is constant cannot be told."
    low, high = np.exp(interval(moved))
    most, ends = max(1 - low, high - 1), f"from d_model {found[0].d_model} to {found[-1].d_model}"
    if low <= 1 <= high and most > UNTOLD:
        return f"{line}; whether that is constant {ends} cannot be told."
    if low <= 1 <= high or most < SMALL:
        return f"{line}; constant within {max(most, SMALL):.0%} {ends}."
    return f"{line}; not constant: × {np.exp(moved.mean()):.2f} [{low:.2f}, {high:.2f}] {ends}."


def _share(by_seed: dict[int, float]) -> str:
    values = np.array(list(by_seed.values()))
    if len(values) < 2:
        return f"{np.exp(values.mean()):.2f}"
    low, high = np.exp(interval(values))
    return f"{np.exp(values.mean()):.2f} [{low:.2f}, {high:.2f}]"


def _is_seen(damage: dict[int, float], is_gain: bool) -> bool:
    if len(damage) < 2:
        return False
    low, high = interval(np.array(list(damage.values())))
    return high < 0 if is_gain else low > 0
