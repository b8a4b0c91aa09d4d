"""The loss of a run nobody has trained yet, with a prediction interval and where its width comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kleiber.scaling.fitting.estimates import t_quantile
from kleiber.scaling.fitting.result import UNSEALED, FitResult, without_nan
from kleiber.scaling.forecasting.chain import AccuracyForecast
from kleiber.scaling.forecasting.derived import with_derived
from kleiber.scaling.forecasting.mixture import FORM_SHARE, Mixture, excess_aicc, mix, mixture_weights
from kleiber.scaling.forecasting.rolling import Protection, drift_of, reach_of

REJECTED = 10.0
"""A form whose AICc is this much above the best is rejected by the runs and has no say in the interval
(Burnham and Anderson 2002, section 2.6: essentially no support)."""

UNTOLD = (1.0, 2 / 3)
"""Of what the fitted losses themselves differ by: alarm from a standard error of a forecast, or from residuals of the
best law, of that size on."""
APART = 2 / 3
"""Half-widths of the first law's own interval between what it says alone and what all say together, from which on a
note says so: on public tables that goes before three in four of its misses (docs/truth.md)."""


@dataclass(frozen=True)
class Forecast:
    """A predicted loss and its interval for one new run."""

    law: str
    num_params_total: float | None
    num_tokens: float | None
    """None of a law that knows no such count, as the parameters."""
    predicted_loss: float
    """Nats per token (or the unit of the fitted losses)."""
    interval: tuple[float, float]
    level: float
    standard_error: float
    """Of the prediction error of one new run, in the unit of the loss."""
    parts: Mapping[str, float]
    """Standard deviations of log loss before `rolling_factor`: parameter (the fit), sigma and tau (one new run), form
    (between laws), and extrapolation (what no fit knows of runs beyond it)."""
    rolling_factor: float
    """What the rolling origin of the fitted table multiplies them by; 1 without one."""
    degrees_of_freedom: float
    weights: Mapping[str, float]
    """How much each law has to say."""
    rival_losses: Mapping[str, float]
    """What each of several laws predicts."""
    compute_ratio: float
    """Parameters times tokens, over the largest among the fitted runs; FLOPs for a law of these, NaN for neither."""
    alarms: tuple[str, ...]
    """Why the interval may not hold, each with its name first."""
    notes: tuple[str, ...]
    residual_kind: str = "log"
    """What `parts` are deviations of, as the fit's residuals."""
    accuracy: AccuracyForecast | None = None
    """Of a run with this loss, where the table told accuracies (chain.py)."""
    past_factor: float = 1.0
    """The part of `rolling_factor` that earlier outcomes say (track_record.py)."""
    past_outcomes: int = 0
    """How many of them there were."""

    @property
    def basis(self) -> dict[str, Any]:
        """What the interval rests on, as `Ledger.register` takes it, so that its outcome can be learnt from."""
        heard = {"factor": self.past_factor, "outcomes": self.past_outcomes}
        return {"degrees_of_freedom": self.degrees_of_freedom, "past": heard if self.past_outcomes else None}

    def to_json(self) -> dict[str, Any]:
        """Returns the forecast as plain JSON values."""
        return without_nan(asdict(self))

    def __repr__(self) -> str:
        low, high = self.interval
        width = ", ".join(f"{name} {self._size(size)}" for name, size in self.parts.items() if size)
        return (
            f"loss {self.predicted_loss:.5g}, {self.level:.0%} [{low:.5g}, {high:.5g}]; width from {width}{self._times}"
        )

    @property
    def _times(self) -> str:
        if self.rolling_factor == 1:
            return ""
        past = f" and {self.past_outcomes} earlier outcomes" if self.past_outcomes else ""
        return f"; times {self.rolling_factor:.2f} by rolling origin{past}"

    def _size(self, deviation: float) -> str:
        return f"{deviation:.3%}" if self.residual_kind in ("log", "relative") else f"{deviation:.4g}"

    def _repr_markdown_(self) -> str:
        """Returns the forecast as a notebook shows it."""
        low, high = self.interval
        rows = [("predicted loss", f"**{self.predicted_loss:.5g}**"), ("level", f"{self.level:.0%}")]
        rows.insert(1, ("interval", f"{low:.5g} to {high:.5g}"))
        rows += [(f"width from {name}", self._size(size)) for name, size in self.parts.items()]
        rows += [("times, by rolling origin", f"{self.rolling_factor:.2f}")] if self.rolling_factor != 1 else []
        rows += [(f"{name} says", f"{loss:.5g}") for name, loss in self.rival_losses.items()]
        rows += [("accuracy", self.accuracy.report().removeprefix("  accuracy "))] if self.accuracy else []
        rows += [("**alarm**", alarm) for alarm in self.alarms]
        rows += [("note", note) for note in self.notes]
        return f"| {self.law} | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows)

    def report(self) -> str:
        """Returns the forecast as text for people."""
        low, high = self.interval
        counts = {"N": self.num_params_total, "D": self.num_tokens}
        known = {name: count for name, count in counts.items() if count is not None}
        head = [f"{name} {count:.4g}" for name, count in known.items()]
        if known:
            ratio = f"{self.compute_ratio:.3g} times the largest fitted run ({' x '.join(known)})"
            head += [ratio] * bool(np.isfinite(self.compute_ratio))
        relative = f" (-{1 - low / self.predicted_loss:.2%}, +{high / self.predicted_loss - 1:.2%})"
        lines = [
            ": ".join([self.law, ", ".join(head)] if head else [self.law]),
            f"  predicted loss {self.predicted_loss:.5g}, {self.level:.0%} interval [{low:.5g}, {high:.5g}]"
            + relative * (self.predicted_loss > 0),
            "  width from     "
            + ", ".join(f"{name} {self._size(size)}" for name, size in self.parts.items())
            + self._times,
        ]
        for name, loss in self.rival_losses.items():
            lines.append(f"  rival          {name} says {loss:.5g} (weight {self.weights[name]:.3f})")
        lines += [self.accuracy.report()] if self.accuracy else []
        lines += [f"  ALARM          {alarm}" for alarm in self.alarms]
        return "\n".join(lines + [f"  note           {note}" for note in self.notes])


