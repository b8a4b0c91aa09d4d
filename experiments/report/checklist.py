"""The reporting checklist of a scaling study, filled from its sweep directory; where that does not say, what would
answer stands in its place.

Source: the items follow Li et al. 2025, arXiv:2502.18969, who found most of over fifty papers to under-report.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.answers.caveats import validation_asked
from kleiber.experiments.report.results import MIN_LEVELS, SweepResults, factor_names
from kleiber.scaling.figures.levels import Series, best_level, regret
from kleiber.scaling.figures.style import count, listing, percent, plural


@dataclass(frozen=True)
class Item:
    """One question of the checklist; an empty answer means that the directory does not say."""

    topic: str
    question: str
    answer: str
    remedy: str
    """What would answer it."""

    @property
    def is_missing(self) -> bool:
        """Whether the sweep directory does not hold the answer."""
        return not self.answer


def checklist(results: SweepResults) -> list[Item]:
    """Returns the checklist in order, each answer taken from the sweep directory alone."""
    has_laws, has_targets = bool(results.experiment.get("laws", True)), bool(results.experiment.get("targets", True))
    asked = [q for q in QUESTIONS if (has_laws or q[2] not in OF_LAWS) and (has_targets or q[2] is not _extrapolation)]
    program = _configs(results, "command", "line")
    unseen = OF_OUR_TRAINER if program else ()
    return [
        Item(topic, question, "", f"the program that trained ({program})")
        if answer in unseen
        else Item(topic, question, answer(results), remedy)
        for topic, question, answer, remedy in asked
    ]


def _values(results: SweepResults, column: str) -> list[Any]:
    """Returns the distinct values of a column over the measured runs, in order."""
    rows = [r for r in results.records if r["status"] == "done"]
    return sorted({r[column] for r in rows if r.get(column) not in (None, "")}, key=lambda v: (str(type(v)), v))


def _range(values: list[Any], spec: str) -> str:
    """Returns `1.2 to 3`, or one value where all are written alike."""
    low, high = f"{min(values):{spec}}", f"{max(values):{spec}}"
    return low if low == high else f"{low} to {high}"


def _said(results: SweepResults, column: str, limit: int = 6) -> str:
    values = [f"{v:.6g}" if isinstance(v, float) else str(v) for v in _values(results, column)]
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(values[:limit]) + more


def _configs(results: SweepResults, *path: str) -> str:
    """Returns the distinct values that the trunks' configs give to a field, `-` joined by commas."""
    found = []
    for trunk in results.experiment.get("trunks", []):
        value: Any = trunk
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None and str(value) not in found:
            found.append(str(value))
    return ", ".join(found)


def _named(results: SweepResults, *fields: tuple[str, tuple[str, ...]]) -> str:
    """Returns `name value` for each config field that is there."""
    parts = [(name, _configs(results, *path)) for name, path in fields]
    return "; ".join(f"{name} {value}" for name, value in parts if value)


def _form(results: SweepResults) -> str:
    if not results.fit:
        return ""
    rivals = [str(r.get("law")) for r in results.fit.get("rivals", [])]
    beside = f"; rivals fitted to the same runs: {', '.join(rivals)}" if rivals else "; no rival was fitted"
    return f"{results.fit.get('law')}: {results.fit.get('formula', '')}{beside}"


def _counting(results: SweepResults) -> str:
    if not _values(results, "num_params_total"):
        return ""
    if _configs(results, "command", "line"):
        return (
            "N: as the config gives it for the program that trained, or counted for kleiber's model of these fields "
            "where it gives none. D: tokens trained on up to the point. C: 6 N D where N is given, else counted"
        )
    return (
        "N: all trainable parameters, embeddings included, counted from the config (num_params_non_embedding is in the "
        "table too). D: tokens trained on up to the point, repeats included. C: counted training FLOPs, 6 x matmul "
        "parameters with the output head plus full-square attention; 6 N D is in the table too"
    )


def _data(results: SweepResults) -> str:
    parts = [("corpus", "corpus"), ("tokeniser", "tokenizer"), ("vocabulary", "vocab_size")]
    parts += [("fingerprint of the text", "data_fingerprint"), ("context", "seq_len")]
    said = [(name, _said(results, column)) for name, column in parts]
    return "; ".join(f"{name} {value}" for name, value in said if value)


UNKNOWN_OVERLAP = "overlap with training not measured: `kleiber data prepare` measures it, runs from then on record it"


def _split(results: SweepResults) -> str:
    overlap = ", ".join(percent(value) for value in _values(results, "split_overlap"))
    tokens = _said(results, "num_validation_tokens") or _configs(results, "evaluation", "num_tokens")
    parts = [f"{tokens} validation tokens, the same for every run" if tokens else ""]
    if len(_values(results, "num_validation_tokens")) > 1:
        parts = [f"{tokens} validation tokens of {_said(results, 'num_validation_bytes')} bytes of text"]
    asked = validation_asked(results.experiment, map(int, _values(results, "num_validation_tokens")))
    errors = [r["loss_standard_error"] for r in results.fitted if r.get("loss_standard_error")]
    if asked and errors:
        parts.append(f"{asked} were asked; every loss is uncertain by ± {1.96 * max(errors):.3f} (95 %) for it")
    parts.append(f"{overlap} of its 64-byte windows also stand in the training text" if overlap else UNKNOWN_OVERLAP)
    return "; ".join(part for part in parts if part)


