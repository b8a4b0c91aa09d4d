"""How good the forecasts of a ledger were: error, coverage and skill, those made too late or withdrawn apart."""

from typing import Any

OBSERVED = ("observed_loss", "signed_error", "inside")
Scored = list[tuple[dict[str, Any], dict[str, Any]]]
"""(forecast, outcome) of each target that has both, in the order of the outcomes."""


def standing(entries: list[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], dict[str, Any] | None]]:
    """Returns (forecast, its outcome or None) of each target whose forecast was not withdrawn, in their order."""
    found: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {}
    for entry in entries:
        target = entry["target"]
        if entry["event"] == "forecast":
            found[target] = (entry, None)
        elif entry["event"] == "withdrawn":
            found.pop(target, None)
        elif target in found:
            found[target] = (found[target][0], entry)
    return found


def scoreboard(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns each target with its error, and over all scored targets the error, coverage and skill.

    A forecast that was registered after its run had begun (`"late": true`) proves nothing: it counts in `late` only.
    One that was withdrawn is listed with the reason and never scored.
    Skill against a baseline is one minus the ratio of mean absolute errors: 0 is no better, 1 is perfect.

    Args:
      entries: of a `Ledger`.
    """
    found, targets = standing(entries), []
    last: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["event"] == "forecast":
            row = {key: entry[key] for key in ("target", "law", "compute_ratio", "predicted_loss", "interval", "level")}
            row |= {**dict.fromkeys(OBSERVED), "registered_at": entry.get("registered_at")}
            last[entry["target"]] = row | {"late": bool(entry.get("late")), "withdrawn": None}
            targets.append(last[entry["target"]])
        elif entry["event"] == "withdrawn" and entry["target"] in last:
            last[entry["target"]] |= {**dict.fromkeys(OBSERVED), "withdrawn": entry["reason"]}
        elif entry["event"] == "outcome" and entry["target"] in found:
            last[entry["target"]] |= {key: entry[key] for key in OBSERVED}
    outcomes = (entry for entry in entries if entry["event"] == "outcome" and entry["target"] in found)
    pairs = [(found[e["target"]][0], e) for e in outcomes if found[e["target"]][1] is e]
    scored = [pair for pair in pairs if not pair[0].get("late")]
    late = [pair for pair in pairs if pair[0].get("late")]
    kept = [row["late"] for row in targets if row["withdrawn"] is None]
    return {
        "num_forecasts": kept.count(False),
        "num_withdrawn": len(targets) - len(kept),
        "num_scored": len(scored),
        **_summary(scored),
        "targets": targets,
        "history": _history(scored),
        "late": {"num_forecasts": kept.count(True), "num_scored": len(late), **_summary(late)},
    }


def _history(scored: Scored) -> list[dict[str, Any]]:
    """Returns how error and coverage stood after each outcome, in the order they were written down."""
    rows = []
    for count, (entry, _) in enumerate(scored, 1):
        so_far = _summary(scored[:count])
        rows.append({"target": entry["target"], **{key: so_far[key] for key in ("mean_absolute_error", "coverage")}})
    return rows


def _summary(scored: Scored) -> dict[str, Any]:
    if not scored:
        figures = ("mean_absolute_error", "largest_error", "mean_signed_error", "coverage", "expected_coverage")
        return {**dict.fromkeys(figures), "skill": {}}
    errors = [result["signed_error"] for _, result in scored]
    mean = sum(abs(error) for error in errors) / len(errors)
    skill = {}
    for name in sorted({name for entry, _ in scored for name in entry.get("baselines", {})}):
        pairs = [(entry, result) for entry, result in scored if name in entry.get("baselines", {})]
        ours = sum(abs(result["signed_error"]) for _, result in pairs)
        theirs = sum(abs(entry["baselines"][name] / result["observed_loss"] - 1) for entry, result in pairs)
        skill[name] = 1 - ours / theirs if theirs > 0 else None
    return {
        "mean_absolute_error": mean,
        "largest_error": max(errors, key=abs),
        "mean_signed_error": sum(errors) / len(errors),
        "coverage": sum(result["inside"] for _, result in scored) / len(scored),
        "expected_coverage": sum(entry["level"] for entry, _ in scored) / len(scored),
        "skill": skill,
    }
