"""What holds for every answer of a sweep: a small validation set, routers that learn nothing, choices dropped."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kleiber.experiments.answers.sentences import at, listing, size
from kleiber.experiments.answers.study_runs import StudyRuns
from kleiber.train.watch.metrics import whole_rows

MOST_NAMED = 4


def caveats(experiment: dict[str, Any], study: StudyRuns, directory: Path) -> list[str]:
    """Returns the caveats of a sweep in sentences.

    Args:
      experiment: experiment.json.
      study: its runs.
      directory: of the sweep, for the step logs.
    """
    told = [*_lost(study), *_programs(study), *_validation(experiment, study)]
    return [*told, *_routers(experiment), *_dropped(study, directory)]


def _lost(study: StudyRuns) -> list[str]:
    """Returns which points ended without a loss, by how they ended."""
    what = {
        "diverged": "count as worse than any other",
        "failed": "are in no number here: see the end of the report, and sweep again with --retry-failed",
        "pruned": "were cut early as hopeless: they are in no fit and no difference, and count as tried and worse",
    }
    lines, total = [], len(study.runs) + len(study.lost)
    for status, fate in what.items():
        places = dict.fromkeys(at(run.levels.items()) for run in study.lost if run.record["status"] == status)
        count = sum(run.record["status"] == status for run in study.lost)
        if count:
            named = listing([*list(places)[:MOST_NAMED], *(["others"] if len(places) > MOST_NAMED else [])])
            head = f"{count} of {total} points {'' if status == 'pruned' else status + ' and '}{fate}"
            lines.append(f"{head}{f': {named}' if any(places) else ''}.")
    return lines


def _programs(study: StudyRuns) -> list[str]:
    """Returns how many versions of a program trained the runs, where it was edited among them."""
    versions = Counter(run.record.get("program_fingerprint") for run in study.runs)
    if len(versions) < 2:
        return []
    counts = " and ".join(str(count) for _, count in versions.most_common())
    return [f"{len(versions)} versions of the program trained these points ({counts}): what was edited is in them too."]


def validation_asked(experiment: dict[str, Any], had: Iterable[int]) -> int | None:
    """Returns the validation tokens that an experiment asked to be scored, where some run had fewer; else None."""
    asked = 0
    for trunk in experiment.get("trunks", []):
        share = trunk["masking"]["rate"] if trunk.get("objective") == "masked" else 1.0
        asked = max(asked, round(share * int(trunk.get("evaluation", {}).get("num_tokens") or 0)))
    return asked if min(had, default=asked) < 0.98 * asked else None  # some are lost where windows and rows end


def _validation(experiment: dict[str, Any], study: StudyRuns) -> list[str]:
    had = {int(run.record.get("num_validation_tokens") or 0) for run in study.runs} - {0}
    asked = validation_asked(experiment, had)
    if asked is None or study.unit != "nats per token":
        return []
    error = max(float(run.record.get("loss_standard_error") or 0.0) for run in study.runs)
    return [
        f"Validation: {min(had):,} tokens where {asked:,} were asked, as the text holds no more: every loss is "
        f"uncertain by ± {size(1.96 * error)}, most of it common to all runs, so that differences are surer."
    ]


def _routers(experiment: dict[str, Any]) -> list[str]:
    routers = [trunk["model"].get("experts") or {} for trunk in experiment.get("trunks", []) if "model" in trunk]
    blind = [
        each
        for each in routers
        if each.get("num_active") == 1 and each.get("has_normalised_weights") and each.get("num_experts", 1) > 1
    ]
    if not blind:
        return []
    return [
        f"In {len(blind)} trunks the router learns nothing from the loss: one active expert with normalised weights "
        "has weight 1 whatever the router says. Set experts.has_normalised_weights=False, or num_active=2."
    ]


def _dropped(study: StudyRuns, directory: Path) -> list[str]:
    """Returns the share of choices that found their expert full, of the last step logged."""
    shares = []
    for trunk in dict.fromkeys(run.trunk for run in study.runs):
        path = directory / "runs" / trunk / "metrics.jsonl"
        last = whole_rows(path)[-1:] if path.exists() else []
        found = last[0].get("dropped_choices") if last else None
        if isinstance(found, list):
            found = found[-1] if found else None
        if found is not None:
            shares.append(float(found))
        elif not shares and len(study.runs) > 500:
            return []  # no experts here: do not look into thousands of folders
    if not shares or max(shares) == 0:
        return []
    return [f"Experts were full for up to {max(shares):.1%} of the tokens' choices at the end of training (capacity)."]