def _epochs(results: SweepResults) -> str:
    epochs = _values(results, "epochs")
    return f"{_range(epochs, '.3g')} passes over the training tokens" if epochs else ""


def _shapes(results: SweepResults) -> str:
    shapes = {
        (m["d_model"], m["num_layers"], m.get("num_heads"))
        for trunk in results.experiment.get("trunks", [])
        if (m := trunk.get("model", {})).get("d_model")
    }
    ladder = ", ".join(f"{d} x {n} ({h} heads)" for d, n, h in sorted(shapes, key=str))
    return f"width x layers: {ladder}" if ladder else ""


def _architecture(results: SweepResults) -> str:
    names = ("norm", "activation", "positions", "is_gated", "has_tied_head", "has_previous_token_mix", "dropout")
    return _named(results, *((name, ("model", name)) for name in names))


def _optimizer(results: SweepResults) -> str:
    names = ("name", "beta1", "beta2", "weight_decay", "clip_norm")
    said = _named(results, *((name, ("optimizer", name)) for name in names))
    return "; ".join(part for part in (said, _named(results, ("batch (sequences)", ("batch_size",)))) if part)


def _schedule(results: SweepResults) -> str:
    names = ("kind", "warmup_steps", "cooldown_fraction", "cooldown_shape")
    return _named(results, *((name, ("schedule", name)) for name in names))


def _tuning(results: SweepResults) -> str:
    rates, rule = _configs(results, "optimizer", "learning_rate"), _configs(results, "model", "parametrization")
    base = _configs(results, "model", "base_d_model")
    if not rates:
        return ""
    carried = f"carried to other sizes by the rule {rule or 'unknown'}"
    return f"base learning rate {rates} at width {base or 'unknown'}, {carried}"


def _regret(results: SweepResults) -> str:
    """Says what the largest runs lose by their learning rate, from the largest size at which several were tried."""
    tried = [s for s in rates_tried(results) if len(set(s.level)) >= MIN_LEVELS]
    rows = [r for r in results.records if r["status"] == "done" and r.get("learning_rate")]
    if not tried or not rows:
        return ""
    rate = float(max(rows, key=lambda r: (r["num_params_total"], r["num_tokens"], -r["loss"]))["learning_rate"])
    series = max(tried, key=lambda s: (s.num_params, s.num_tokens))
    basis = (
        f"{len(set(series.level))} rates at {count(series.num_params)} parameters, {count(series.num_tokens)} tokens"
    )
    lost, best = regret(series, rate), best_level(series)
    if lost is None or best is None:
        return f"not measured: {rate:.3g} is no rate within a bowl of {basis}; try rates on both sides of the best"
    return f"{percent(lost)} of the loss: {rate:.3g} against {best:.3g}, the best by a parabola through {basis}"


def rates_tried(results: SweepResults) -> list[Series]:
    """Returns the fitted runs alike in all but learning rate and seed, as series over the learning rate."""
    alike = ("num_params_total", "num_tokens", "batch_size", "weight_decay", *factor_names(results))
    groups: dict[tuple, list[tuple[float, float]]] = {}
    for row in (row for row in results.fitted if row.get("learning_rate")):
        groups.setdefault(tuple(row.get(c) for c in alike), []).append((row["learning_rate"], row["loss"]))
    return [Series("", float(key[0]), float(key[1]), *np.array(sorted(g)).T) for key, g in groups.items()]


def _numbers(results: SweepResults) -> str:
    rows = results.fitted
    if not rows:
        return ""
    sizes, lengths = _values(results, "num_params_total"), _values(results, "num_tokens")
    seeds = len({r.get("seed") for r in rows})
    return (
        f"{len(rows)} fitted points on {len({r['trunk_id'] for r in rows})} trunks, {seeds} distinct seeds; "
        f"{_range(sizes, ',')} parameters, {_range(lengths, ',')} tokens (targets included)"
    )


def _dropped(results: SweepResults) -> str:
    if not results.records:
        return ""
    lost = [r for r in results.lost if r["split"] == "fit"]
    notes = [str(n) for n in (results.fit or {}).get("notes", [])]
    said = f"{len(lost)} points lost to failure or divergence, reasons in the list of runs" if lost else "none dropped"
    return "; ".join([said, *notes])


def _checkpoints(results: SweepResults) -> str:
    kinds = set(_configs(results, "schedule", "kind").split(", ")) - {""}
    if not kinds:
        return ""
    if "wsd" in kinds:
        return "no intermediate checkpoint is a point; cooled-down branches of one trunk are, and share its noise"
    return "no intermediate checkpoint is a point; every point is the end of its own run"


def _objective(results: SweepResults) -> str:
    fit = results.fit or {}
    if "objective_name" not in fit:
        return ""
    delta = f", delta {fit['delta']:.3g}" if fit.get("delta") else ""
    return f"sum over log residuals, {fit['objective_name']}{delta}; value {fit['objective']:.6g}"


