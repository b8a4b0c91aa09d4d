"""Noise of log losses: independent errors, and a random effect shared by the points of one trunk."""

from dataclasses import dataclass

import numpy as np

RATIOS = np.exp(np.linspace(np.log(1e-3), np.log(1e4), 25))
"""Trial values of tau^2 / sigma^2."""


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

    def averaging(self) -> np.ndarray:
        """Returns the matrix [runs, runs] that replaces each row by the mean of its cluster."""
        same = self.index[:, None] == self.index[None, :]
        return same / self.sizes[self.index][:, None]


def make_clusters(labels: np.ndarray) -> Clusters:
    """Returns the clusters of rows with equal labels [runs]."""
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return Clusters(index.ravel(), sizes)


def whitening(clusters: Clusters, ratio: np.ndarray) -> np.ndarray:
    """Returns matrices [b, runs, runs] that make errors independent, for tau^2 / sigma^2 of each problem [b].

    With a shared effect of variance ratio r, a row loses the share 1 - (1 + n r)^(-1/2) of its cluster's mean.
    """
    sizes = clusters.sizes[clusters.index]
    share = 1 - 1 / np.sqrt(1 + np.asarray(ratio)[:, None] * sizes)
    return np.eye(len(sizes)) - share[:, :, None] * clusters.averaging()


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
    member = (clusters.index == np.arange(clusters.count)[:, None]).astype(np.float64)
    return Sums(np.matmul(np.swapaxes(both, 1, 2), both), np.matmul(member, both))


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
        residual = whitening(clusters, np.array([ratio]))[0] @ residual
        log_scale = float(np.log1p(ratio * clusters.sizes).sum())
    variance = max(float(residual @ residual) / num_runs, 1e-300)
    return -0.5 * (num_runs * (np.log(2 * np.pi * variance) + 1) + log_scale), variance


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

        Source: Satterthwaite 1946, as used for mixed models by Giesbrecht and Burns 1985.
        """
        turned = contrast @ self.root
        variance = float(turned @ self.metric @ turned) + new_run * float(self.variances.sum())
        slope = np.einsum("p,kpq,q->k", turned, self.slopes, turned) + new_run
        doubt = float(slope @ self.variance_covariance @ slope)
        plain = float(slope @ self.variances)  # the variance is homogeneous in phi, so this is it without the addition
        return variance, 2 * plain**2 / doubt if doubt > 0 and plain > 0 else np.inf


def independent_uncertainty(jacobian: np.ndarray, sigma: float, inflation: float, free: np.ndarray) -> Uncertainty:
    """Returns the uncertainty for independent errors: covariance (sigma inflation)^2 (J'J)^-1, t with n - p.

    Args:
      jacobian: float64 [runs, P].
      sigma: standard deviation of one log loss.
      inflation: of the standard errors, for objectives other than squares.
      free: bool [P]; other coordinates are at a bound and get zero.
    """
    root = _inverse_root(jacobian, free) * sigma * inflation
    one = np.eye(root.shape[1])
    degrees = max(len(jacobian) - int(free.sum()), 1)
    return Uncertainty(root, one, one[None] / sigma**2, np.array([sigma**2]), np.array([[2 * sigma**4 / degrees]]))


def clustered_uncertainty(
    jacobian: np.ndarray, clusters: Clusters, sigma2: float, tau2: float, free: np.ndarray
) -> Uncertainty:
    """Returns the generalised-least-squares uncertainty with a shared effect per cluster.

    The covariance includes what the estimated variances add to the error of the constants.

    Args:
      jacobian: float64 [runs, P], not whitened.
      clusters: of the runs.
      sigma2, tau2: variances of a point and of a trunk.
      free: bool [P]; other coordinates are at a bound and get zero.

    Source: Kenward and Roger 1997, Biometrics 53, equation 3.
    """
    turn = whitening(clusters, np.array([tau2 / sigma2]))[0] / np.sqrt(sigma2)
    root = _inverse_root(turn @ jacobian, free)
    same = (clusters.index[:, None] == clusters.index[None, :]).astype(np.float64)
    parts = [turn @ turn.T, turn @ same @ turn.T]  # derivatives of the covariance of the runs, whitened
    unit = turn @ jacobian @ root  # orthonormal columns
    slopes = np.stack([unit.T @ part @ unit for part in parts])
    projector = np.eye(len(unit)) - unit @ unit.T
    halves = [projector @ part for part in parts]
    information = 0.5 * np.array([[np.sum(a * b.T) for b in halves] for a in halves])
    doubt = np.linalg.pinv(information, hermitian=True)
    addition = np.zeros_like(slopes[0])
    for i, first in enumerate(parts):
        for j, second in enumerate(parts):
            addition += doubt[i, j] * (unit.T @ first @ second @ unit - slopes[i] @ slopes[j])
    addition = addition + addition.T  # twice its symmetric part
    return Uncertainty(root, np.eye(root.shape[1]) + addition, slopes, np.array([sigma2, tau2]), doubt)


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
