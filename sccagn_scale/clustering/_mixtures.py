"""Mixtures of Gaussians whose covariances are shrunk towards their mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sccagn_scale.clustering._labels import by_size
from sccagn_scale.clustering._ward import WardClusters

_FITTED_ON = 50_000
_ROUNDS = 100
_TOLERANCE = 1e-4
_BLOCK = 65_536
_WHITENED = 250_000  # numbers held at once


class _Components(NamedTuple):
    """K Gaussians in d dimensions."""

    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, d]
    whitening: np.ndarray  # [K, d, d], inverse Cholesky factors of the covariances


class Mixtures:
    """Clusterings by mixtures of so many Gaussians as are wanted, each started from Ward's clusters of the same tree.

    See `shrunk_mixture`.

    Parameters
    ----------
    points
        [n_obs, d].
    shrinkage
        Strength, above 0.
    random_state
        Seed of every one.
    """

    def __init__(self, points: np.ndarray, *, shrinkage: float = 1.0, random_state: int = 0) -> None:
        self.points, self._shrinkage, self._seed = points, shrinkage, random_state
        self._ward = WardClusters(points, random_state)

    @property
    def most(self) -> int:
        """Most components there can be, unless more are asked for."""
        return self._ward.n_leaves

    def into(self, n_clusters: int) -> np.ndarray:
        """Find labels int64 [n_obs], 0 the largest; Ward's, should a component lose all its points."""
        labels = self.at_most(n_clusters)
        return labels if labels.max() + 1 == n_clusters else self._ward.into(n_clusters)

    def at_most(self, n_clusters: int) -> np.ndarray:
        """The same, but of fewer clusters then."""
        start = self._ward.into(n_clusters)
        return by_size(shrunk_mixture(self.points, start, shrinkage=self._shrinkage, random_state=self._seed))


def shrunk_mixture(
    points: np.ndarray, labels: np.ndarray, *, shrinkage: float = 1.0, random_state: int = 0
) -> np.ndarray:
    """Refine a clustering by a mixture of Gaussians, each of its own, shrunk covariance.

    Types differ in spread and shape, which Ward's criterion and k-means know nothing of: they split the widest. Free
    covariances overfit the rare ones. Between the two, the covariance of a component with n_k points is estimated as

        Σ_k = (S_k + m Σ) / (n_k + m),    m = shrinkage · n / K

    where S_k is its scatter and Σ the covariance within components, over all of them: with `shrinkage` 1 a component of
    average size has half of its own and half of the common one. That is the posterior mode under an inverse-Wishart
    prior around Σ of m degrees of freedom (Fraley & Raftery 2007), found by expectation and maximisation from `labels`.
    Beyond 50,000 points, that many of them are drawn for it.

    Parameters
    ----------
    points
        [n, d].
    labels
        Where to start: int [n], every one of 0 … K − 1 present.
    shrinkage
        Strength, above 0.
    random_state
        Seed of the draw.

    Returns
    -------
    The likeliest component of each point, int64 [n], numbered as in `labels`; some may have none.
    """
    n_clusters = int(labels.max()) + 1
    fitted, start = points, labels
    if len(points) > _FITTED_ON:
        rows = np.sort(np.random.default_rng(random_state).choice(len(points), _FITTED_ON, replace=False))
        fitted, start = points[rows], labels[rows]
    origin = fitted.mean(axis=0, dtype=np.float64)
    x = fitted - origin
    ridge = np.finfo(np.float32).eps * x.var(axis=0).sum()
    if ridge == 0:
        return labels.astype(np.int64)
    shares = np.zeros((len(x), n_clusters))
    shares[np.arange(len(x)), start] = 1.0
    before = -np.inf
    for _ in range(_ROUNDS):
        components = _maximize(x, shares, ridge, shrinkage)
        joint = _log_joint(x, components)
        largest = joint.max(axis=1, keepdims=True)
        shares = np.exp(joint - largest)
        total = shares.sum(axis=1, keepdims=True)
        shares /= total
        likelihood = float((largest + np.log(total)).mean())
        if likelihood - before < _TOLERANCE:
            break
        before = likelihood
    if fitted is points:
        return joint.argmax(axis=1)
    blocks = (points[i : i + _BLOCK] - origin for i in range(0, len(points), _BLOCK))
    return np.concatenate([_log_joint(block, components).argmax(axis=1) for block in blocks])


def _maximize(x: np.ndarray, shares: np.ndarray, ridge: float, shrinkage: float) -> _Components:
    """Estimate the components from the points [n, d] and each one's share in them [n, K]."""
    n, n_clusters = shares.shape
    sizes = shares.sum(axis=0) + np.finfo(np.float64).tiny
    means = (shares.T @ x) / sizes[:, None]
    squares = np.array([_squares(x, share) for share in shares.T])
    scatters = squares - sizes[:, None, None] * means[:, :, None] * means[:, None]
    common = scatters.sum(axis=0) / n + ridge * np.eye(x.shape[1])
    strength = shrinkage * n / n_clusters
    covariances = (scatters + strength * common) / (sizes + strength)[:, None, None]
    return _Components(sizes / n, means, np.linalg.inv(np.linalg.cholesky(covariances)))


def _squares(x: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Σ_i share_i x_i x_iᵀ [d, d]. Most points belong to one component or two: shares lost in rounding are left out."""
    rows = np.flatnonzero(share > np.finfo(np.float64).eps)
    own = x[rows]
    return (own * share[rows, None]).T @ own


def _log_joint(x: np.ndarray, components: _Components) -> np.ndarray:
    """log π_k N(x; µ_k, Σ_k) but for a constant, [n, K]."""
    weights, means, whitening = components
    n_clusters, d, _ = whitening.shape
    every = whitening.reshape(-1, d).T  # of all components, for one product
    centers = np.einsum("kij,kj->ki", whitening, means).ravel()
    distances = np.empty((len(x), n_clusters))
    block = max(1, _WHITENED // every.shape[1])
    for i in range(0, len(x), block):
        away = x[i : i + block] @ every
        away -= centers
        away = away.reshape(-1, n_clusters, d)
        np.einsum("nkd,nkd->nk", away, away, out=distances[i : i + block])
    return np.log(weights) + np.log(np.diagonal(whitening, axis1=1, axis2=2)).sum(axis=1) - 0.5 * distances
