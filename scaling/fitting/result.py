"""A frozen fit: constants with intervals, noise, identifiability, and enough to forecast from its JSON alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.files import json_of, read_plain
from kleiber.scaling.fitting.identifiability import Identifiability
from kleiber.scaling.fitting.measure import Measure
from kleiber.scaling.fitting.noise import RunNoise
from kleiber.scaling.fitting.objective import Objective
from kleiber.scaling.fitting.scaled_law import ScaledLaw
from kleiber.scaling.fitting.uncertainty import Uncertainty
from kleiber.scaling.law import Law
from kleiber.scaling.laws import law_of_fit

UNSEALED = "its file has no seal: it is of a release that sealed none, or was changed by hand"
"""A note of a fit that forecasts made from it pass on."""
UNCERTAINTY = tuple(each.name for each in fields(Uncertainty))
AS_THEY_ARE = (
    *("law", "objective", "objective_name", "delta", "residual_rms", "num_points", "optimum", "log_likelihood"),
    "source",
)
"""Fields that stand in the JSON as they are."""


@dataclass(frozen=True)
class Estimate:
    """One constant; NaN throughout where the runs cannot give it, with the reason."""

    estimate: float
    standard_error: float
    interval_95: tuple[float, float]
    withheld: str | None = None
    at_bound: bool = False
    fixed: bool = False

    def in_words(self) -> str:
        """Returns the value with its interval, or why there is none, as a short phrase."""
        if self.withheld:
            return f"withheld ({self.withheld.split(':')[0]})"
        if self.fixed:
            return f"{self.estimate:.6g} (fixed)"
        low, high = self.interval_95
        bound = "   at its bound" if self.at_bound else ""
        return f"{self.estimate:.6g} +- {self.standard_error:.2g}   95% [{low:.5g}, {high:.5g}]{bound}"


@dataclass(frozen=True)
class Starts:
    """The multi-start certificate."""

    tried: int
    """Points of the grid whose linear constants were solved for."""
    polished: int
    """Starts followed to a local minimum."""
    failed: int
    """Polished starts that found no finite minimum or did not converge."""
    agreeing: int
    """Polished starts that reached the best minimum."""


@dataclass(frozen=True)
class FitResult:
    """What `fit_law` returns."""

    law: str
    definition: Law
    """The law itself."""
    parameters: Mapping[str, Estimate]
    objective: float
    """Sum over the points of the objective function of the log residuals (for squares: half their sum)."""
    objective_name: str
    delta: float | None
    """Turning point or scale of a robust objective."""
    residual_rms: float
    num_points: int
    cluster: str | None
    """Column that names the trunk of each run; None where runs share none."""
    identifiability: Identifiability
    optimum: Mapping[str, Any]
    """Exponents a and b of compute-optimal parameters and tokens, with intervals; None where withheld."""
    log_likelihood: float
    aicc: float
    starts: Starts
    other_optima: tuple[Mapping[str, float], ...]
    """Objective and constants of competing local optima that the runs hardly tell from the best."""
    residuals: np.ndarray
    """float64 [runs], measured minus predicted log loss."""
    points: Mapping[str, np.ndarray]
    """Columns of the runs fitted, the loss included."""
    clusters: tuple[str, ...] | None
    """Trunk of each run."""
    z: np.ndarray
    """float64 [P], the working point: free constants, centred, positive ones as logarithms."""
    scales: Mapping[str, float]
    """What each variable was divided by."""
    fixed: Mapping[str, float | str]
    uncertainty: Uncertainty
    measure: Measure
    """What residuals, noise and intervals are of."""
    source: str
    notes: tuple[str, ...]
    intervals_only: bool = False
    """Whether the effects of trunks could not be told from the law, so that the constants come from least squares."""

    @property
    def noise(self) -> RunNoise:
        """The noise of one log loss, apart from its trunk and shared along it."""
        return RunNoise(*np.sqrt(self.uncertainty.variances).tolist())

    @property
    def summed(self) -> Objective:
        """What was summed over the residuals."""
        return Objective(self.objective_name, np.inf if self.delta is None else self.delta)

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in words."""
        if self.clusters is None:
            return "t, delta method, sandwich"
        is_plain = self.intervals_only or self.objective_name != "gaussian"
        return f"t, delta method, sandwich by {self.cluster}" if is_plain else "t with Satterthwaite degrees, GLS"

    @property
    def num_clusters(self) -> int:
        """Number of trunks; each run has its own where none are shared."""
        return len(set(self.clusters)) if self.clusters else self.num_points

    @property
    def scaled(self) -> ScaledLaw:
        """The law on the fitted runs."""
        columns = {name: self.points[name] for name in self.definition.variable_names}
        return ScaledLaw(self.definition, columns, self.scales, self.fixed, self.measure)

    def predict(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Returns the law's loss [runs] at columns by name."""
        arrays = {name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in columns.items()}
        return self.measure.back(self.scaled.log_loss(self.z, arrays))

    def to_json(self) -> dict[str, Any]:
        """Returns the fit as plain JSON values; `from_json` gives it back."""
        ident = self.identifiability
        out = {
            "law": self.law,
            "formula": self.definition.formula,
            **({"own_law": asdict(self.definition.origin)} if self.definition.origin else {}),
            "parameters": {name: asdict(each) for name, each in self.parameters.items()},
            "objective": self.objective,
            "objective_name": self.objective_name,
            "intervals_only": self.intervals_only,
            "delta": self.delta,
            "residual_rms": self.residual_rms,
            "num_points": self.num_points,
            "noise": {
                "sigma": self.noise.sigma,
                "tau": self.noise.tau,
                "degrees_of_freedom": self.uncertainty.degrees(np.zeros(len(self.z)), 1.0)[1],
                "cluster": self.cluster,
                "num_clusters": self.num_clusters,
                "new_run": self.noise.new_run,
            },
            "identifiability": {**asdict(ident), "weakest_direction": ident.weakest_in_words()},
            "optimum": dict(self.optimum),
            "log_likelihood": self.log_likelihood,
            "aicc": self.aicc,
            "interval_method": self.interval_method,
            "residual_kind": self.measure.kind,
            "starts": asdict(self.starts),
            "other_optima": [dict(each) for each in self.other_optima],
            "residuals": self.residuals.tolist(),
            "points": {name: values.tolist() for name, values in self.points.items()},
            "clusters": self.clusters or None,
            "state": {
                "z": self.z.tolist(),
                "free": self.scaled.free,
                "scales": dict(self.scales),
                "fixed": dict(self.fixed),
                "weights": None if self.measure.weights is None else self.measure.weights.tolist(),
                "is_signed": self.measure.is_signed,
                "covariance": self.uncertainty.covariance.tolist(),
                **{name: getattr(self.uncertainty, name).tolist() for name in UNCERTAINTY},
            },
            "source": self.source,
            "notes": self.notes,
        }
        return without_nan(out)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str, law: Law | None = None) -> "FitResult":
        """Returns the fit that `to_json` wrote.

        Args:
          data: the JSON, as text or read.
          law: of a fit of a user's own law, that law; found again in its file if left out.

        Raises:
          ValueError: if a key is missing, or a user's own law is not there or has changed.
        """
        values = json.loads(data) if isinstance(data, str) else data
        try:
            fit = _read(values, law_of_fit(values, law))
            if not np.isfinite(fit.z).all():
                raise TypeError("a finite working point z")
            return fit
        except (KeyError, TypeError, AttributeError, IndexError) as mistake:
            raise ValueError(f"this is not a fit written by kleiber fit: {mistake} is missing or malformed.") from None

    def report(self) -> str:
        """Returns the fit as text: constants with intervals, noise, alarms, and what was left out."""
        lines = [f"{self.law}: {self.definition.formula}", f"  {self.num_points} points from {self.source}"]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  {name:<8} {each.in_words()}" for name, each in self.parameters.items()]
        if self.optimum.get("a") is not None:
            a, b, (low, high) = (self.optimum[name] for name in ("a", "b", "a_interval_95"))
            lines.append(f"  optimum  N ~ C^a, D ~ C^b: a {a:.4f} 95% [{low:.3f}, {high:.3f}], b {b:.4f}")
        name = self.objective_name + (f" delta {self.delta:.3g}" if self.delta else "")
        noise, starts, ident = self.noise, self.starts, self.identifiability
        size = self.measure.size_format
        tau = f", tau {noise.tau:{size}} shared by each of {self.num_clusters} {self.cluster}" if self.cluster else ""
        aicc = f"{self.aicc:.1f}" if math.isfinite(self.aicc) else "undefined (needs 2 runs more than constants)"
        lines += [
            f"  {name} objective {self.objective:.7g}, residual rms {self.residual_rms:{size}}, AICc {aicc}",
            f"  noise    sigma {noise.sigma:{size}} a point{tau}",
            f"  starts   {starts.tried} tried, {starts.polished} polished, {starts.failed} failed, "
            f"{starts.agreeing} reached the best optimum",
            f"  identifiability: condition {ident.condition:.2g}; weakest direction: {ident.weakest_in_words()}",
        ]
        return "\n".join(lines + [f"  ALARM {alarm}" for alarm in ident.alarms])