def _search(results: SweepResults) -> str:
    starts = (results.fit or {}).get("starts")
    if not starts:
        return ""
    return (
        f"variable projection over a grid of {starts['tried']} starts, {starts['polished']} polished in float64 by "
        f"Levenberg-Marquardt, {starts['failed']} failed, {starts['agreeing']} agree on the best optimum"
    )


def _uncertainty(results: SweepResults) -> str:
    fit = results.fit or {}
    noise = fit.get("noise", {})
    if not fit.get("interval_method") or "sigma" not in noise:
        return ""
    shared = f", tau {100 * noise['tau']:.2f} % shared by each {noise['cluster']}" if noise.get("cluster") else ""
    return f"{fit['interval_method']}; sigma {100 * noise['sigma']:.2f} % a point{shared}"


def _identifiability(results: SweepResults) -> str:
    ident = (results.fit or {}).get("identifiability", {})
    if "condition" not in ident:
        return ""
    alarms = ident.get("alarms") or ["none"]
    condition = "infinite" if ident["condition"] is None else f"{ident['condition']:.2g}"
    return f"condition number {condition}; alarms: {'; '.join(map(str, alarms))}"


def _extrapolation(results: SweepResults) -> str:
    tested = [outcome for forecast, outcome in results.forecasts.values() if outcome and not forecast.get("late")]
    if not tested:
        return ""
    errors = ", ".join(f"{e['target']} {100 * e['signed_error']:+.2f} %" for e in tested)
    return f"{len(tested)} runs forecast in the ledger before they started: {errors}"


def _hardware(results: SweepResults) -> str:
    parts = [("device", "device"), ("arithmetic", "dtype"), ("kleiber", "code_version"), ("jax", "jax_version")]
    said = [(name, _said(results, column)) for name, column in parts]
    return "; ".join([*(f"{name} {value}" for name, value in said if value), *_programs(results)])


def _programs(results: SweepResults) -> list[str]:
    """Returns the versions of the program that trained, each with how many points are of it."""
    counts = Counter(r.get("program_fingerprint") for r in results.records if r["status"] == "done")
    if not any(counts):
        return []
    told = listing([f"{name or 'not noted'} ({plural(number, 'point')})" for name, number in counts.items()])
    return [f"program {told}" if len(counts) == 1 else f"{len(counts)} versions of the program count together: {told}"]


def _raw(results: SweepResults) -> str:
    path = Path(results.directory) / "table.parquet"
    if not path.is_file():
        return ""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"table.parquet, {len(results.records)} rows, SHA-256 {digest[:16]}…; configs and step logs in runs/"


A_RUN, A_FIT, CONFIGS = "a run that has ended", "a fit (fit.json)", "the experiment's configs (experiment.json)"
QUESTIONS: tuple[tuple[str, str, Callable[[SweepResults], str], str], ...] = (
    ("Hypothesis", "What is asked?", lambda results: str(results.experiment.get("question") or ""), CONFIGS),
    ("Hypothesis", "Which form, and against which rivals?", _form, A_FIT),
    ("Variables", "How are N, D and C counted?", _counting, A_RUN),
    ("Data", "Corpus, tokeniser, vocabulary, context", _data, A_RUN),
    ("Data", "Validation set, and its overlap with training", _split, CONFIGS),
    ("Data", "How often were tokens repeated?", _epochs, A_RUN),
    ("Model", "Ladder of shapes", _shapes, CONFIGS),
    ("Model", "Architecture", _architecture, CONFIGS),
    ("Training", "Optimiser and batch", _optimizer, CONFIGS),
    ("Training", "Schedule", _schedule, CONFIGS),
    ("Training", "Learning rate over sizes", _tuning, CONFIGS),
    (
        "Training",
        "Loss lost to untuned learning rates",
        _regret,
        "three trunks or more alike in all but learning rate",
    ),
    ("Runs", "Number, seeds, ranges", _numbers, A_RUN),
    ("Runs", "Which points were dropped, and why?", _dropped, A_RUN),
    ("Runs", "Are checkpoints used as points?", _checkpoints, CONFIGS),
    ("Fit", "Objective", _objective, A_FIT),
    ("Fit", "Starts and optimiser", _search, A_FIT),
    ("Fit", "Uncertainty", _uncertainty, A_FIT),
    ("Fit", "Identifiability", _identifiability, A_FIT),
    ("Test", "Extrapolation", _extrapolation, "a target of the experiment that has been trained"),
    ("Record", "Hardware and versions", _hardware, A_RUN),
    ("Record", "Raw table of runs", _raw, "table.parquet, which a sweep writes as it goes"),
)
"""(topic, question, what answers it, what would where that is empty)."""
OF_LAWS = (_form, _objective, _search, _uncertainty, _identifiability, _extrapolation)
"""Not asked of an experiment that fits no law."""
OF_OUR_TRAINER = (_split, _architecture, _optimizer, _schedule, _tuning, _checkpoints)
"""Answered by a config for kleiber's own trainer only: what a command does, it alone can tell."""
