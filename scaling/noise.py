"""Noise of log losses: independent errors, and a random effect shared by the points of one trunk."""

from dataclasses import dataclass

import numpy as np

RATIOS = np.concatenate([[0.0], np.exp(np.linspace(np.log(1e-3), np.log(1e4), 33))])
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


def restricted_likelihood(
    residual: np.ndarray, jacobian: np.ndarray, clusters: Clusters, ratio: np.ndarray
) -> np.ndarray:
    """Returns the restricted log likelihood [b] of tau^2 / sigma^2 [b], sigma profiled out.

    Args:
      residual: float64 [b, runs], log loss minus log prediction, at any point near the optimum.
      jacobian: float64 [b, runs, P]; zero columns are ignored.
    """
    num_runs = residual.shape[1]
    sizes = clusters.sizes[clusters.index]
    share = 1 - 1 / np.sqrt(1 + ratio[:, None] * sizes)
    averaging = clusters.averaging()
    both = np.concatenate([jacobian, residual[..., None]], axis=2)
    both = both - share[..., None] * np.matmul(averaging, both)
    gram = np.matmul(np.swapaxes(both, 1, 2), both)
    size = np.sqrt(np.einsum("bpp->bp", gram))
    used = size[:, :-1] > 0
    size[:, :-1] = np.where(used, size[:, :-1], 1.0)
    normal = gram[:, :-1, :-1] / (size[:, :-1, None] * size[:, None, :-1])
    index = np.arange(normal.shape[1])
    normal[:, index, index] += np.where(used, 1e-13, 1.0)
    moment = gram[:, :-1, -1] / size[:, :-1]
    fitted = np.einsum("bp,bp->b", moment, np.linalg.solve(normal, moment[..., None])[..., 0])
    left = np.maximum(gram[:, -1, -1] - fitted, 1e-300)
    free = num_runs - used.sum(axis=1)
    _, log_normal = np.linalg.slogdet(normal)
    log_normal = log_normal + 2 * np.log(size[:, :-1]).sum(axis=1)
    log_scale = np.log1p(ratio[:, None] * clusters.sizes).sum(axis=1)
    return -0.5 * (free * np.log(left / free) + log_scale + log_normal)


def estimate_ratio(residual: np.ndarray, jacobian: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Returns tau^2 / sigma^2 of each problem [b] by restricted maximum likelihood, kept off zero.

    The plain estimate is often exactly zero with few trunks, which makes intervals far too short. A weak
    prior proportional to tau keeps it inside: with much information it changes nothing, with little it leans
    to the safe side.

    Source: Patterson and Thompson 1971; the prior is that of Chung et al. 2013, Psychometrika 78, section 3.
    """

    def value(ratio: np.ndarray) -> np.ndarray:
        left = restricted_likelihood(residual, jacobian, clusters, ratio)
        return left + _log_prior(ratio, residual.shape[1])

    trials = np.stack([value(np.full(len(residual), ratio)) for ratio in RATIOS[1:]])
    best = 1 + trials.argmax(axis=0)
    low = np.log(RATIOS[np.maximum(best - 1, 1)])
    high = np.log(RATIOS[np.minimum(best + 1, len(RATIOS) - 1)])
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(30):
        left, right = high - golden * (high - low), low + golden * (high - low)
        goes_left = value(np.exp(left)) > value(np.exp(right))
        low, high = np.where(goes_left, low, left), np.where(goes_left, right, high)
    return np.exp(0.5 * (low + high))


def _log_prior(ratio: np.ndarray, num_runs: int) -> np.ndarray:
    return 0.5 * np.log(ratio / (1 + ratio))


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

    Variances are phi = (sigma^2, tau^2), or (sigma^2,) without clusters.
    """

    covariance: np.ndarray
    """float64 [P, P] of z; zero for coordinates at a bound."""
    slopes: np.ndarray
    """float64 [len(phi), P, P], derivative of the covariance by each variance."""
    variances: np.ndarray
    """float64 [len(phi)], phi."""
    variance_covariance: np.ndarray
    """float64 [len(phi), len(phi)], covariance of the estimate of phi."""

    def degrees(self, contrast: np.ndarray, new_run: float = 0.0) -> tuple[float, float]:
        """Returns (variance, degrees of freedom) of contrast . z plus new_run times the noise of one new run.

        Source: Satterthwaite 1946, as used for mixed models by Giesbrecht and Burns 1985.
        """
        variance = float(contrast @ self.covariance @ contrast) + new_run * float(self.variances.sum())
        slope = np.einsum("p,kpq,q->k", contrast, self.slopes, contrast) + new_run
        doubt = float(slope @ self.variance_covariance @ slope)
        return variance, 2 * variance**2 / doubt if doubt > 0 and variance > 0 else np.inf


def independent_uncertainty(jacobian: np.ndarray, sigma: float, inflation: float, free: np.ndarray) -> Uncertainty:
    """Returns the uncertainty for independent errors: covariance (sigma inflation)^2 (J'J)^-1, t with n - p.

    Args:
      jacobian: float64 [runs, P].
      sigma: standard deviation of one log loss.
      inflation: of the standard errors, for objectives other than squares.
      free: bool [P]; other coordinates are at a bound and get zero.
    """
    inverse = _inverse_normal(jacobian, free)
    degrees = max(len(jacobian) - int(free.sum()), 1)
    slope = inverse * inflation**2
    doubt = np.array([[2 * sigma**4 / degrees]])
    return Uncertainty(slope * sigma**2, slope[None], np.array([sigma**2]), doubt)


def clustered_uncertainty(
    jacobian: np.ndarray, clusters: Clusters, sigma2: float, tau2: float, free: np.ndarray
) -> Uncertainty:
    """Returns the generalised-least-squares uncertainty with a shared effect per cluster.

    Args:
      jacobian: float64 [runs, P], not whitened.
      sigma2, tau2: variances of a point and of a trunk.
      free: bool [P]; other coordinates are at a bound and get zero.
    """
    used = jacobian[:, free]
    same = (clusters.index[:, None] == clusters.index[None, :]).astype(np.float64)
    sizes = clusters.sizes[clusters.index]
    inverse = (np.eye(len(used)) - same * (tau2 / (sigma2 + sizes * tau2))[:, None]) / sigma2
    scale = np.linalg.norm(used, axis=0)
    solid = np.linalg.pinv((used / scale).T @ inverse @ (used / scale), hermitian=True) / np.outer(scale, scale)
    weighted = inverse @ used
    slopes = np.stack([solid @ (weighted.T @ part @ weighted) @ solid for part in (np.eye(len(used)), same)])
    projector = inverse - weighted @ solid @ weighted.T
    parts = [projector, projector @ same]
    information = 0.5 * np.array([[np.sum(a * b.T) for b in parts] for a in parts])
    index = np.ix_(free, free)
    covariance, full = np.zeros((len(free),) * 2), np.zeros((2, len(free), len(free)))
    covariance[index] = solid
    for k in range(2):
        full[k][index] = slopes[k]
    return Uncertainty(covariance, full, np.array([sigma2, tau2]), np.linalg.pinv(information, hermitian=True))


def _inverse_normal(jacobian: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Returns (J'J)^-1 [P, P] over the free coordinates, zero elsewhere."""
    used = jacobian[:, free]
    scale = np.linalg.norm(used, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    _, values, vectors = np.linalg.svd(used / scale, full_matrices=False)
    values = np.maximum(values, 1e-10 * values.max()) if values.size else values
    root = vectors.T / values / scale[:, None]
    inverse = np.zeros((len(free),) * 2)
    inverse[np.ix_(free, free)] = root @ root.T
    return inverse
