"""What the report says in words, every number taken from the sweep: verdict, summary, sentences."""

from typing import Any

import numpy as np

from kleiber.experiments.report.drawing import Study, other_forecasts
from kleiber.experiments.report.markup import Markup, tiles
from kleiber.experiments.report.results import SweepResults
from kleiber.scaling.figures.forecast import forecast_answer, forecast_claim
from kleiber.scaling.figures.style import compute, count, listing, percent, plural


def gate_of(study: Study) -> list[dict[str, Any]]:
    """Returns the experiment's promises and whether each holds: {"claim", "value", "limit", "passed"}.

    The verdict of a finished sweep is the one it wrote down; before that it is made from what there is.
    """
    results = study.results
    if "gate" in results.result and not results.distrust:
        return [{**item, "claim": item["claim"].replace("+-", "±")} for item in results.result["gate"]]
    if not study.is_fitted or not results.experiment:
        return []
    from kleiber.experiments.config_file import from_data
    from kleiber.experiments.experiment import Experiment
    from kleiber.experiments.gate import gate_verdict

    try:
        # The verdict needs the promises and the laws; reading thousands of trunks for them would take minutes.
        one = {**results.experiment, "trunks": results.experiment["trunks"][:1], "targets": []}
        experiment = from_data(Experiment, one)
    except (ValueError, TypeError, KeyError):
        return []
    summary = {"residual_rms": study.fits[0].residual_rms, "targets": _scored(results)}
    verdicts = gate_verdict(experiment, summary)
    return [{**item, "claim": item["claim"].replace("+-", "±")} for item in verdicts]


def _scored(results: SweepResults) -> list[dict[str, Any]]:
    """Returns forecast and outcome of each tested target in one, and the targets that were lost."""
    pairs = results.forecasts.values()
    rows = [{**forecast, **outcome, "status": "done"} for forecast, outcome in pairs if outcome]
    lost = [r for r in results.lost if r["split"] == "target"]
    return rows + [{"target": r["target"], "status": r["status"], "reason": r["reason"]} for r in lost]


def verdict(study: Study) -> tuple[str, str]:
    """Returns (mood, sentence) of the whole study, what was forecast and measured first: mood is `good`, `bad` or
    `wait`."""
    gate, results = gate_of(study), study.results
    if results.distrust:
        return "bad", f"The forecasts prove nothing: {results.distrust}"
    if results.damage:
        return "bad", f"What is left is not the whole of it: {results.damage[0]}."
    failed = [item["claim"] for item in gate if not item["passed"]]
    tested = [t for t in study.targets if t.observed is not None]
    answer = f"{forecast_answer(study.targets)}. " if study.targets else ""
    if failed:
        share = f"{len(failed)} of its {len(gate)} promises" if len(gate) > 1 else "its promise"
        return "bad", f"{answer}The result misses {share}: {listing(failed)}."
    waiting = results.num_planned - sum(r["status"] != "pending" for r in results.records)
    if waiting > 0 or not study.is_fitted and results.experiment.get("laws", True):
        done = sum(r["status"] == "done" for r in results.records)
        return "wait", f"Unfinished: {done} of {results.num_planned} planned points are measured; see what is missing."
    if late := [name for name, (forecast, _) in results.forecasts.items() if forecast.get("late")]:
        return "bad", f"The forecast of {listing(late)} was registered after its run had begun, and proves nothing."
    if len(tested) < len(study.targets):
        return "wait", "The forecasts are written down and wait for the runs that test them."
    if not tested and results.experiment.get("targets"):
        return "wait", "No forecast of the targets stands in the ledger; see what is missing."
    if not tested:
        return "good", study.answers.headline or "All runs are done; nothing was measured."
    claim = forecast_claim(study.targets)
    more = f": {claim[0].lower()}{claim[1:]}" if len(tested) > 1 else f" at {tested[0].compute_ratio:.1f}× compute"
    return "good", f"{answer}The law held{more}."