def read_fits(path: str | Path, laws: Sequence[Law] = ()) -> tuple[tuple[FitResult, ...], Mapping[str, Any]]:
    """Returns the fits of a JSON file of `kleiber fit --json` or of a sweep's directory, and all that the file says.

    Args:
      path: the file or directory.
      laws: users' own laws that were fitted; found again in their files if left out.

    Raises:
      FileNotFoundError: there is no fit.
      ValueError: it is no fit, or its own law is not there or has changed.
    """
    file = Path(path) / "fit.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no fit at {file}; write one with kleiber fit TABLE --json > {file}.")
    text = read_plain(file)
    try:
        data, sealed = json_of(text, path=file), b'"seal":' in text
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{file} is no fit ({problem}); write one with kleiber fit TABLE --json > FILE.") from None
    given = {law.id: law for law in laws}
    try:
        parts = data["fits"] if "fits" in data else [data, *data.get("rivals", [])]
        fits = tuple(FitResult.from_json(each, given.get(each.get("law"))) for each in parts)
        noted = () if sealed else (UNSEALED,)
        return tuple(replace(fit, notes=(*fit.notes, *noted)) for fit in fits), data
    except (ValueError, TypeError, AttributeError) as problem:
        raise ValueError(f"{file}: {problem}") from None


