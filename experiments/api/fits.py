"""Laws in Python: a table in, fitted laws out, and what they say of runs nobody has trained yet."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kleiber.experiments.api.best import Best
from kleiber.experiments.planning.law_columns import named_for_laws
from kleiber.files import write_json
from kleiber.scaling.explaining.analysis import LEFT_OUT, Analysis, analyse
from kleiber.scaling.fitting.bootstrap import Bootstrap, resampled
from kleiber.scaling.fitting.result import Estimate, FitResult, read_fits, without_nan
from kleiber.scaling.forecasting.allocation import Demand, allocate
from kleiber.scaling.forecasting.best_setting import BestSetting, best_settings
from kleiber.scaling.forecasting.chain import AccuracyForecast, chained, fit_accuracy
from kleiber.scaling.forecasting.derived import DERIVED, with_derived
from kleiber.scaling.forecasting.flops_rule import FlopsRule, counted_rule, plain_rule
from kleiber.scaling.forecasting.forecast import (
    Forecast,
    check_same_runs,
    combined_forecast,
    combined_forecasts,
    form_weights,
)
from kleiber.scaling.forecasting.rolling import Protection, protect, read_protection
from kleiber.scaling.forecasting.track_record import read_track_record
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import read_table
from kleiber.scaling.table.warned import TableError, TableWarning, noted_warnings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AnyLaw = str | Law | Callable[..., Any]
"""The id of a law of `kb.laws`, a law, the user's own as "my_laws.py:my_law", or as a function."""
COUNTS = {"num_params_total", "num_tokens", "num_unique_tokens"}
PerParamToken = float | Literal["counted"]
Protect = Literal["rolling_origin", "none"]


