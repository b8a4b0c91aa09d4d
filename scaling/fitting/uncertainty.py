"""How far a fitted working point may be off: covariance, and how well the noise behind it is known."""

from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.noise import Clusters, autocorrelation, whiten
from kleiber.scaling.fitting.objective import Influence

ALIKE = 3.0
"""Autocorrelation, in standard errors, from which on the rows of a trunk do not just share one effect."""
LEVERAGE_POWER = 1.5
"""Of what a run's leverage leaves of its squared residual, by which that is divided: 1 is right where noise is even and
short where the runs of large leverage have more of it, 2 (the jackknife) is long where it is even (MacKinnon and White
1985)."""
DRAWN = 0.05
"""How far the squared error of a run that alone decides a constant is drawn to that of all runs."""


@dataclass(frozen=True)
class Uncertainty:
    """Covariance of the working point and how well its noise is known, for one fit.

    Variances are phi = (sigma^2, tau^2), or (sigma^2,) without clusters. Everything is kept in terms of a root, so
    that a sum over a direction the runs say nothing about cancels exactly where the contrast does not touch it.
    """

    root: np.ndarray
    """float64 [P, K]; the covariance of z is root metric root'. Zero rows for coordinates at a bound."""
    metric: np.ndarray
    """float64 [K, K]: one, plus what the estimated variances add."""
    slopes: np.ndarray
    """float64 [len(phi), K, K]; root slopes root' is the derivative of the covariance by each variance."""
    variances: np.ndarray
    """float64 [len(phi)], phi."""
    variance_covariance: np.ndarray
    """float64 [len(phi), len(phi)], covariance of the estimate of phi."""

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of z, float64 [P, P]."""
        return self.root @ self.metric @ self.root.T

    def degrees(self, contrast: np.ndarray, new_run: float = 0.0) -> tuple[float, float]:
        """Returns (variance, degrees of freedom) of contrast . z plus new_run times the noise of one new run.

        Args:
          contrast: float64 [P].
          new_run: 0 or 1.
        """
        variance, degrees = self.degrees_of(contrast[None], new_run)
        return float(variance[0]), float(degrees[0])

    def degrees_of(self, contrasts: np.ndarray, new_run: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Returns the variance and degrees of freedom [b] of many contrasts [b, P], each with its own `new_run` if that
        is [b], as `degrees` of one.

        Source: Satterthwaite 1946, as used for mixed models by Giesbrecht and Burns 1985.
        """
        turned = contrasts @ self.root
        variance = ((turned @ self.metric) * turned).sum(axis=1) + new_run * float(self.variances.sum())
        slope = np.stack([((turned @ each) * turned).sum(axis=1) for each in self.slopes], axis=1)
        slope = slope + np.asarray(new_run)[..., None]
        slope = slope / np.maximum(np.abs(slope).max(axis=1, keepdims=True), 1e-300)  # degrees depend on no unit
        doubt = ((slope @ self.variance_covariance) * slope).sum(axis=1)
        plain = slope @ self.variances  # the variance is homogeneous in phi, so this is it without the addition
        known = (doubt > 0) & (plain > 0)
        return variance, np.where(known, 2 * plain**2 / np.where(known, doubt, 1.0), np.inf)


