"""What to run next to be sure of an answer."""

from collections.abc import Sequence

from kleiber.experiments.answers.best import BestLevels
from kleiber.experiments.answers.effects import MOST_PAIRS, Effect, effect, pairs_to_tell
from kleiber.experiments.answers.sentences import MORE_SEEDS, listing, size
from kleiber.experiments.answers.study_runs import EPOCHS, StudyRuns
from kleiber.experiments.planning.varied import Factor, is_number, level_words


def next_runs(study: StudyRuns, factor: Factor, effects: Sequence[Effect], best: BestLevels | None) -> list[str]:
    """Returns what to run next to be sure."""
    lines = []
    found = best.places.values() if best and not best.untold else ()
    numbers = sorted(float(level) for level in factor.levels if is_number(level) and level)  # type: ignore[arg-type]
    for level, end in sorted({(float(each.level), each.edge) for each in found if each.edge and not each.is_tied}):  # type: ignore[arg-type]
        inner = numbers[-2:-1] if end == "largest" else numbers[1:2]
        if inner and level in (numbers[0], numbers[-1]):  # else it was tried beyond, elsewhere
            beyond = f"{level * (level / inner[0]):.3g}"
            lines.append(f"{factor.name} {beyond}, as the best, {level_words(level)}, is the {end} tried.")
    if factor.name == EPOCHS or "num_unique_tokens" in (factor.name, *factor.goes_with):
        lines += _fresh(study)
    measured = {run.levels[factor.name] for run in study.runs}
    if not effects and not (best and best.places) and len(measured) > 1:
        lines.append(f"two runs alike in everything but {factor.name}, seed included.")
    if study.num_seeds == 1:
        lines.append(MORE_SEEDS)
    if found:  # whether the best leads the second is then in question, not what each level does against the first
        leads = {frozenset((each.second, each.level)): (each.second, each.level) for each in found}
        effects = [each for second, first in leads.values() if (each := effect(study, factor, second, first))]
    for each in effects if study.num_seeds > 1 else ():
        if each.is_seen is False and each.mean and each.interval and not each.differs:
            pairs = pairs_to_tell(each)
            if pairs <= MOST_PAIRS:
                lines.append(
                    f"more seeds, if a difference as small as {size(each.mean)} matters: about {pairs} pairs in place "
                    f"of {each.num_units} would tell it between {factor.name} {level_words(each.against)} and "
                    f"{level_words(each.level)}."
                )
            else:
                lines.append(
                    f"nothing more, unless a difference below {size(max(map(abs, each.interval)))} matters: "
                    f"{4 * each.num_units} pairs would halve the interval between {factor.name} "
                    f"{level_words(each.against)} and {level_words(each.level)}."
                )
    return lines


def _fresh(study: StudyRuns) -> list[str]:
    """Returns the runs on fresh text that are missing to say what repeats cost."""
    repeated = {r.record["num_tokens"] for r in study.runs if (r.record.get("epochs") or 0) > 1.01}
    fresh = {r.record["num_tokens"] for r in study.runs if (r.record.get("epochs") or 0) <= 1.01}
    missing = sorted(repeated - fresh)
    if not missing:
        return []
    lengths = listing(f"{tokens:,}" for tokens in missing)
    return [
        f"the same model on {lengths} tokens of fresh text (data.num_unique_tokens=None): there is no fresh-data line "
        "to compare with, so what repeats cost against fresh text cannot be told."
    ]