@dataclass(frozen=True)
class Fitted:
    """Laws fitted to the same runs. The first gives constants, optimum and figures; all forecast together."""

    analysis: Analysis
    warnings: tuple[str, ...] = ()
    """What was odd about the table."""
    accuracy: FitResult | None = None
    """The law of accuracy by loss, where a column was mapped to accuracy."""

    @property
    def fits(self) -> tuple[FitResult, ...]:
        """Each law's fit, with residuals, covariance and all."""
        return self.analysis.fits

    @property
    def constants(self) -> Mapping[str, Estimate]:
        """Constants of the first law by name: estimate, standard_error, interval_95, withheld (a reason, or None)."""
        return self.fits[0].parameters

    def forecast(
        self,
        *,
        flops: float | None = None,
        reach: float | None = None,
        level: float = 0.9,
        protect: Protect = "rolling_origin",
        **columns: float,
    ) -> Forecast:
        """Returns the loss of one new run: predicted_loss, interval, level, and in `parts` where its width comes from.

        Args:
          flops, reach: for the best run of a budget, or to a loss, as `optimum` finds it.
          level: probability that the interval holds the loss of the new run.
          protect: "none" for an interval as wide as the fits themselves say, without what the table's own forecasts
            of its dearer runs tell of such intervals.
          **columns: the run by the columns of the law: num_params_total=7e9, num_tokens=1.4e11.

        Raises:
          ValueError: a column of the law that is missing or none of it, or numbers that make no sense.
        """
        needed = {name for each in self.fits for name in each.definition.variable_names}
        if flops is not None and "flops" in needed and needed <= {*columns, "flops"}:
            columns, flops = {**columns, "flops": flops}, None
        if flops is not None or reach is not None:
            columns = {**self.optimum(flops=flops, reach=reach, level=level).columns, **columns}
        elif unknown := [name for name in columns if name not in needed | COUNTS | {*DERIVED}]:
            raise ValueError(f"law {self.fits[0].law} knows no {unknown[0]!r}; it needs {', '.join(sorted(needed))}.")
        return self._forecast(columns, level, protect)

    def _forecast(self, run: dict[str, float], level: float, protect: Protect) -> Forecast:
        size, tokens = run.pop("num_params_total", None), run.pop("num_tokens", None)
        protection = None if protect == "none" else self.analysis.protection
        found = combined_forecast(self.fits, size, tokens, level, run, protection)
        return replace(found, accuracy=_accuracy(self.accuracy, found)) if self.accuracy else found

    def forecast_table(
        self, points: Any, *, level: float = 0.9, protect: Protect = "rolling_origin", **columns: str
    ) -> dict[str, np.ndarray]:
        """Returns the points' columns, and after them for each row predicted_loss, interval_low, interval_high,
        standard_error, compute_ratio and alarms (why the interval may not hold; "" for none), arrays [points]; of a fit
        with accuracies accuracy, accuracy_low and accuracy_high too.

        Args:
          points: one row a run nobody has trained yet, as the data of `fit`.
          level, protect: as for `forecast`.
          **columns: our names to the table's, as for `fit`.

        Raises:
          TableError, ValueError: what is wrong with the table, or a column that the law lacks.
        """
        table = read_table(points, columns)
        needed = {name for each in self.fits for name in each.definition.variable_names}
        have = with_derived({name: table[name] for name in table.names if name in needed | COUNTS | {*DERIVED}})
        table.need([name for name in needed if name not in have])  # raises, naming them
        found = combined_forecasts(self.fits, have, level, None if protect == "none" else self.analysis.protection)
        out = {
            "predicted_loss": found.predicted_loss,
            "interval_low": found.low,
            "interval_high": found.high,
            "standard_error": found.standard_error,
            "compute_ratio": found.compute_ratio,
            "alarms": np.array(["; ".join(each) for each in found.alarms]),
        }
        if link := self.accuracy:
            kind, parts = (
                self.fits[0].measure.kind,
                (found.predicted_loss, found.standard_error, found.degrees_of_freedom),
            )
            accuracies = [chained(link, *each, level, kind) for each in zip(*parts, strict=True)]
            out["accuracy"] = np.array([each.predicted_accuracy for each in accuracies])
            out["accuracy_low"], out["accuracy_high"] = np.array([each.interval for each in accuracies]).T
        given = {name: table.columns[name] if name in table.columns else table.labels[name] for name in table.names}
        return {**given, **out}

    def learning_from(self, *ledgers: str | Path) -> "Fitted":
        """Returns the same fit with intervals that know how far earlier forecasts of the same recipe were off.

        Args:
          *ledgers: files of `kleiber ledger`, such as the ledger.jsonl of earlier sweeps: all that are to be heard.

        Raises:
          ValueError: one is missing, was tampered with or holds no outcome that counts; or the fit is unprotected.
        """
        if self.analysis.protection is None:
            raise ValueError("this fit's intervals are unprotected, so that there is nothing to learn about: fit anew.")
        heard = read_track_record(ledgers).heard_by(self.analysis.protection)
        return replace(self, analysis=replace(self.analysis, protection=heard))

    def optimum(
        self,
        *,
        flops: float | None = None,
        reach: float | None = None,
        inference_tokens: float = 0.0,
        unique_tokens: float | None = None,
        flops_per_param_token: PerParamToken = 6.0,
        level: float = 0.9,
    ) -> Best:
        """Returns the run of least loss for a budget of `flops`, or of fewest FLOPs that reaches a loss (`reach`).

        Args:
          inference_tokens: tokens it will serve over its life; they cost FLOPs too.
          unique_tokens: distinct training tokens there are, for laws that know repeated data.
          flops_per_param_token: training FLOPs per parameter and token, or "counted" as the runs' column flops says.
          level: probability of the intervals of parameters and tokens.

        Raises:
          ValueError: both or neither of flops and reach, or a law without such a run.
        """
        fit, rule = self.fits[0], flops_rule(self.fits[0], flops_per_param_token)
        found = asdict(allocate(fit, Demand(flops, reach, inference_tokens, unique_tokens, rule), level))
        found["flops"] = flops or found["training_flops"] + found["inference_flops"]
        del found["training_flops"]
        del found["predicted_loss"]
        return Best(**found, flops_rule=rule.text)

    def best(self, *names: str, level: float = 0.9, **run: float) -> tuple[BestSetting, ...]:
        """Returns the level of each named variable of the law at which a run has its least loss, with its interval:
        law.best("learning_rate", num_params_total=7e9, num_tokens=1.4e11) of a law of kind basin_scaled.

        Args:
          *names: one or several, found together.
          level: probability of the intervals.
          **run: the law's other columns.

        Raises:
          ValueError: a name that the law lacks, a column that is missing, or no best level near those fitted.
        """
        return best_settings(self.fits[0], names, run, level)

    def bootstrap(self, kind: str = "rows", *, count: int = 400, seed: int = 0) -> Bootstrap:
        """Returns the first law's constants fitted again to draws of its runs, with their percentile intervals.

        Args:
          kind: what is drawn: "rows", "clusters" of a fit with a cluster column, all rows of one together, or "noise",
            other losses of the same runs from the law and its noise.
          count: how many draws.
          seed: of the draw.

        Raises:
          ValueError: another kind, clusters of a fit without, or runs too few to be drawn from.
        """
        return resampled(self.fits[0], kind, count, seed)

    def plot(self, name: str = "surface") -> "Figure":
        """Returns a figure of the first law: surface, residuals, frontier, exponents or profiles.

        Raises:
          ValueError: the fit has no such figure; says which it has.
        """
        from kleiber.scaling.figures.table import figures_of

        figures = figures_of(self.fits[0])
        if name not in figures:
            raise ValueError(f"this fit has no figure {name!r}; it has {', '.join(figures)}.")
        figure = figures[name]()

        def picture() -> bytes:
            figure.savefig(file := io.BytesIO(), format="png", dpi=130)
            return file.getvalue()

        figure._repr_png_ = picture  # type: ignore[attr-defined]  # a notebook shows it, with no backend chosen
        return figure

    def report(self) -> str:
        """Returns everything found, as text."""
        return self.analysis.report() + (f"\n\n{self.accuracy.report()}" if self.accuracy else "")

    def to_json(self) -> dict[str, Any]:
        """Returns everything found as plain JSON values, with the keys of `kleiber fit --json` (docs/json.md)."""
        link = {"accuracy": self.accuracy.to_json()} if self.accuracy else {}
        return without_nan({**self.analysis.to_json(self.warnings), **link})

    def save(self, path: str | Path) -> None:
        """Writes the JSON that `read_fit` and `kleiber forecast` read."""
        write_json(Path(path), self.to_json())

    def __repr__(self) -> str:
        return self.report()

    def _repr_markdown_(self) -> str:
        """Returns constants and alarms as a notebook shows them."""
        lines = []
        for fit in self.analysis.told:
            rms = f"{fit.residual_rms:{fit.measure.size_format}}"
            lines += [f"**{fit.law}** `{fit.definition.formula}`: {fit.num_points} runs, residual rms {rms}"]
            lines += ["", "| constant | estimate | 95% interval |", "|---|---|---|"]
            for name, each in fit.parameters.items():
                low, high = each.interval_95
                shown = f"{each.estimate:.5g} | " + ("fixed" if each.fixed else f"{low:.5g} to {high:.5g}")
                lines.append(f"| {name} | {f'withheld | {each.withheld}' if each.withheld else shown} |")
            lines += ["", *(f"- {alarm}" for alarm in fit.identifiability.alarms), ""]
        lines += [f"- {alarm}" for alarm in (self.analysis.protection.alarms if self.analysis.protection else ())]
        return "\n".join(lines)