def independent_uncertainty(
    jacobian: np.ndarray, influence: Influence, free: np.ndarray, clusters: Clusters | None = None
) -> Uncertainty:
    """Returns the uncertainty of an estimate that weighs runs as if their errors were independent and equally large.

    The sandwich makes the intervals right where they are not: noise that differs from run to run, or runs of a cluster
    that err together, in whatever way.

    Args:
      jacobian: float64 [runs, P].
      influence: of the residuals.
      free: bool [P]; other coordinates are at a bound and get zero.
      clusters: runs that may err together; each by itself if left out.

    Source: Huber 1981, section 7.6; White 1980; Liang and Zeger 1986.
    """
    root = _inverse_root(jacobian, free) * influence.sigma
    unit, num_free = jacobian @ root / influence.sigma, int(free.sum())
    level = float(np.clip(influence.slope.mean(), 0.05, 1.0))
    # Where few runs are near the law they show the slope in a direction poorly, so it is drawn to that of all.
    drawn = min((num_free + 1) / len(unit), 1.0) * (1 - level)
    bread = (1 - drawn) * (unit.T * influence.slope) @ unit + drawn * level * np.eye(unit.shape[1])
    if num_free and np.linalg.eigvalsh(bread)[0] < 0.05 * level:
        bread = level * np.eye(len(bread))
    psi2 = max(float(influence.psi @ influence.psi) / max(len(jacobian) - num_free, 1), 1e-30)
    variance, shared, degrees = influence.sigma**2, 0.0, max(len(jacobian) - num_free, 1)
    if clusters is not None:
        left = influence.psi - (clusters.sums(influence.psi[None])[0] / clusters.sizes)[clusters.index]
        within = float(left @ left) / max(len(left) - clusters.count, 1) / psi2
        shared, degrees = float(np.clip(1 - within, 0, 1 - 1e-9)), max(min(degrees, clusters.count - num_free), 2)
    slope = None if (influence.slope == 1).all() else influence.slope
    meat = robust_meat(unit, influence.psi / np.sqrt(psi2), clusters, shared, np.linalg.inv(bread), slope)
    metric = np.linalg.solve(bread, np.linalg.solve(bread, meat * psi2 / variance).T)
    variances = variance * np.array([1.0] if clusters is None else [1 - shared, shared])
    slopes = np.stack([metric / variance] * len(variances))
    return Uncertainty(root, metric, slopes, variances, 2 / degrees * np.outer(variances, variances))


def robust_meat(
    unit: np.ndarray,
    residual: np.ndarray,
    clusters: Clusters | None,
    shared: float = 0.0,
    inverse: np.ndarray | None = None,
    slope: np.ndarray | None = None,
    trust: float = 0.0,
) -> np.ndarray:
    """Returns the covariance [K, K] of unit' errors as the residuals show it, one where they are as supposed.

    The squares of few clusters are a poor estimate, so it is drawn to what is supposed as the clusters come near the
    constants in number.

    Args:
      unit: float64 [runs, K], orthonormal columns: derivatives, whitened if need be.
      residual: float64 [runs], of unit variance if all is as supposed.
      clusters: runs that err together.
      shared: part of that variance that the runs of a cluster are supposed to share.
      inverse: float64 [K, K], of the second derivatives of the objective, and
      slope: float64 [runs], how the psi given as residual follows it; for objectives other than squares.
      trust: weight of what the residuals show, at least.

    Source: Bell and McCaffrey 2002 (bias-reduced linearisation), here in the space of the constants.
    """
    count, num_free = len(unit), unit.shape[1]
    supposed = np.eye(num_free)
    if clusters is None or clusters.sizes.max() == 1:
        leverage = np.einsum("nk,nk->n", unit if inverse is None else unit @ inverse, unit)
        leverage = np.clip(leverage if slope is None else leverage * slope, 0, 1)
        left = np.maximum(1 - (1 - DRAWN) * leverage, 1e-9)
        left = left ** (LEVERAGE_POWER if slope is None else 2)
        squares = (residual**2 + DRAWN * leverage) / left
        found = (unit.T * squares) @ unit
    else:
        count = clusters.count
        first, order = np.cumsum(clusters.sizes) - clusters.sizes, np.argsort(clusters.index, kind="stable")
        share = np.add.reduceat((unit[:, :, None] * unit[:, None, :])[order], first)
        sums, total = clusters.sums(unit[None])[0], clusters.sums((unit * residual[:, None])[None])[0]
        supposed = (1 - shared) * supposed + shared * sums.T @ sums
        values, vectors = np.linalg.eigh(np.eye(num_free) - (1 - DRAWN) * share)
        turn = np.einsum("gik,gk,gjk->gij", vectors, np.maximum(values, 1e-9) ** -0.5, vectors)
        found = (turn @ (total[:, :, None] * total[:, None, :] + DRAWN * share @ share) @ turn).sum(axis=0)
    trust = max(1 - (num_free + 1) / count, trust)
    return trust * found + (1 - trust) * supposed