def without_nan(value: Any) -> Any:
    """Returns JSON values with None for what is not finite."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        kinds = set(map(type, value))  # of a table's columns, whose values all are of one
        if kinds == {float} and all(map(math.isfinite, value)) or kinds <= {int, str}:
            return list(value)
        return [without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _read(values: Mapping[str, Any], definition: Law) -> FitResult:
    parameters = {
        name: Estimate(
            _nan(each["estimate"]),
            _nan(each["standard_error"]),
            (_nan(each["interval_95"][0]), _nan(each["interval_95"][1])),
            each["withheld"],
            each["at_bound"],
            each["fixed"],
        )
        for name, each in values["parameters"].items()
    }
    ident = dict(values["identifiability"])
    del ident["weakest_direction"]
    report = replace(Identifiability(**ident), alarms=tuple(ident["alarms"]), eigenvalues=tuple(ident["eigenvalues"]))
    state = values["state"]
    return FitResult(
        **{name: values[name] for name in AS_THEY_ARE},
        definition=definition,
        parameters=parameters,
        cluster=values["noise"]["cluster"],
        identifiability=replace(report, condition=math.inf if report.condition is None else report.condition),
        aicc=_nan(values["aicc"]),
        starts=Starts(**values["starts"]),
        other_optima=tuple(values["other_optima"]),
        residuals=np.array(values["residuals"]),
        points={name: np.array(each, dtype=np.float64) for name, each in values["points"].items()},
        clusters=tuple(values["clusters"]) if values["clusters"] else None,
        z=np.array(state["z"], dtype=np.float64),
        scales=state["scales"],
        fixed=state["fixed"],
        uncertainty=Uncertainty(*(np.array(state[name]) for name in UNCERTAINTY)),
        measure=Measure(
            values.get("residual_kind", "log"),
            None if state.get("weights") is None else np.array(state["weights"]),
            state.get("is_signed", False),
        ),
        intervals_only=values.get("intervals_only", False),
        notes=tuple(values["notes"]),
    )
