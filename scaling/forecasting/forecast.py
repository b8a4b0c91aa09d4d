"""The loss of a run nobody has trained yet, with a prediction interval and where its width comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kleiber.scaling.fitting.estimates import interval
from kleiber.scaling.fitting.result import FitResult, without_nan
from kleiber.scaling.forecasting.derived import with_derived

REJECTED = 10.0
"""A form whose AICc is this much above the best is rejected by the runs and has no say in the interval
(Burnham and Anderson 2002, section 2.6: essentially no support)."""


DISMISSED = 20.0
"""A form whose AICc is this much above the best has no say in a combined forecast. Wider than REJECTED, because what
separates forms in range is often the start of training in the shortest runs, not the law."""


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
    """Standard deviations of log loss: parameter (the fit), sigma and tau (one new run), form (between laws)."""
    degrees_of_freedom: float
    weights: Mapping[str, float]
    """Akaike weight of each law considered; 0 where the runs reject it."""
    rival_losses: Mapping[str, float]
    """What each rival predicts."""
    compute_ratio: float
    """Parameters times tokens, over the largest among the fitted runs; FLOPs for a law of these, NaN for neither."""
    notes: tuple[str, ...]
    residual_kind: str = "log"
    """What `parts` are deviations of, as the fit's residuals."""

    def to_json(self) -> dict[str, Any]:
        """Returns the forecast as plain JSON values."""
        return without_nan(asdict(self))

    def __repr__(self) -> str:
        low, high = self.interval
        width = ", ".join(f"{name} {self._size(size)}" for name, size in self.parts.items() if size)
        return f"loss {self.predicted_loss:.5g}, {self.level:.0%} [{low:.5g}, {high:.5g}]; width from {width}"

    def _size(self, deviation: float) -> str:
        return f"{deviation:.3%}" if self.residual_kind in ("log", "relative") else f"{deviation:.4g}"

    def _repr_markdown_(self) -> str:
        """Returns the forecast as a notebook shows it."""
        low, high = self.interval
        rows = [("predicted loss", f"**{self.predicted_loss:.5g}**"), ("level", f"{self.level:.0%}")]
        rows.insert(1, ("interval", f"{low:.5g} to {high:.5g}"))
        rows += [(f"width from {name}", self._size(size)) for name, size in self.parts.items()]
        rows += [(f"{name} says", f"{loss:.5g}") for name, loss in self.rival_losses.items()]
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
            "  width from     " + ", ".join(f"{name} {self._size(size)}" for name, size in self.parts.items()),
        ]
        for name, loss in self.rival_losses.items():
            lines.append(f"  rival          {name} says {loss:.5g} (weight {self.weights[name]:.3f})")
        return "\n".join(lines + [f"  note           {note}" for note in self.notes])


def loss_interval(fit: FitResult, value: float, deviation: float, degrees: float, level: float) -> tuple[float, float]:
    """Returns the interval of a loss from its value as the fit's residuals have it, and that value's deviation."""
    if fit.measure.is_log:
        return interval(float(np.exp(value)), deviation, degrees, True, level)
    low, high = interval(float(value), deviation, degrees, False, level)
    return float(fit.measure.back(np.float64(low))), float(fit.measure.back(np.float64(high)))


def form_weights(fits: Sequence[FitResult]) -> list[float]:
    """Returns the Akaike weight of each fit of the same runs; 0 for forms that the runs reject.

    Raises:
      ValueError: if the fits are not of the same losses.
    """
    for fit in fits[1:]:
        if not np.array_equal(fit.points["loss"], fits[0].points["loss"]):
            raise ValueError(
                f"{fit.law} and {fits[0].law} were fitted to different runs ({fit.num_points} and "
                f"{fits[0].num_points} points); weights compare forms on the same runs only."
            )
        if fit.measure.kind != fits[0].measure.kind:
            raise ValueError(f"{fit.law} was fitted by {fit.measure.kind} residuals, {fits[0].law} by other ones.")
    excess = np.nan_to_num([fit.aicc for fit in fits], nan=np.inf)
    excess = excess - excess.min() if np.isfinite(excess).any() else np.zeros(len(fits))
    weights = np.where(excess > REJECTED, 0.0, np.exp(-0.5 * excess))
    return (weights / weights.sum()).tolist()