def clustered_uncertainty(
    jacobian: np.ndarray,
    residual: np.ndarray,
    clusters: Clusters,
    variances: np.ndarray,
    free: np.ndarray,
    order: np.ndarray,
) -> Uncertainty:
    """Returns the generalised-least-squares uncertainty with a shared effect per cluster.

    The covariance includes what the estimated variances add to the error of the constants, and, as far as there are
    clusters enough to see it, how their runs really err together: checkpoints are more alike the nearer they are.

    Args:
      jacobian: float64 [runs, P], not whitened.
      residual: float64 [runs], not whitened.
      clusters: of the runs.
      variances: float64 [2], sigma^2 of a point and tau^2 of a trunk.
      free: bool [P]; other coordinates are at a bound and get zero.
      order: float64 [runs], by which the rows of a cluster are neighbours.

    Source: Kenward and Roger 1997, Biometrics 53, equation 3.
    """
    sigma2, ratio = float(variances[0]), variances[1:] / variances[0]
    root = _inverse_root(whiten(jacobian[None], clusters, ratio)[0] / np.sqrt(sigma2), free)
    unit = whiten((jacobian @ root)[None], clusters, ratio)[0] / np.sqrt(sigma2)  # orthonormal columns
    # Derivatives of the covariance of the runs by the two variances, whitened: each is `plain` times one, plus
    # `shared` [clusters] times the average over a cluster, so products and traces need no matrix of runs by runs.
    kept = 1 / (1 + ratio * clusters.sizes)
    parts = [(1 / sigma2, (kept - 1) / sigma2), (0.0, clusters.sizes * kept / sigma2)]
    gram, sums = unit.T @ unit, clusters.sums(unit[None])[0]

    def within(part: tuple[float, np.ndarray]) -> np.ndarray:
        return part[0] * gram + (sums.T * (part[1] / clusters.sizes)) @ sums

    def product(one: tuple[float, np.ndarray], other: tuple[float, np.ndarray]) -> tuple[float, np.ndarray]:
        return one[0] * other[0], one[0] * other[1] + other[0] * one[1] + one[1] * other[1]

    slopes = np.stack([within(part) for part in parts])
    information = np.empty((len(parts), len(parts)))
    for i, first in enumerate(parts):
        for j, second in enumerate(parts):
            plain, shared = product(first, second)
            trace = plain * len(unit) + shared.sum() - 2 * np.trace(within((plain, shared)))
            information[i, j] = 0.5 * (trace + np.sum(slopes[i] * slopes[j]))  # of the parts, the constants taken out
    doubt = np.linalg.pinv(information, hermitian=True)
    addition = np.zeros_like(slopes[0])
    for i, first in enumerate(parts):
        for j, second in enumerate(parts):
            addition += doubt[i, j] * (within(product(first, second)) - slopes[i] @ slopes[j])
    addition = addition + addition.T  # twice its symmetric part
    left = whiten(residual[None], clusters, ratio) / np.sqrt(sigma2)
    meat = robust_meat(unit, left[0], clusters)
    if autocorrelation(left, clusters, order)[0] > ALIKE:
        degrees = max(clusters.count - int(free.sum()), 2)
        doubt = 2 / degrees * np.outer(variances, variances)
        values, vectors = np.linalg.eigh(robust_meat(unit, left[0], clusters, trust=1.0))
        meat = (vectors * np.maximum(values, 1.0)) @ vectors.T  # in no direction less than for one shared effect
    return Uncertainty(root, meat + addition, slopes, variances, doubt)


def _inverse_root(jacobian: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Returns R [P, K] with R R' = (J'J)^-1 over the free coordinates, zero rows elsewhere."""
    used = jacobian[:, free]
    scale = np.linalg.norm(used, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    _, values, vectors = np.linalg.svd(used / scale, full_matrices=False)
    values = np.maximum(values, 1e-11 * values.max()) if values.size else values
    root = np.zeros((len(free), len(values)))
    root[free] = vectors.T / values / scale[:, None]
    return root