def check_same_runs(fits: Sequence[FitResult]) -> None:
    """Raises ValueError if the fits are not of the same losses, compared alike."""
    for fit in fits[1:]:
        if not np.array_equal(fit.points["loss"], fits[0].points["loss"]):
            raise ValueError(
                f"{fit.law} and {fits[0].law} were fitted to different runs ({fit.num_points} and "
                f"{fits[0].num_points} points); weights compare forms on the same runs only."
            )
        if fit.measure.kind != fits[0].measure.kind:
            raise ValueError(f"{fit.law} was fitted by {fit.measure.kind} residuals, {fits[0].law} by other ones.")


def form_weights(fits: Sequence[FitResult]) -> list[float]:
    """Returns the Akaike weight of each fit of the same runs; 0 for forms that the runs reject.

    Raises:
      ValueError: if the fits are not of the same losses.
    """
    check_same_runs(fits)
    excess = excess_aicc(fits)
    weights = np.where(excess > REJECTED, 0.0, np.exp(-0.5 * excess))
    return (weights / weights.sum()).tolist()


def combined_forecast(
    fits: Sequence[FitResult],
    num_params: float | None,
    num_tokens: float | None,
    level: float = 0.9,
    columns: Mapping[str, float] | None = None,
    protection: Protection | None = None,
) -> Forecast:
    """Returns the loss that one new run on a trunk of its own will have, with its prediction interval.

    Which form is right decides a forecast beyond about four times the fitted compute, and the fitted runs can hardly
    tell: forms whose residuals differ by a tenth of a percent disagree by two. So the forecast is the mean of several,
    nearly equal weights being hard to beat (Bates and Granger 1969; Stock and Watson 2004). The variance of log loss
    adds the forms' own, a share of the variance between them, and with protection what lies beyond the fitted runs,
    times what the table's rolling origin says of such standard errors.

    Args:
      fits: laws fitted to the same runs.
      num_params: as counted in the fitted table; None for laws that know no parameters.
      num_tokens: as counted in the fitted table; None for laws that know no tokens.
      level: probability that the interval holds the new loss.
      columns: values of further variables, for laws that need them.
      protection: of these fits (`protect`); without it the interval is as wide as the fits themselves say.

    Raises:
      ValueError: for counts or a level that make no sense, a variable that is missing, or fits of different runs.
    """
    counts = {"num_params_total": num_params, "num_tokens": num_tokens}
    given = {name: float(count) for name, count in counts.items() if count is not None}
    point = {name: np.array([value], np.float64) for name, value in {**given, **(columns or {})}.items()}
    said = combined_forecasts(fits, point, level, protection)
    measure, mixed, names = fits[0].measure, said.mixed, [fit.law for fit in fits]
    parts = {name: float(np.sqrt(each[0])) for name, each in mixed.parts.items()}
    parts |= {"form": float(np.sqrt(FORM_SHARE * mixed.between[0])), "extrapolation": float(said.drift[0])}
    run = {name: float(values[0]) for name, values in with_derived(point).items()}
    singles = [float(fit.predict(with_derived(point))[0]) for fit in fits]
    return Forecast(
        law=names[0] if len(fits) == 1 else "mean of " + ", ".join(names),
        num_params_total=given.get("num_params_total"),
        num_tokens=given.get("num_tokens"),
        predicted_loss=float(said.predicted_loss[0]),
        interval=(float(said.low[0]), float(said.high[0])),
        level=level,
        standard_error=float(said.standard_error[0]),
        parts=parts,
        rolling_factor=protection.factor if protection else 1.0,
        degrees_of_freedom=float(said.degrees_of_freedom[0]),
        weights=dict(zip(names, mixture_weights(fits).tolist(), strict=True)),
        rival_losses=dict(zip(names, singles, strict=True)) if len(fits) > 1 else {},
        compute_ratio=float(said.compute_ratio[0]),
        alarms=said.alarms[0],
        notes=(*_notes(fits[0], run), *_apart(fits, point, said)),
        residual_kind=measure.kind,
        past_factor=protection.past_factor if protection else 1.0,
        past_outcomes=protection.past_outcomes if protection else 0,
    )


