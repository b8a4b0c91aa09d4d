"""The tables and boxes of the report, each made from what the sweep holds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kleiber.experiments.planning.varied import level_words
from kleiber.experiments.report.checklist import checklist
from kleiber.experiments.report.drawing import NotThereYet, Study, is_of_size_and_length
from kleiber.experiments.report.markup import Markup, badge, bullets, callout, code, table
from kleiber.experiments.report.story import gate_of
from kleiber.scaling.figures.style import compute, count, percent


def forecast_table(study: Study) -> Markup:
    """Returns each registered forecast with its interval, its outcome and the runs behind it."""
    if not study.targets:
        return callout("No forecast has been registered.", "wait")
    runs = {name: outcome["run_id"] for name, (_, outcome) in study.results.forecasts.items() if outcome}
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
            code(runs.get(t.name, "")),
        )
        for t in study.targets
    ]
    level = f"{100 * study.targets[0].level:g} % interval"
    headers = (
        "target", "params", "tokens", "tokens / param", "compute", "forecast", level, "measured", "error", "verdict",
        "run",
    )  # fmt: skip
    return table(headers, rows)


def answer_box(study: Study) -> Markup:
    """Returns what each factor does, in sentences, and what to run next; nothing where nothing varies."""
    lines = study.answers.lines
    return callout(bullets(lines)) if lines else Markup("")


def gate_table(study: Study) -> Markup:
    """Returns the experiment's promises, each with its verdict."""
    gate = gate_of(study)
    if not gate:
        return callout("No verdict yet: the fit is missing.", "wait")
    return table(("promise", "verdict"), [(g["claim"], badge(bool(g["passed"]), "holds", "fails")) for g in gate])


def missing_box(study: Study) -> Markup:
    """Returns what the sweep has not made, or says that nothing is missing."""
    gaps = study.gaps
    if not gaps:
        tested = " and every forecast is tested" if study.targets else ""
        return callout(f"Nothing is missing: every planned run is measured{tested}.", "good")
    return callout(Markup(f"<b>What is missing</b>{bullets(gaps).html}"), "wait")


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
    from kleiber.scaling.forecasting.forecast import form_weights

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


MOST_ROWS = 2_000
"""Runs listed one by one; a page with more is slow to open, and table.parquet has them all."""


def run_table(study: Study) -> Markup:
    """Returns every measured run: the rows behind every number and figure of the report.

    Of more than MOST_ROWS it lists the targets and the runs farthest from the law, and says so.
    """
    residuals = {}
    if study.is_fitted and study.results.fitted and is_of_size_and_length(study):
        fitted = study.points
        logs = np.log(fitted.loss) - np.log(study.law.predict(fitted.num_params, fitted.num_tokens))
        residuals = {r["run_id"]: value for r, value in zip(study.results.fitted, logs, strict=True)}
    done = [r for r in study.results.records if r["status"] == "done"]
    listed, note = done, ""
    if len(done) > MOST_ROWS:
        far = sorted(done, key=lambda r: (r["split"] == "fit", -abs(residuals.get(r["run_id"], 0.0))))[:MOST_ROWS]
        chosen = {r["run_id"] for r in far}
        listed = [r for r in done if r["run_id"] in chosen]
        which = "farthest from the law" if residuals else "first"
        note = callout(f"The {MOST_ROWS:,} runs {which}, of {len(done):,}; table.parquet holds them all.").html
    found = study.answers.study
    in_bytes = found.unit == "bits per byte"
    levels = {str(run.record["run_id"]): run.levels for run in found.runs}
    names = [each.name for each in found.factors if each.name not in ("d_model", "num_tokens")]
    rows = [
        (
            code(r["run_id"]),
            r["split"],
            *(level_words(levels[r["run_id"]][name]) if r["run_id"] in levels else None for name in names),
            f"{int(r['num_params_total']):,}",
            f"{int(r['num_tokens']):,}",
            f"{r['num_tokens'] / r['num_params_total']:.3g}",
            compute(r["flops"]),
            r.get("seed"),
            f"{r['loss']:.4f}",
            *((f"{r['bits_per_byte']:.4f}",) if in_bytes else ()),
            *(
                (percent(residuals[r["run_id"]], signed=True) if r["run_id"] in residuals else None,)
                if residuals
                else ()
            ),
        )
        for r in listed
    ]
    headers = ("run", "split", *names, "params", "tokens", "tokens / param", "FLOPs", "seed", "loss")
    headers += ("bits per byte",) if in_bytes else ()
    headers += ("against law",) if residuals else ()
    return Markup(note + table(headers, rows, kind="dense").html)


def lost_table(study: Study) -> Markup:
    """Returns the runs that ended without a loss, with the reason of each."""
    lost = study.results.lost
    if not lost:
        return callout("No run failed, diverged or was cut.", "good")
    rows = [(code(r["run_id"]), r["split"], badge(False, no=r["status"]), r["reason"]) for r in lost[:MOST_ROWS]]
    listed = table(("run", "split", "status", "reason"), rows).html
    note = f"The first {MOST_ROWS:,} of {len(lost):,}; table.parquet holds them all." if len(lost) > MOST_ROWS else ""
    return Markup((callout(note).html if note else "") + listed)


def ledger_table(study: Study) -> Markup:
    """Returns the ledger line by line, and whether its chain of hashes is whole."""
    if study.results.distrust:
        return callout(f"The ledger cannot be trusted: {study.results.distrust}", "bad")
    if not study.results.ledger:
        return callout("The ledger is empty.", "wait")
    box = callout(f"The chain of hashes is whole over all {len(study.results.ledger)} lines.", "good")
    rows = [
        (
            index,
            e.get("event"),
            e.get("target"),
            f"{e.get('observed_loss', e.get('predicted_loss', math.nan)):.4f}",
            str(e.get("registered_at", "")).replace("T", " ")[:19],
            code(str(e.get("hash", ""))[:16]),
            code(str(e.get("previous_hash", ""))[:16]),
        )
        for index, e in enumerate(study.results.ledger, start=1)
    ]
    headers = ("line", "event", "target", "loss", "registered (UTC)", "hash", "previous hash")
    return Markup(box.html + table(headers, rows).html)


def if_there(make: Callable[[Study], Markup], study: Study) -> Markup:
    """Returns what `make(study)` gives, or a box that says what it waits for."""
    try:
        return make(study)
    except NotThereYet as gap:
        return callout(f"Not shown: {gap}.", "wait")


def checklist_table(study: Study) -> Markup:
    """Returns the reporting checklist; where the directory does not say, it says what would."""
    rows = [
        (item.topic, item.question, f"not measured: {item.remedy} would tell" if item.is_missing else item.answer)
        for item in checklist(study.results)
    ]
    return table(("topic", "question", "answer"), rows)
