"""Noise of log losses: independent errors, and a random effect shared by the points of one trunk."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kleiber.scaling.fitting.objective import Influence

ALIKE = 3.0
"""Autocorrelation, in standard errors, from which on the rows of a trunk do not just share one effect."""
DRAWN = 0.05
"""How far the squared error of a run that alone decides a constant is drawn to that of all."""
RATIOS = np.exp(np.linspace(np.log(1e-3), np.log(1e4), 25))
"""Trial values of tau^2 / sigma^2."""


@dataclass(frozen=True)
class RunNoise:
    """Standard deviations of log loss, so 0.005 is half a per cent."""

    sigma: float
    """Of a point by itself: seed, data order."""
    tau: float = 0.0
    """Shared by the points of one trunk (branches of one run, intermediate checkpoints)."""
    evaluation: float = 0.0
    """Of measuring one loss on a finite validation set."""

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.tau >= 0 and self.evaluation >= 0):
            raise ValueError(f"noise needs sigma > 0 and tau, evaluation >= 0, got {self}.")

    @property
    def point(self) -> float:
        """Of one measured point apart from its trunk."""
        return float(np.hypot(self.sigma, self.evaluation))

    @property
    def new_run(self) -> float:
        """Of one new run on a trunk of its own, measured once."""
        return float(np.hypot(self.point, self.tau))


@dataclass(frozen=True)
class Clusters:
    """Which rows share a trunk."""

    index: np.ndarray
    """int [runs], the cluster of each row, 0 .. count - 1."""
    sizes: np.ndarray
    """int [count]."""

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.sizes)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.index, kind="stable")

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Returns the sums within each cluster, [b, count, ...] of values [b, runs, ...]."""
        first = np.cumsum(self.sizes) - self.sizes
        return np.add.reduceat(values[:, self._order], first, axis=1)


def autocorrelation(residual: np.ndarray, clusters: Clusters, order: np.ndarray) -> np.ndarray:
    """Returns how much more alike neighbours within a cluster are than its rows in general, in standard errors [b].

    Args:
      residual: float64 [b, runs].
      clusters: of the runs.
      order: [runs], by which rows of a cluster are neighbours.
    """
    left = residual - (clusters.sums(residual) / clusters.sizes)[:, clusters.index]
    place = np.lexsort((order, clusters.index))
    left, index = left[:, place], clusters.index[place]
    pairs, degrees = index[1:] == index[:-1], int((clusters.sizes - 1).sum())
    if not degrees:
        return np.zeros(len(residual))
    variance = np.maximum((left**2).sum(axis=1) / degrees, 1e-300)
    found = (left[:, 1:] * left[:, :-1])[:, pairs].sum(axis=1) / variance
    return (found + ((clusters.sizes - 1) / clusters.sizes).sum()) / np.sqrt(degrees)


def make_clusters(labels: np.ndarray) -> Clusters:
    """Returns the clusters of rows with equal labels [runs]."""
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return Clusters(index.ravel(), sizes)


def whiten(values: np.ndarray, clusters: Clusters, ratio: np.ndarray) -> np.ndarray:
    """Returns values [b, runs] or [b, runs, P] turned so that their errors are independent and of variance sigma^2.

    With a shared effect of variance ratio r, a row loses the share 1 - (1 + n r)^(-1/2) of its cluster's mean.

    Args:
      values: float64, residuals or derivatives.
      clusters: of the runs.
      ratio: float64 [b], tau^2 / sigma^2 of each problem.
    """
    share = (1 - 1 / np.sqrt(1 + np.asarray(ratio)[:, None] * clusters.sizes)) / clusters.sizes
    lost = share.reshape(*share.shape, *(1,) * (values.ndim - 2)) * clusters.sums(values)
    return values - lost[:, clusters.index]


@dataclass(frozen=True)
class Sums:
    """Cross products of the derivatives and the residual, of which every whitening needs only a combination."""

    total: np.ndarray
    """float64 [b, P + 1, P + 1], over all runs; the residual comes last."""
    by_cluster: np.ndarray
    """float64 [b, clusters, P + 1], sums within each cluster."""


def cross_products(residual: np.ndarray, jacobian: np.ndarray, clusters: Clusters) -> Sums:
    """Returns the sums for residuals [b, runs] and derivatives [b, runs, P]."""
    both = np.concatenate([jacobian, residual[..., None]], axis=2)
    return Sums(np.matmul(np.swapaxes(both, 1, 2), both), clusters.sums(both))


def restricted_likelihood(sums: Sums, clusters: Clusters, ratio: np.ndarray) -> np.ndarray:
    """Returns the restricted log likelihood [b] of tau^2 / sigma^2 [b], sigma profiled out.

    Zero derivatives, of coordinates at a bound, are ignored.
    """
    # The inverse covariance of a cluster of n is 1 - r / (1 + n r) times a matrix of ones.
    share = ratio[:, None] / (1 + ratio[:, None] * clusters.sizes)
    gram = sums.total - np.matmul(np.swapaxes(sums.by_cluster, 1, 2), share[..., None] * sums.by_cluster)
    size = np.sqrt(np.maximum(np.einsum("bpp->bp", gram), 0.0))
    used = size[:, :-1] > 0
    size[:, :-1] = np.where(used, size[:, :-1], 1.0)
    normal = gram[:, :-1, :-1] / (size[:, :-1, None] * size[:, None, :-1])
    index = np.arange(normal.shape[1])
    normal[:, index, index] += np.where(used, 1e-13, 1.0)
    moment = gram[:, :-1, -1] / size[:, :-1]
    fitted = np.einsum("bp,bp->b", moment, np.linalg.solve(normal, moment[..., None])[..., 0])
    left = np.maximum(gram[:, -1, -1] - fitted, 1e-300)
    degrees = clusters.sizes.sum() - used.sum(axis=1)
    _, log_normal = np.linalg.slogdet(normal)
    log_normal = log_normal + 2 * np.log(size[:, :-1]).sum(axis=1)
    log_scale = np.log1p(ratio[:, None] * clusters.sizes).sum(axis=1)
    return -0.5 * (degrees * np.log(left / degrees) + log_scale + log_normal)


