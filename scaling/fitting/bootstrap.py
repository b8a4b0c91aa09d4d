"""The bootstrap, parametric, of rows or of clusters: a cross-check of the default intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.scaling.fitting.noise import make_clusters
from kleiber.scaling.fitting.refit import Refits, fit_many, simulate_losses
from kleiber.scaling.fitting.result import FitResult

KINDS = ("rows", "clusters", "noise")
MOST_FAILED = 0.2
"""Share of the draws that may fail before their spread says nothing."""


def parametric_bootstrap(fit: FitResult, count: int = 1000, seed: int = 0) -> Refits:
    """Returns refits of losses drawn from the fitted law and its noise, trunks included.

    Args:
      fit: by squares.
      count: how many sets of losses.
      seed: of the draw.

    Raises:
      ValueError: for a fit by another objective.
    """
    if fit.objective_name != "gaussian":
        raise ValueError(f"a parametric bootstrap needs a fit by squares, this one used {fit.objective_name}.")
    cluster = None if fit.clusters is None else np.array(fit.clusters)
    losses = simulate_losses(fit.scaled, fit.z, count, seed, sigma=fit.noise.sigma, tau=fit.noise.tau, cluster=cluster)
    return fit_many(fit.scaled, losses, fit.z[None], cluster=cluster)


@dataclass(frozen=True)
class Bootstrap:
    """A law fitted again to draws of its own runs."""

    law: str
    kind: str
    """What was drawn: "rows" with replacement, or "clusters", all rows of one together, or new "noise" on the law."""
    count: int
    seed: int
    num_failed: int
    """Draws that could not carry the law; they are left out."""
    constants: Mapping[str, np.ndarray]
    """float64 [draws that did not fail] by name."""

    @property
    def intervals_95(self) -> dict[str, tuple[float, float]]:
        """The interval of each constant between its percentiles."""
        ends = {name: np.quantile(values, [0.025, 0.975]).tolist() for name, values in self.constants.items()}
        return {name: (low, high) for name, (low, high) in ends.items()}

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        parameters = {
            name: {"standard_error": float(np.std(values, ddof=1)), "interval_95": list(self.intervals_95[name])}
            for name, values in self.constants.items()
        }
        about = {"law": self.law, "kind": self.kind, "count": self.count, "seed": self.seed}
        return {**about, "num_failed": self.num_failed, "parameters": parameters}

    def report(self) -> str:
        """Returns the intervals as text."""
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        lines = [f"{self.law}: {self.count} draws of {self.kind}, seed {self.seed}{failed}"]
        lines += [f"  {name:<8} 95% [{low:.5g}, {high:.5g}]" for name, (low, high) in self.intervals_95.items()]
        return "\n".join(lines)

    __repr__ = report


def resampled(fit: FitResult, kind: str = "rows", count: int = 400, seed: int = 0) -> Bootstrap:
    """Returns the constants of a law fitted again, with the same objective, to draws of its runs with replacement,
    or of its noise.

    Args:
      fit: by any objective; its clusters keep their random effect, each draw of one being a cluster of its own.
      kind: "rows", "clusters", or "noise": other losses for the same runs, from the fitted law and its noise.
      count: how many draws.
      seed: of the draw.

    Raises:
      ValueError: an unknown kind or count, clusters of a fit that has none, or more than a fifth of the draws failing.

    Source: Efron 1979; of clusters, Davison and Hinkley 1997, section 3.8. Of few runs percentiles are short.
    """
    if kind not in KINDS or count < 2:
        raise ValueError(f"a bootstrap draws {', '.join(KINDS)}, twice or more; got {kind!r}, count {count}.")
    if kind == "clusters" and fit.clusters is None:
        raise ValueError("there are no clusters to draw: fit with a cluster column that repeats (--cluster run_id).")
    z = parametric_bootstrap(fit, count, seed).z if kind == "noise" else _refits(fit, kind, count, seed)
    z = z[np.isfinite(z).all(axis=1)]
    if len(z) < (1 - MOST_FAILED) * count:
        raise ValueError(f"{count - len(z)} of {count} draws of {kind} cannot carry the law {fit.law}: too few runs.")
    values = fit.scaled.reported(z)
    return Bootstrap(fit.law, kind, count, seed, count - len(z), {name: values[name] for name in fit.scaled.free})


def _refits(fit: FitResult, kind: str, count: int, seed: int) -> np.ndarray:
    """Returns the working points [count, P] of draws of rows or clusters; NaN where a draw cannot carry the law."""
    clusters = make_clusters(np.arange(fit.num_points) if fit.clusters is None else np.array(fit.clusters))
    members = np.split(np.argsort(clusters.index, kind="stable"), np.cumsum(clusters.sizes)[:-1])
    losses, rng = fit.measure.of(fit.points["loss"]), np.random.default_rng(seed)
    is_shared = fit.clusters is not None and fit.objective_name == "gaussian" and not fit.intervals_only
    points = []
    for _ in range(count):
        if kind == "clusters":
            drawn = [members[each] for each in rng.integers(0, clusters.count, clusters.count)]
            rows, labels = np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(each) for each in drawn])
        else:
            rows = rng.integers(0, fit.num_points, fit.num_points)
            labels = clusters.index[rows]
        shared = labels if is_shared else None
        found = fit_many(fit.scaled.on(rows), losses[None, rows], fit.z[None], cluster=shared, objective=fit.summed)
        points.append(np.where(np.isfinite(found.cost[0]), found.z[0], np.nan))
    return np.array(points)
