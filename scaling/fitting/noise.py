"""Noise of log losses: independent errors, and a random effect shared by the points of one trunk."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

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