def _accuracy(link: FitResult, found: Forecast) -> AccuracyForecast:
    return chained(
        link,
        found.predicted_loss,
        found.standard_error,
        degrees=found.degrees_of_freedom,
        level=found.level,
        kind=found.residual_kind,
    )


def flops_rule(fit: FitResult, per: PerParamToken) -> FlopsRule:
    """Returns what training costs: FLOPs per parameter and token, or "counted" as the fitted runs say."""
    return counted_rule(fit) if per == "counted" else plain_rule(per)


def fit(
    data: Any,
    law: AnyLaw | Sequence[AnyLaw] | None = None,
    *,
    cluster: str | None = None,
    objective: str = "gaussian",
    delta: float | None = None,
    drop: str | None = None,
    fix: Mapping[str, float | str] | None = None,
    starts: int = 16,
    in_depth: bool = False,
    protect: Protect = "rolling_origin",
    residuals: str = "log",
    weights: str | None = None,
    **columns: str,
) -> Fitted:
    """Returns laws fitted to the losses of runs, with intervals, noise and an identifiability report.

    Args:
      data: one row a run: a DataFrame (pandas, polars), an Arrow table, a dict of arrays [runs], or the path of a .csv,
        .tsv, .jsonl, .json or .parquet file or of a sweep's directory.
      law: one law or several to compare; see `AnyLaw`. Without it chinchilla is fitted, and four rival forms with it:
        which is right decides a forecast, and a table can hardly tell.
      cluster: column whose equal values share a trunk: their noise is correlated.
      objective: "gaussian", "huber" or "student", summed over the residuals.
      delta: Huber's turning point or the scale of Student's t; from the residuals if left out.
      drop: leave out rows, as "epochs > 1 or tokens / params < 0.4".
      fix: constants held at a value, in the units of the columns, or tied to another: {"beta": "alpha"}.
      starts: starts followed to a minimum, the best of a grid.
      in_depth: also rolling origin, local exponents and the three approaches, as `kleiber fit` does.
      protect: whether intervals of forecasts take in how well the table's dearer runs are forecast from its cheaper
        ones, and what no fit shows of runs beyond it; "none" leaves them as wide as the fits themselves say.
      residuals: differences of "log", "relative", "raw" (losses may be negative) or "logit" (between 0 and 1) losses.
      weights: column of standard errors of the losses; one mapped to loss_standard_error is used by itself.
      **columns: our names to the table's, or to formulas of its columns: loss="val_loss", num_tokens="tokens_b*1e9".
        With accuracy="acc", of the task whose loss it is, the law of accuracy by loss is fitted too, and forecasts
        tell of both; `fix` takes its constants as well (chance).

    Raises:
      TableError: what is wrong with the table (a ValueError, as all of these).
      ValueError: an unknown law, objective or constant, or a law of the user's own that cannot be used.
      FitFailedError: no start reaches a finite minimum.
    """
    common: dict[str, Any] = {"cluster": cluster, "objective": objective, "delta": delta, "starts": starts}
    of_accuracy = get_law("accuracy").names if "accuracy" in columns else ()
    held = {name: value for name, value in (fix or {}).items() if name not in of_accuracy}
    try:
        with noted_warnings() as noted:
            laws = [] if law is None else [get_law(each) for each in _several(law)]
            needed = [name for each in laws for name in each.variable_names]
            table = named_for_laws(read_table(data, columns, drop), needed)
            found = analyse(
                table,
                laws,
                fixed=held,
                in_depth=in_depth,
                is_protected=protect != "none",
                residuals=residuals,
                weights=weights,
                **common,
            )
            chance = {name: value for name, value in (fix or {}).items() if name in of_accuracy}
            link = fit_accuracy(table, fixed=chance, **common) if of_accuracy else None
    except TableError as mistake:
        if said := _in_python(str(mistake)):
            mistake.add_note(said)
        raise
    finally:
        for message in noted:
            warnings.warn(message, TableWarning, stacklevel=2)
    return Fitted(found, tuple(noted), link)