def summary(study: Study) -> dict[str, Any]:
    """Returns the report in numbers, as `kleiber report --json` prints it."""
    results, gate = study.results, gate_of(study)
    mood, sentence = verdict(study)
    fit = study.fits[0] if study.is_fitted else None
    return {
        "experiment": results.experiment.get("name"),
        "question": results.experiment.get("question"),
        "verdict": {"good": "passed", "bad": "failed", "wait": "unfinished"}[mood],
        "headline": sentence,
        "answer": study.answers.lines,
        "num_points": len(results.fitted),
        "num_planned": results.num_planned,
        "num_lost": len(results.lost),
        "law": fit.law if fit else None,
        "residual_rms": fit.residual_rms if fit else None,
        "parameters": {name: _number(each.estimate) for name, each in fit.parameters.items()} if fit else {},
        "targets": [
            {
                "target": t.name,
                "compute_ratio": t.compute_ratio,
                "predicted_loss": t.predicted,
                "interval": [t.low, t.high],
                "level": t.level,
                "observed_loss": t.observed,
                "signed_error": t.signed_error,
                "inside": t.is_inside,
                "late": bool(results.forecasts[t.name][0].get("late")),
            }
            for t in study.targets
        ],
        "gate": gate,
        "missing": list(study.gaps),
        "told": list(results.result.get("told", [])),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def headline_tiles(study: Study) -> Markup:
    """Returns the numbers a tired reader wants first; none of what the gate fails on is edged green."""
    missed = {item.get("of") for item in gate_of(study) if not item["passed"]}
    missed |= {"error", "inside"} if "late" in missed else set()

    def mood(of: str, is_good: bool | None = None) -> str:
        return "bad" if of in missed or is_good is False else "good" if is_good else ""

    items, targets = [], sorted(study.targets, key=lambda t: -t.compute_ratio)
    errors = [t.signed_error for t in targets if t.signed_error is not None]
    inside = sum(bool(t.is_inside) for t in targets if t.signed_error is not None)
    if targets:
        far = max(targets, key=lambda t: t.observed is not None)  # the farthest that is measured
        told = f"forecast{f' of {far.name}' if len(targets) > 1 else ''}: {far.predicted:.4g}"
        told += f" [{far.low:.4g}, {far.high:.4g}]"
        value = "not measured" if far.observed is None else f"{far.observed:.4g} measured"
        items.append((value, told, mood("error", far.is_inside)))
    if errors:
        all_inside = inside == len(errors)
        items.append((percent(max(errors, key=abs), signed=True), "largest forecast error", mood("error", all_inside)))
        told = "outcomes inside their interval"
        items.append((f"{inside} of {len(errors)}", told, mood("inside", all_inside)))
    if targets:
        told = "compute, farthest target over largest fitted run"
        items.append((f"{targets[0].compute_ratio:.1f}×", told, ""))
        items.append((f"±{percent(max(t.half_width for t in targets))}", "widest interval", mood("interval")))
    losses = [r["loss"] for r in study.results.fitted]
    if losses and not study.is_fitted:
        items.append((f"{min(losses):.4f}", "lowest loss, nats per token", ""))
    if study.is_fitted:
        fit = study.fits[0]
        items.append((percent(fit.residual_rms), f"rms residual of {fit.law}", mood("residual_rms")))
    num_sizes = len({r["num_params_total"] for r in study.results.fitted})
    items.append((str(len(losses)), f"runs of {plural(num_sizes, 'size')}", ""))
    return tiles(items)


def measured_sentences(study: Study) -> list[str]:
    """Returns what was measured, in plain sentences."""
    rows = study.results.fitted
    if not rows:
        return ["No run has been measured yet."]
    sizes = sorted({r["num_params_total"] for r in rows})
    lengths = sorted({r["num_tokens"] for r in rows})
    ratios = [r["num_tokens"] / r["num_params_total"] for r in rows]
    trunks = {(r["trunk_id"], r["num_params_total"]) for r in rows}
    copies = sorted({sum(size == own for _, own in trunks) for size in sizes})
    each = f"{copies[0]}" if len(copies) == 1 else f"{copies[0]} to {copies[-1]}"
    decades = np.log10(max(ratios) / min(ratios))
    sentences = [
        f"{len(rows)} runs on {len(trunks)} trunks ({each} a size) were measured: "
        f"{_span(sizes, 'size', 'parameters')}, {_span(lengths, 'length', 'tokens')}, "
        f"{min(ratios):.3g} to {max(ratios):.3g} tokens per parameter ({decades:.1f} decades).",
        f"The largest cost {compute(max(r['flops'] for r in rows))} FLOPs, counted.",
    ]
    errors = [r["loss_standard_error"] for r in rows if r.get("loss_standard_error")]
    if errors:
        sentences.append(
            f"Losses are nats per token on one fixed validation set, whose own standard error is about "
            f"{np.median(errors):.4f}; it is common to all runs, so it hardly moves comparisons."
        )
    if study.results.lost:
        sentences.append(f"{len(study.results.lost)} further points were lost and are listed at the end.")
    return sentences


def _span(values: list[float], noun: str, unit: str) -> str:
    told = list(dict.fromkeys(map(count, values)))  # lengths that differ by part of a step are one
    if len(told) == 1:
        return f"one {noun} of {told[0]} {unit}"
    return f"{len(told)} {noun}s from {told[0]} to {told[-1]} {unit}"


def law_sentences(study: Study) -> list[str]:
    """Returns what the fit says, in plain sentences; an unidentified exponent is not said."""
    fit = study.fits[0]
    law = fit.definition
    sentences = [f"{law.title.capitalize()} ({fit.law}), {law.formula}; {law.citation}."]
    a, spread = fit.optimum.get("a"), fit.optimum.get("a_interval_95")
    if a is not None and spread:
        sentences.append(
            f"Best parameters grow as compute to the power {a:.3f} [{spread[0]:.3f}, {spread[1]:.3f}] where compute is "
            "parameters times tokens; the figure of the frontier uses the counted FLOPs."
        )
    noise = fit.noise
    if fit.cluster:
        sentences.append(
            f"Noise of one log loss: {percent(noise.sigma)} of its own and {percent(noise.tau)} shared by the points "
            f"of one trunk ({fit.num_clusters} trunks); the intervals take both into account."
        )
    else:
        sentences.append(f"Noise of one log loss: {percent(noise.sigma)}, taken as independent between runs.")
    return sentences


def form_sentence(study: Study) -> str:
    """Returns which form the runs prefer, and how far the forecasts of each are from the registered mean."""
    fits = study.fits
    if len(fits) == 1:
        return "No rival form was fitted, so the intervals hold only if this form is right."
    order = sorted(range(len(fits)), key=lambda index: fits[index].aicc)
    best, second = fits[order[0]], fits[order[1]]
    words = f"The runs prefer {best.law} (AICc {second.aicc - best.aicc:.1f} below {second.law})"
    words += f"; the registered forecast is the mean of {' and '.join(fit.law for fit in fits)}"
    spreads = [
        abs(said[t.name] / t.predicted - 1)
        for law, said in other_forecasts(study).items()
        if law in {fit.law for fit in fits}
        for t in study.targets
    ]
    if not spreads:
        return words + "."
    return words + (
        f". On the targets a form differs from it by up to {percent(max(spreads))}; the registered intervals include "
        "this spread."
    )