@dataclass(frozen=True)
class Forecasts:
    """What laws say of many new runs, float64 [runs] each, as `Forecast` of one."""

    predicted_loss: np.ndarray
    low: np.ndarray
    high: np.ndarray
    standard_error: np.ndarray
    degrees_of_freedom: np.ndarray
    drift: np.ndarray
    """Standard deviation for what no fit knows of runs beyond it."""
    compute_ratio: np.ndarray
    mixed: Mixture
    alarms: list[tuple[str, ...]]
    """Of each run, as of `Forecast`."""


def combined_forecasts(
    fits: Sequence[FitResult],
    columns: Mapping[str, np.ndarray],
    level: float = 0.9,
    protection: Protection | None = None,
) -> Forecasts:
    """Returns the losses of many new runs and their intervals at once, each as `combined_forecast` of it.

    Args:
      fits, level, protection: as there, and it says what is raised.
      columns: float64 [runs] each, every variable of every law.
    """
    if not fits:
        raise ValueError("a combined forecast needs at least one fit.")
    counts = {name: columns[name] for name in ("num_params_total", "num_tokens") if name in columns}
    if not (all(np.all(each > 0) for each in counts.values()) and 0 < level < 1):
        smallest = ", ".join(f"{name} {np.min(each):g}" for name, each in counts.items())
        raise ValueError(f"need positive counts and 0 < level < 1, got {smallest or 'no counts'}, level {level}.")
    check_same_runs(fits)
    columns = with_derived(columns)
    lost = sorted({name for each in fits for name in each.definition.variable_names if name not in columns})
    if lost:
        raise ValueError(f"law {fits[0].law} also needs a value for {', '.join(lost)}.")
    points = {name: values for fit in fits for name, values in fit.scaled.columns.items()}
    asked = {name: columns[name] for name in points}
    measure, mixed, reach = fits[0].measure, mix(fits, asked), reach_of(points, asked)
    drift, degrees, deviation = np.zeros_like(reach), mixed.degrees_of_freedom, np.sqrt(mixed.variance)
    if protection:
        drift, degrees = drift_of(mixed, reach), np.full_like(reach, protection.degrees_of_freedom)
        deviation = protection.deviation(mixed, reach)
    untold = _untold(fits, deviation)
    predicted, half = measure.back(mixed.log_loss), t_quantile(degrees, 0.5 + level / 2) * deviation
    return Forecasts(
        predicted,
        measure.back(mixed.log_loss - half),
        measure.back(mixed.log_loss + half),
        measure.width(predicted) * deviation,
        degrees,
        drift,
        _compute_ratio(fits[0], columns),
        mixed,
        [(*(protection.alarms if protection else ()), *each) for each in untold],
    )


