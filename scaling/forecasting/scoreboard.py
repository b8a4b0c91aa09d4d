"""How good the forecasts of a ledger were: error, coverage and skill, those made too late apart."""

from typing import Any

Scored = list[tuple[dict[str, Any], dict[str, Any]]]
"""(forecast, outcome) of each target that has both, in the order of the outcomes."""


def scoreboard(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns each target with its error, and over all scored targets the error, coverage and skill.

    A forecast that was registered after its run had begun (`"late": true`) proves nothing: it counts in `late` only.
    Skill against a baseline is one minus the ratio of mean absolute errors: 0 is no better, 1 is perfect.

    Args:
      entries: of a `Ledger`.
    """
    outcomes = {entry["target"]: entry for entry in entries if entry["event"] == "outcome"}
    targets = []
    for entry in entries:
        if entry["event"] != "forecast":
            continue
        row = {key: entry[key] for key in ("target", "law", "compute_ratio", "predicted_loss", "interval", "level")}
        result = outcomes.get(entry["target"])
        row |= {key: result[key] if result else None for key in ("observed_loss", "signed_error", "inside")}
        row |= {"registered_at": entry.get("registered_at"), "late": bool(entry.get("late"))}
        targets.append(row)
    forecasts = {entry["target"]: entry for entry in entries if entry["event"] == "forecast"}
    pairs = [(forecasts[name], result) for name, result in outcomes.items() if name in forecasts]
    scored = [pair for pair in pairs if not pair[0].get("late")]
    late = [pair for pair in pairs if pair[0].get("late")]
    return {
        "num_forecasts": sum(not row["late"] for row in targets),
        "num_scored": len(scored),
        **_summary(scored),
        "targets": targets,
        "history": _history(scored),
        "late": {"num_forecasts": sum(row["late"] for row in targets), "num_scored": len(late), **_summary(late)},
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
        return {
            "mean_absolute_error": None,
            "largest_error": None,
            "mean_signed_error": None,
            "coverage": None,
            "expected_coverage": None,
            "skill": {},
        }
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