def estimate_ratio(residual: np.ndarray, jacobian: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Returns tau^2 / sigma^2 of each problem [b] by restricted maximum likelihood, kept off zero.

    The plain estimate is often exactly zero with few trunks, which makes intervals far too short. A weak
    prior proportional to tau keeps it inside: with much information it changes nothing, with little it leans
    to the safe side.

    Args:
      residual: float64 [b, runs], log loss minus log prediction, at any point near the optimum.
      jacobian: float64 [b, runs, P].
      clusters: of the runs.

    Source: Patterson and Thompson 1971; the prior is that of Chung et al. 2013, Psychometrika 78, section 3.
    """
    sums = cross_products(residual, jacobian, clusters)

    def value(ratio: np.ndarray) -> np.ndarray:
        return restricted_likelihood(sums, clusters, ratio) + 0.5 * np.log(ratio)

    trials = np.stack([value(np.full(len(residual), ratio)) for ratio in RATIOS])
    best = trials.argmax(axis=0)
    low = np.log(RATIOS[np.maximum(best - 1, 0)])
    high = np.log(RATIOS[np.minimum(best + 1, len(RATIOS) - 1)])
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(30):
        left, right = high - golden * (high - low), low + golden * (high - low)
        goes_left = value(np.exp(left)) > value(np.exp(right))
        low, high = np.where(goes_left, low, left), np.where(goes_left, right, high)
    return np.exp(0.5 * (low + high))


def likelihood(residual: np.ndarray, clusters: Clusters | None, ratio: float) -> tuple[float, float]:
    """Returns the maximised normal log likelihood of residuals [runs] at a given ratio, and sigma^2 at the maximum."""
    num_runs = len(residual)
    log_scale = 0.0
    if clusters is not None:
        residual = whiten(residual[None], clusters, np.array([ratio]))[0]
        log_scale = float(np.log1p(ratio * clusters.sizes).sum())
    variance = max(float(residual @ residual) / num_runs, 1e-300)
    return -0.5 * (num_runs * (np.log(2 * np.pi * variance) + 1) + log_scale), variance


def information(residual: np.ndarray, clusters: Clusters | None, ratio: float, num_free: int) -> tuple[float, float]:
    """Returns the maximised log likelihood of residuals [runs] and the AICc with `num_free` fitted constants, NaN where
    there are too few runs for one."""
    log_likelihood, _ = likelihood(residual, clusters, ratio)
    num_constants = num_free + 1 + (clusters is not None)
    left = len(residual) - num_constants - 1
    if left <= 0:
        return log_likelihood, np.nan
    return log_likelihood, 2 * num_constants * (1 + (num_constants + 1) / left) - 2 * log_likelihood


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

    def degrees_of(self, contrasts: np.ndarray, new_run: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Returns the variance and degrees of freedom [b] of many contrasts [b, P], as `degrees` of one.

        Source: Satterthwaite 1946, as used for mixed models by Giesbrecht and Burns 1985.
        """
        turned = contrasts @ self.root
        variance = ((turned @ self.metric) * turned).sum(axis=1) + new_run * float(self.variances.sum())
        slope = np.stack([((turned @ each) * turned).sum(axis=1) for each in self.slopes], axis=1) + new_run
        doubt = ((slope @ self.variance_covariance) * slope).sum(axis=1)
        plain = slope @ self.variances  # the variance is homogeneous in phi, so this is it without the addition
        known = (doubt > 0) & (plain > 0)
        return variance, np.where(known, 2 * plain**2 / np.where(known, doubt, 1.0), np.inf)


def independent_uncertainty(
    jacobian: np.ndarray, influence: Influence, free: np.ndarray, clusters: Clusters | None = None
) -> Uncertainty:
    """Returns the uncertainty of an estimate that weighs runs as if their errors were independent and equally large.

    The sandwich keeps the intervals right where noise differs from run to run, or runs of a cluster err together.

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
    drawn = min((num_free + 1) / len(unit), 1.0) * (1 - level)  # few runs near the law show the slope poorly
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
    """Returns the covariance [K, K] of unit' errors as the residuals show it, one where they are as supposed; the fewer
    the clusters, the more it is drawn to what is supposed.

    Args:
      unit: float64 [runs, K], orthonormal columns: derivatives, whitened if need be.
      residual: float64 [runs], of unit variance if all is as supposed.
      clusters: runs that err together.
      shared: part of that variance that the runs of a cluster are supposed to share.
      inverse, slope: [K, K] of the second derivatives, and psi' [runs], of objectives other than squares.
      trust: weight of what the residuals show, at least.

    Source: Bell and McCaffrey 2002 (bias-reduced linearisation), in the space of the constants.
    """
    count, num_free = len(unit), unit.shape[1]
    supposed = np.eye(num_free)
    if clusters is None or clusters.sizes.max() == 1:
        leverage = np.einsum("nk,nk->n", unit if inverse is None else unit @ inverse, unit)
        leverage = np.clip(leverage if slope is None else leverage * slope, 0, 1)
        left = np.maximum(1 - (1 - DRAWN) * leverage, 1e-9)
        squares = (residual**2 + DRAWN * leverage) / (
            left if slope is None else left**2
        )  # without a run: the jackknife
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