def _untold(fits: Sequence[FitResult], deviation: np.ndarray) -> list[tuple[str, ...]]:
    """Returns an alarm, or none, for each forecast of which the runs tell hardly more than that they differ."""
    spread = max(float(np.std(fits[0].measure.of(fits[0].points["loss"]))), 1e-300)
    left = min(min(fit.residual_rms, fit.noise.new_run) for fit in fits) / spread  # a robust fit's noise is of the bulk
    share = deviation / spread
    end = "what the fitted losses differ by; they hardly say what such a run will lose"
    if left >= UNTOLD[1]:
        return [(f"untold: the best law leaves {left:.1f} times {end}",)] * len(share)
    sizes = (f"{each:.1f} times" if each < 100 else "far beyond" for each in share.tolist())
    texts = (f"untold: the standard error is {size} {end}" for size in sizes)
    return [(text,) if each >= UNTOLD[0] else () for text, each in zip(texts, share, strict=True)]


def _compute_ratio(fit: FitResult, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    names = [name for name in ("num_params_total", "num_tokens") if name in fit.points and name in columns]
    names = names or [name for name in ("flops",) if name in fit.points and name in columns]
    largest = float(np.max(np.prod([fit.points[name] for name in names], axis=0))) if names else np.nan
    return np.prod([columns[name] for name in names], axis=0) / largest * np.ones(len(next(iter(columns.values()))))


def _notes(fit: FitResult, point: Mapping[str, float]) -> list[str]:
    notes = [note for note in fit.notes if note == UNSEALED]
    for name in fit.definition.variable_names:
        low, high = float(fit.points[name].min()), float(fit.points[name].max())
        if point[name] > high:
            notes.append(f"extrapolates {name} {point[name] / high:.3g} times beyond the largest fitted")
        elif point[name] < low:
            notes.append(f"extrapolates {name} {low / point[name]:.3g} times below the smallest fitted")
    return notes


def _apart(fits: Sequence[FitResult], point: Mapping[str, np.ndarray], said: "Forecasts") -> list[str]:
    """Returns a note where the first law alone, which constants and optimum are told of, lies far from all together."""
    alone = mix(fits[:1], with_derived(point))
    half = float(t_quantile(alone.degrees_of_freedom, 0.95)[0] * np.sqrt(alone.own[0]))
    apart = abs(float(alone.log_loss[0] - said.mixed.log_loss[0])) / max(half, 1e-300)
    if apart < APART:
        return []
    return [
        f"{fits[0].law} alone lies {apart:.1f} half-widths of its own 90% interval from all together: "
        "its constants and optimum may not hold so far out"
    ]


def baseline_losses(fit: FitResult, num_params: float, num_tokens: float) -> dict[str, float]:
    """Returns what simple rules predict for a run, to score a forecast against.

    Args:
      fit: only its runs are used.
      num_params, num_tokens: of the new run.

    Returns:
      last_point (the loss of the largest fitted run), product (K N^-a D^-b, no floor), and log_linear (a straight
      line in log loss against log compute); of raw or logit residuals these are straight in what they compare. None of
      them where the law knows no size or no length of its runs.
    """
    if not {"num_params_total", "num_tokens"} <= fit.points.keys():
        return {}
    params, tokens = fit.points["num_params_total"], fit.points["num_tokens"]
    log_loss = fit.measure.of(fit.points["loss"])
    compute = np.log(params * tokens)
    ones = np.ones_like(compute)
    product = np.linalg.lstsq(np.stack([ones, np.log(params), np.log(tokens)], 1), log_loss, rcond=None)[0]
    line = np.linalg.lstsq(np.stack([ones, compute], 1), log_loss, rcond=None)[0]
    new = np.array([1.0, np.log(num_params), np.log(num_tokens)])
    return {
        "last_point": float(fit.points["loss"][compute.argmax()]),
        "product": float(fit.measure.back(product @ new)),
        "log_linear": float(fit.measure.back(line @ [1.0, new[1] + new[2]])),
    }