def _several(law: AnyLaw | Sequence[AnyLaw]) -> list[AnyLaw]:
    return [law] if isinstance(law, str | Law) or callable(law) else list(law)


def _in_python(message: str) -> str:
    """Returns the options that a message advises as arguments of `fit`; "" if it advises none."""
    arguments = []
    for option, quoted, plain in re.findall(r"--(columns|drop) (?:'([^']*)'|([\w=,.*]+\w))", message):
        parts = (quoted or plain).split(",") if option == "columns" else [f"drop={quoted or plain}"]
        arguments += [f"{name}={value!r}" for name, _, value in (part.partition("=") for part in parts)]
    return f"In Python: kb.fit(..., {', '.join(arguments)})" if arguments else ""


def read_fit(path: str | Path, law: AnyLaw | Sequence[AnyLaw] = ()) -> Fitted:
    """Returns the fit that `Fitted.save`, `kleiber fit --json` or a sweep wrote.

    Args:
      path: the JSON file, or a sweep's directory.
      law: the user's own law that was fitted, given again; otherwise it is run from the file that the fit names, if
        that is unchanged.

    Raises:
      FileNotFoundError: there is no fit.
      ValueError: it is not one, or its own law is not there or has changed.
    """
    fits, data = read_fits(path, [get_law(each) for each in _several(law)])
    noted = data.get("fits", [data])[0].get("warnings", ())
    found = _as_read(fits, read_protection(data, fits), "fits" not in data, noted)
    return replace(found, accuracy=FitResult.from_json(data["accuracy"])) if data.get("accuracy") else found


def together(parts: Sequence[Fitted]) -> Fitted:
    """Returns fits of the same runs as one; ValueError if they are not."""
    if len(parts) == 1:
        return parts[0]
    fits = tuple(each for part in parts for each in part.fits)
    check_same_runs(fits)
    found = _as_read(fits, protect(fits), False, dict.fromkeys(each for part in parts for each in part.warnings))
    return replace(found, accuracy=parts[0].accuracy)


def _as_read(
    fits: tuple[FitResult, ...], protection: Protection | None, is_default: bool, noted: Iterable[str]
) -> Fitted:
    nothing = (LEFT_OUT,) * len(fits)
    weights = tuple(form_weights(fits))
    return Fitted(Analysis(fits, weights, LEFT_OUT, protection, nothing, nothing, is_default), tuple(noted))
