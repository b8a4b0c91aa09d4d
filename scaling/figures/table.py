"""All figures of one fit of anybody's table, written to a folder, and the figure of a ledger."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kleiber.scaling.figures import factors, law, runs
from kleiber.scaling.figures.fitted import FittedLaw
from kleiber.scaling.figures.forecast import forecast_against_truth
from kleiber.scaling.figures.study import ForecastRun, Points, cost_model
from kleiber.scaling.figures.style import claim_of
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.scaling.forecasting.scoreboard import standing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 10.0
"""Of the frontier, beyond the compute of the largest run."""
NUM_DRAWS = 200


def points_of(fit: FitResult) -> Points:
    """Returns the fitted runs as the figures take them; without counted FLOPs, 6 a parameter and token are taken."""
    params, tokens = fit.points["num_params_total"], fit.points["num_tokens"]
    trunks = fit.clusters or tuple(f"run-{index}" for index in range(fit.num_points))
    return Points(params, tokens, fit.points.get("flops", 6 * params * tokens), fit.points["loss"], trunks)


def figures_of(fit: FitResult) -> dict[str, Callable[[], "Figure"]]:
    """Returns how to draw each figure that this fit has, by name."""
    out: dict[str, Callable[[], Figure]] = {}
    if {"num_params_total", "num_tokens"} <= set(fit.scaled.law.variable_names):
        points, fitted = points_of(fit), FittedLaw(fit)
        out["surface"] = lambda: runs.fitted_surface(points, fitted.predict)
        out["residuals"] = lambda: law.residuals(points, fitted.predict)
        if fit.optimum.get("a") is not None:
            draws = fitted.draws(NUM_DRAWS)
            out["frontier"] = lambda: law.optimal_frontier(points, fitted.predict, draws, cost_model(points), REACH)
    if fit.scaled.law.quantity == "loss" and not any(each.withheld for each in fit.parameters.values()):
        out["exponents"] = lambda: factors.local_exponents(fit)
    if fit.objective_name == "gaussian":
        out["profiles"] = lambda: factors.profiles(fit)
    return out


def ledger_figure(ledger: Ledger) -> "Figure":
    """Draws every scored forecast of a ledger against its outcome, beside the baselines written down with it. Raises
    ValueError if nothing has been scored yet."""
    pairs = list(standing(ledger.entries()).values())
    entries = [entry for entry, _ in pairs]
    targets = [
        ForecastRun(
            *(entry[key] for key in ("target", "num_params_total", "num_tokens", "flops", "compute_ratio")),
            *(entry["predicted_loss"], *entry["interval"], entry["level"], (outcome or {}).get("observed_loss")),
        )
        for entry, outcome in pairs
    ]
    if not any(target.observed for target in targets):
        raise ValueError(f"{ledger.path}: no forecast has an outcome yet, so there is nothing to draw.")
    names = dict.fromkeys(name for entry in entries for name in entry.get("baselines", {}))
    rivals = {
        name: {entry["target"]: entry["baselines"][name] for entry in entries if name in entry.get("baselines", {})}
        for name in names
    }
    return forecast_against_truth(targets, rivals)


def write_figures(fit: FitResult, folder: Path) -> dict[str, str]:
    """Writes each figure as a PNG named after the law, and returns what each shows, by file name.

    Figures that the fit does not allow are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claims = {}
    for name, draw in figures_of(fit).items():
        try:
            figure = draw()
        except ValueError:
            continue
        path = folder / f"{fit.law.replace(':', '_')}_{name}.png"
        figure.savefig(path, dpi=130)
        claims[path.name] = claim_of(figure)
    return claims