def log_gradients(fit: FitResult, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the predicted log losses [runs] and their derivatives [runs, P] by the working coordinates."""
    if not len(fit.z):
        value = fit.scaled.log_loss(fit.z[None], columns)[0]
        return value, np.zeros((len(value), 0))
    value, jacobian = fit.scaled.log_loss_and_jacobian(fit.z[None], columns)
    return value[0], jacobian[0]


def forecast(
    fit: FitResult,
    num_params: float | None,
    num_tokens: float | None,
    level: float = 0.9,
    rivals: Sequence[FitResult] = (),
    columns: Mapping[str, float] | None = None,
) -> Forecast:
    """Returns the loss that one new run on a trunk of its own will have, with its prediction interval.

    The variance of log loss adds the fit's own uncertainty, the noise of the new run, and the weighted squared
    distance of the rivals that the runs do not reject. Degrees of freedom follow Satterthwaite.

    Args:
      fit: the law to predict with.
      num_params: as counted in the fitted table; None for a law that knows no parameters.
      num_tokens: as counted in the fitted table; None for a law that knows no tokens.
      level: probability that the interval holds the new loss.
      rivals: other forms fitted to the same runs.
      columns: values of further variables, for laws that need them.

    Raises:
      ValueError: for counts or a level that make no sense, or a variable that is missing.
    """
    counts = {"num_params_total": num_params, "num_tokens": num_tokens}
    given = {name: float(count) for name, count in counts.items() if count is not None}
    if not (all(count > 0 for count in given.values()) and 0 < level < 1):
        raise ValueError(
            f"need positive counts and 0 < level < 1, got num_params {num_params}, num_tokens {num_tokens}, "
            f"level {level}."
        )
    point = with_derived({**given, **(columns or {})})
    lost = [name for each in (fit, *rivals) for name in each.scaled.law.variable_names if name not in point]
    if lost:
        raise ValueError(f"law {fit.law} also needs a value for {', '.join(sorted(set(lost)))}.")
    fits = [fit, *rivals]
    weights = form_weights(fits)
    arrays = {name: np.array([float(value)]) for name, value in point.items()}
    (mean,), (gradient,) = log_gradients(fit, arrays)
    others = [float(log_gradients(rival, arrays)[0][0]) for rival in rivals]
    variance, degrees = fit.uncertainty.degrees(gradient, 1.0)
    between = float(sum(w * (other - mean) ** 2 for w, other in zip(weights[1:], others, strict=True)))
    deviation = float(np.sqrt(variance + between))
    predicted = float(fit.measure.back(mean))
    low, high = loss_interval(fit, mean, deviation, degrees, level)
    parameter = float(np.sqrt(fit.uncertainty.degrees(gradient)[0]))
    return Forecast(
        law=fit.law,
        num_params_total=given.get("num_params_total"),
        num_tokens=given.get("num_tokens"),
        predicted_loss=predicted,
        interval=(low, high),
        level=level,
        standard_error=float(fit.measure.width(np.float64(predicted))) * deviation,
        parts={"parameter": parameter, "sigma": fit.noise.sigma, "tau": fit.noise.tau, "form": between**0.5},
        degrees_of_freedom=degrees,
        weights={each.law: weight for each, weight in zip(fits, weights, strict=True)},
        rival_losses={
            rival.law: float(rival.measure.back(np.float64(other))) for rival, other in zip(rivals, others, strict=True)
        },
        compute_ratio=_compute_ratio(fit, point),
        notes=tuple(_notes(fit, weights, point)),
        residual_kind=fit.measure.kind,
    )


def undismissed(fits: Sequence[FitResult]) -> list[FitResult]:
    """Returns the fits that have a say in a combined forecast: AICc at most DISMISSED above the best."""
    best = np.nanmin([fit.aicc for fit in fits]) if np.isfinite([fit.aicc for fit in fits]).any() else np.nan
    return [fit for fit in fits if not fit.aicc - best > DISMISSED]


def combined_forecast(
    fits: Sequence[FitResult],
    num_params: float | None,
    num_tokens: float | None,
    level: float = 0.9,
    columns: Mapping[str, float] | None = None,
) -> Forecast:
    """Returns the equal-weight mean of what several laws forecast for one new run, with its prediction interval.

    Which form is right decides a forecast beyond about four times the fitted compute, and the fitted runs can hardly
    tell: forms whose residuals differ by a tenth of a percent disagree by two. Their errors tend to have opposite
    signs, and equal weights are then hard to beat by estimated ones (Bates and Granger 1969; Stock and Watson 2004).
    A law whose AICc is more than DISMISSED above the best has no say. The variance of log loss is that of the
    mixture: the mean of the laws' own variances plus the variance between their predictions.

    Args:
      fits: laws fitted to the same runs.
      num_params, num_tokens, level, columns: as in `forecast`.

    Raises:
      ValueError: as `forecast`, or for no fits.
    """
    if not fits:
        raise ValueError("a combined forecast needs at least one fit.")
    form_weights(fits)  # checks that all are fits of the same runs
    kept = undismissed(fits)
    if len(kept) == 1:
        return forecast(kept[0], num_params, num_tokens, level, [fit for fit in fits if fit is not kept[0]], columns)
    singles = [forecast(fit, num_params, num_tokens, level, (), columns) for fit in kept]
    measure, losses = kept[0].measure, np.array([single.predicted_loss for single in singles])
    values = measure.of(losses)
    predicted, between = float(measure.back(values.mean())), float(values.std())
    errors = np.array([single.standard_error for single in singles])
    within = np.mean((errors / measure.width(losses)) ** 2)
    deviation = float(np.sqrt(within + between**2))
    degrees = min(single.degrees_of_freedom for single in singles)
    parts = {name: float(np.sqrt(np.mean([s.parts[name] ** 2 for s in singles]))) for name in singles[0].parts}
    all_losses = {fit.law: single.predicted_loss for fit, single in zip(kept, singles, strict=True)}
    for fit in fits:
        if fit.law not in all_losses:
            all_losses[fit.law] = forecast(fit, num_params, num_tokens, level, (), columns).predicted_loss
    return replace(
        singles[0],
        law="mean of " + ", ".join(fit.law for fit in kept),
        predicted_loss=predicted,
        interval=loss_interval(kept[0], float(values.mean()), deviation, degrees, level),
        standard_error=float(measure.width(np.float64(predicted))) * deviation,
        parts={**parts, "form": between},
        degrees_of_freedom=degrees,
        weights={**{fit.law: 0.0 for fit in fits}, **{fit.law: 1.0 / len(kept) for fit in kept}},
        rival_losses={fit.law: all_losses[fit.law] for fit in fits},
    )


def _compute_ratio(fit: FitResult, point: Mapping[str, float]) -> float:
    names = [name for name in ("num_params_total", "num_tokens") if name in fit.points and name in point]
    names = names or [name for name in ("flops",) if name in fit.points and name in point]
    largest = float(np.max(np.prod([fit.points[name] for name in names], axis=0))) if names else np.nan
    return float(np.prod([point[name] for name in names])) / largest


def _notes(fit: FitResult, weights: Sequence[float], point: Mapping[str, float]) -> list[str]:
    notes = []
    for name in fit.scaled.law.variable_names:
        low, high = float(fit.points[name].min()), float(fit.points[name].max())
        if point[name] > high:
            notes.append(f"extrapolates {name} {point[name] / high:.3g} times beyond the largest fitted")
        elif point[name] < low:
            notes.append(f"extrapolates {name} {low / point[name]:.3g} times below the smallest fitted")
    if weights[0] == 0.0:
        notes.append(f"the runs reject {fit.law} in favour of a rival: predict with that one")
    return notes


def baseline_losses(fit: FitResult, num_params: float, num_tokens: float) -> dict[str, float]:
    """Returns what simple rules predict for a run, to score a forecast against.

    Args:
      fit: only its runs are used.
      num_params, num_tokens: of the new run.

    Returns:
      last_point (the loss of the largest fitted run), product (K N^-a D^-b, no floor), and log_linear (a straight
      line in log loss against log compute).
    """
    params, tokens = fit.points["num_params_total"], fit.points["num_tokens"]
    log_loss = np.log(fit.points["loss"])
    compute = np.log(params * tokens)
    ones = np.ones_like(compute)
    product = np.linalg.lstsq(np.stack([ones, np.log(params), np.log(tokens)], 1), log_loss, rcond=None)[0]
    line = np.linalg.lstsq(np.stack([ones, compute], 1), log_loss, rcond=None)[0]
    new = np.array([1.0, np.log(num_params), np.log(num_tokens)])
    return {
        "last_point": float(fit.points["loss"][compute.argmax()]),
        "product": float(np.exp(product @ new)),
        "log_linear": float(np.exp(line @ [1.0, new[1] + new[2]])),
    }
