"""What an experiment promised of its result, and whether it holds: the sweep's exit code, and a table of the report."""

from typing import Any

from kleiber.experiments.experiment import Experiment


def gate_verdict(experiment: Experiment, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns what the experiment promised of its result, and whether it holds.

    Returns:
      A list of {"claim": sentence, "value", "limit", "passed", "of"}; empty for an experiment without laws. "of" is
      `residual_rms`, or of a target `error`, `interval`, `inside`, `late` or `finished`.
    """
    if not experiment.laws:
        return []
    gate, rms = experiment.gate, summary["residual_rms"]
    claim = f"residual rms {rms:.2%}, at most {gate.max_residual_rms:.2%}"
    verdicts = [_verdict(claim, rms, gate.max_residual_rms, "residual_rms")]
    for outcome in summary.get("targets", []):
        name = outcome["target"]
        if outcome["status"] != "done":
            claim = f"{name} did not finish: {outcome['reason']}"
            verdicts.append({"claim": claim, "value": None, "limit": None, "passed": False, "of": "finished"})
            continue
        if outcome.get("late"):
            claim = f"{name}: its forecast was registered after its run had begun, and proves nothing"
            begun = outcome.get("begun_at")
            verdicts.append({"claim": claim, "value": begun, "limit": None, "passed": False, "of": "late"})
        error, (low, high) = outcome["signed_error"], outcome["interval"]
        predicted = outcome["predicted_loss"]
        width = max(high - predicted, predicted - low) / predicted
        claim = f"{name}: error {error:+.2%}, at most {gate.max_error:.1%}"
        verdicts.append(_verdict(claim, abs(error), gate.max_error, "error"))
        claim = f"{name}: interval +-{width:.2%}, at most {gate.max_interval:.1%}"
        verdicts.append(_verdict(claim, width, gate.max_interval, "interval"))
        if gate.requires_inside:
            claim = f"{name}: outcome {'inside' if outcome['inside'] else 'outside'} its interval"
            inside = outcome["inside"]
            verdicts.append({"claim": claim, "value": inside, "limit": True, "passed": inside, "of": "inside"})
    return verdicts


def _verdict(claim: str, value: float, limit: float, of: str) -> dict[str, Any]:
    return {"claim": claim, "value": value, "limit": limit, "passed": bool(value <= limit), "of": of}
