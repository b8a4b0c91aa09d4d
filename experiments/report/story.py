"""What the report says in words and tables, every number taken from the sweep."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kleiber.experiments.report.drawing import NotThereYet, Study
from kleiber.experiments.report.markup import Markup, badge, bullets, callout, code, table, tiles
from kleiber.experiments.report.results import SweepResults
from kleiber.scaling.figures.forecast import forecast_claim
from kleiber.scaling.figures.style import compute, count, listing, percent


def gate_of(study: Study) -> list[dict[str, Any]]:
    """Returns the experiment's promises and whether each holds: {"claim", "value", "limit", "passed"}.

    The verdict of a finished sweep is the one it wrote down; before that it is made from what there is.
    """
    results = study.results
    if "gate" in results.result:
        return list(results.result["gate"])
    if not study.is_fitted or not results.experiment:
        return []
    from kleiber.experiments.config_file import from_data
    from kleiber.experiments.experiment import Experiment
    from kleiber.experiments.law_stage import gate_verdict

    try:
        experiment = from_data(Experiment, results.experiment)
    except (ValueError, TypeError, KeyError):
        return []
    summary = {"residual_rms": study.fits[0].residual_rms, "targets": _scored(results)}
    return gate_verdict(experiment, summary)


def _scored(results: SweepResults) -> list[dict[str, Any]]:
    """Returns forecast and outcome of each tested target in one, and the targets that were lost."""
    forecasts = {e["target"]: e for e in results.ledger if e.get("event") == "forecast"}
    outcomes = [e for e in results.ledger if e.get("event") == "outcome" and e["target"] in forecasts]
    rows = [{**forecasts[e["target"]], **e, "status": "done"} for e in outcomes]
    lost = [r for r in results.lost if r["split"] == "target"]
    return rows + [{"target": r["target"], "status": r["status"], "reason": r["reason"]} for r in lost]


def verdict(study: Study) -> tuple[str, str]:
    """Returns (mood, sentence) of the whole study: mood is `good`, `bad` or `wait`."""
    gate, results = gate_of(study), study.results
    failed = [item["claim"] for item in gate if not item["passed"]]
    tested = [t for t in study.targets if t.observed is not None]
    if failed:
        share = f"{len(failed)} of its {len(gate)} promises" if len(gate) > 1 else "its promise"
        return "bad", f"The result misses {share}: {listing(failed)}."
    waiting = results.num_planned - sum(r["status"] != "pending" for r in results.records)
    if waiting > 0 or not study.is_fitted and results.experiment.get("laws", True):
        done = sum(r["status"] == "done" for r in results.records)
        return "wait", f"Unfinished: {done} of {results.num_planned} planned points are measured; see what is missing."
    if len(tested) < len(study.targets):
        return "wait", "The forecasts are written down and wait for the runs that test them."
    if not tested:
        return "good", "All runs are done; no forecast was asked for."
    return "good", f"The law held: {forecast_claim(study.targets)[0].lower()}{forecast_claim(study.targets)[1:]}."


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
            }
            for t in study.targets
        ],
        "gate": gate,
        "missing": list(results.gaps),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def headline_tiles(study: Study) -> Markup:
    """Returns the numbers a tired reader wants first."""
    tested = [t for t in study.targets if t.signed_error is not None]
    items = []
    if tested:
        errors = [t.signed_error for t in tested if t.signed_error is not None]
        worst = max(errors, key=abs)
        inside = sum(bool(t.is_inside) for t in tested)
        items.append(
            (percent(worst, signed=True), "largest forecast error", "good" if inside == len(tested) else "bad")
        )
        items.append(
            (f"{inside} of {len(tested)}", "outcomes inside their interval", "good" if inside == len(tested) else "bad")
        )
    if study.targets:
        items.append(
            (
                f"{max(t.compute_ratio for t in study.targets):.1f}×",
                "compute, farthest target over largest fitted run",
                "",
            )
        )
        items.append((f"±{percent(max(t.half_width for t in study.targets))}", "widest interval", ""))
    if study.is_fitted:
        items.append((percent(study.fits[0].residual_rms), f"rms residual of {study.fits[0].law}", ""))
    items.append(
        (
            str(len(study.results.fitted)),
            f"runs of {len({r['num_params_total'] for r in study.results.fitted})} sizes",
            "",
        )
    )
    return tiles(items)


def forecast_table(study: Study) -> Markup:
    """Returns each registered forecast with its interval, its outcome and the runs behind it."""
    if not study.targets:
        return callout("No forecast has been registered.", "wait")
    outcomes = {e["target"]: e for e in study.results.ledger if e.get("event") == "outcome"}
    rows = [
        (
            t.name,
            count(t.num_params),
            count(t.num_tokens),
            f"{t.num_tokens / t.num_params:.3g}",
            f"{t.compute_ratio:.1f}×",
            f"{t.predicted:.4f}",
            f"[{t.low:.4f}, {t.high:.4f}]",
            None if t.observed is None else f"{t.observed:.4f}",
            None if t.signed_error is None else percent(t.signed_error, signed=True),
            badge(t.is_inside, "inside", "outside"),
            code(outcomes.get(t.name, {}).get("run_id", "")),
        )
        for t in study.targets
    ]
    level = f"{100 * study.targets[0].level:g} % interval"
    headers = (
        "target", "params", "tokens", "tokens / param", "compute", "forecast", level, "measured", "error", "verdict",
        "run",
    )  # fmt: skip
    return table(headers, rows)


def gate_table(study: Study) -> Markup:
    """Returns the experiment's promises, each with its verdict."""
    gate = gate_of(study)
    if not gate:
        limits = study.results.experiment.get("gate")
        return callout("No verdict yet: the fit is missing." if limits else "The experiment makes no promise.", "wait")
    return table(("promise", "verdict"), [(g["claim"], badge(bool(g["passed"]), "holds", "fails")) for g in gate])


def missing_box(study: Study) -> Markup:
    """Returns what the sweep has not made, or says that nothing is missing."""
    gaps = study.results.gaps
    if not gaps:
        return callout("Nothing is missing: every planned run is measured and every forecast is tested.", "good")
    return callout(Markup(f"<b>What is missing</b>{bullets(gaps).html}"), "wait")


def measured_sentences(study: Study) -> list[str]:
    """Returns what was measured, in plain sentences."""
    rows = study.results.fitted
    if not rows:
        return ["No run has been measured yet."]
    sizes = sorted({r["num_params_total"] for r in rows})
    lengths = sorted({r["num_tokens"] for r in rows})
    ratios = [r["num_tokens"] / r["num_params_total"] for r in rows]
    trunks, seeds = {r["trunk_id"] for r in rows}, {r.get("seed") for r in rows}
    sentences = [
        f"{len(rows)} runs on {len(trunks)} trunks ({len(seeds)} seeds) were measured: {len(sizes)} sizes from "
        f"{count(sizes[0])} to {count(sizes[-1])} parameters, {len(lengths)} token counts from {count(lengths[0])} to "
        f"{count(lengths[-1])}, {min(ratios):.3g} to {max(ratios):.3g} tokens per parameter "
        f"({np.log10(max(ratios) / min(ratios)):.1f} decades).",
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


def law_sentences(study: Study) -> list[str]:
    """Returns what the fit says, in plain sentences; an unidentified exponent is not said."""
    fit = study.fits[0]
    from kleiber.scaling.laws import get_law

    law = get_law(fit.law)
    sentences = [f"{law.title.capitalize()} ({fit.law}), {law.formula}; {law.citation}."]
    a, spread = fit.optimum.get("a"), fit.optimum.get("a_interval_95")
    if a is not None and spread:
        sentences.append(
            f"Best parameters grow as compute to the power {a:.3f} [{spread[0]:.3f}, {spread[1]:.3f}] where compute is "
            "parameters times tokens; the figure of the frontier uses the counted FLOPs."
        )
    noise = fit.noise
    if noise.cluster:
        sentences.append(
            f"Noise of one log loss: {percent(noise.sigma)} of its own and {percent(noise.tau)} shared by the points "
            f"of one trunk ({noise.num_clusters} trunks); the intervals take both into account."
        )
    else:
        sentences.append(f"Noise of one log loss: {percent(noise.sigma)}, taken as independent between runs.")
    return sentences


def parameter_table(study: Study) -> Markup:
    """Returns every constant of every law with its 95 % interval, or why it is withheld."""
    rows: list[Sequence[Any]] = []
    for fit in study.fits:
        for name, each in fit.parameters.items():
            if each.withheld:
                rows.append((fit.law, name, "withheld", None, None, each.withheld))
                continue
            low, high = each.interval_95
            note = "held fixed" if each.fixed else "at its bound" if each.at_bound else ""
            rows.append(
                (fit.law, name, f"{each.estimate:.4g}", f"{each.standard_error:.2g}", f"[{low:.4g}, {high:.4g}]", note)
            )
    return table(("law", "constant", "estimate", "standard error", "95 % interval", "note"), rows)


def identifiability_box(study: Study) -> Markup:
    """Returns how well the runs pin the constants down, with every alarm."""
    fit = study.fits[0]
    ident = fit.identifiability
    start = fit.starts
    facts = [
        f"Condition number {ident.condition:.2g} in the logarithms of the constants (alarm beyond 1e8); the runs say "
        f"least about moving {ident.weakest_in_words()}.",
        f"{start.agreeing} of {start.polished} polished starts reached the best optimum, {start.failed} failed.",
    ]
    facts += [f"Alarm, {alarm}" for alarm in ident.alarms] or ["No alarm."]
    return callout(bullets(facts), "bad" if ident.alarms else "note")


def comparison_table(study: Study) -> Markup:
    """Returns the laws side by side: which form the runs prefer, and what each forecasts."""
    from kleiber.scaling.forecast import form_weights

    weights = form_weights(study.fits)
    best = min(fit.aicc for fit in study.fits)
    rows = [
        (
            fit.law,
            percent(fit.residual_rms),
            f"{fit.aicc - best:.1f}",
            f"{weight:.2f}",
            f"{fit.identifiability.condition:.1e}",
        )
        for fit, weight in zip(study.fits, weights, strict=True)
    ]
    return table(("law", "rms residual", "AICc above best", "weight", "condition"), rows)


def run_table(study: Study) -> Markup:
    """Returns every measured run: the rows behind every number and figure of the report."""
    residuals = {}
    if study.is_fitted and study.results.fitted:
        fitted = study.points
        logs = np.log(fitted.loss) - np.log(study.law.predict(fitted.num_params, fitted.num_tokens))
        residuals = {r["run_id"]: value for r, value in zip(study.results.fitted, logs, strict=True)}
    rows = [
        (
            code(r["run_id"]),
            r["split"],
            f"{int(r['num_params_total']):,}",
            f"{int(r['num_tokens']):,}",
            f"{r['num_tokens'] / r['num_params_total']:.3g}",
            compute(r["flops"]),
            r.get("seed"),
            f"{r['loss']:.4f}",
            percent(residuals[r["run_id"]], signed=True) if r["run_id"] in residuals else None,
        )
        for r in study.results.records
        if r["status"] == "done"
    ]
    headers = ("run", "split", "params", "tokens", "tokens / param", "FLOPs", "seed", "loss", "against law")
    return table(headers, rows, kind="dense")


def lost_table(study: Study) -> Markup:
    """Returns the runs that failed or diverged, with the reason of each."""
    lost = study.results.lost
    if not lost:
        return callout("No run failed or diverged.", "good")
    rows = [(code(r["run_id"]), r["split"], badge(False, no=r["status"]), r["reason"]) for r in lost]
    return table(("run", "split", "status", "reason"), rows)


def ledger_table(study: Study) -> Markup:
    """Returns the ledger line by line, and whether its chain of hashes is whole."""
    if not study.results.ledger:
        return callout("The ledger is empty.", "wait")
    from kleiber.scaling.ledger import Ledger, LedgerError

    try:
        total = Ledger(study.results.directory / "ledger.jsonl").verify()
        box = callout(f"The chain of hashes is whole over all {total} lines.", "good")
    except LedgerError as problem:
        box = callout(f"The ledger cannot be trusted: {problem}", "bad")
    rows = [
        (
            index,
            e.get("event"),
            e.get("target"),
            f"{e['observed_loss']:.4f}" if "observed_loss" in e else f"{e.get('predicted_loss', float('nan')):.4f}",
            str(e.get("registered_at", "")).replace("T", " ")[:19],
            code(str(e.get("hash", ""))[:16]),
            code(str(e.get("previous_hash", ""))[:16]),
        )
        for index, e in enumerate(study.results.ledger, start=1)
    ]
    headers = ("line", "event", "target", "loss", "registered (UTC)", "hash", "previous hash")
    return Markup(box.html + table(headers, rows).html)


def if_there(make: Any, study: Study) -> Markup:
    """Returns what `make(study)` gives, or a box that says what it waits for."""
    try:
        return make(study)
    except NotThereYet as gap:
        return callout(f"Not shown: {gap}.", "wait")
