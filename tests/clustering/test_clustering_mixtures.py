"""The mixture whose covariances are shrunk: its formulas, its limits, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from planted import blobs, same_partition
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score

from sccagn_scale.clustering import Mixtures, _mixtures, ward
from sccagn_scale.clustering._mixtures import shrunk_mixture


def test_components_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    x, shares = rng.normal(size=(40, 3)), rng.dirichlet(np.ones(4), size=40)
    found = _mixtures._maximize(x, shares, ridge=0.0, shrinkage=1.0)
    sizes = shares.sum(axis=0)
    scatters = []
    for k in range(4):
        mean = sum(shares[i, k] * x[i] for i in range(40)) / sizes[k]
        np.testing.assert_allclose(found.means[k], mean)
        scatters.append(sum(shares[i, k] * np.outer(x[i] - mean, x[i] - mean) for i in range(40)))
    common = sum(scatters) / 40
    for k in range(4):
        covariance = (scatters[k] + 10 * common) / (sizes[k] + 10)
        np.testing.assert_allclose(found.whitening[k].T @ found.whitening[k], np.linalg.inv(covariance))
    np.testing.assert_allclose(found.weights, sizes / 40)


def test_densities_are_scipys_but_for_a_constant() -> None:
    rng = np.random.default_rng(0)
    x, shares = rng.normal(size=(40, 3)), rng.dirichlet(np.ones(4), size=40)
    components = _mixtures._maximize(x, shares, ridge=0.0, shrinkage=1.0)
    expected = np.column_stack(
        [
            np.log(weight) + multivariate_normal(mean, np.linalg.inv(whitening.T @ whitening)).logpdf(x)
            for weight, mean, whitening in zip(*components, strict=True)
        ]
    )
    apart = expected - _mixtures._log_joint(x, components)
    np.testing.assert_allclose(apart, apart[0, 0])


def test_densities_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, shares = rng.normal(size=(40, 3)), rng.dirichlet(np.ones(4), size=40)
    components = _mixtures._maximize(x, shares, ridge=0.0, shrinkage=1.0)
    at_once = _mixtures._log_joint(x, components)
    held_at_once: list[int] = []
    einsum = np.einsum

    def counted(what: str, *of: np.ndarray, **more: np.ndarray) -> np.ndarray:
        if what == "nkd,nkd->nk":
            held_at_once.append(of[0].size)
        return einsum(what, *of, **more)

    monkeypatch.setattr(np, "einsum", counted)
    for limit, largest in ((1, 12), (100, 96)):  # a point has 4 · 3 numbers
        monkeypatch.setattr(_mixtures, "_WHITENED", limit)
        np.testing.assert_allclose(_mixtures._log_joint(x, components), at_once, rtol=1e-12)
        assert max(held_at_once) == largest


def test_a_long_group_becomes_one() -> None:
    """Ward cuts the long group across; covariances of their own tell the groups apart."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 300)
    spread = np.array([[3.0, 0.3], [0.3, 0.3], [0.3, 0.3]])[truth]
    points = (rng.normal(size=(900, 2)) * spread + np.array([[0, 0], [0, 3], [4, 3]])[truth]).astype(np.float32)
    assert adjusted_rand_score(truth, ward(points, 3)) < 0.8
    labels = Mixtures(points).into(3)
    assert adjusted_rand_score(truth, labels) > 0.98
    np.testing.assert_array_equal(labels, Mixtures(points).into(3))


def test_a_group_of_fewer_cells_than_dimensions_stays() -> None:
    points, truth = blobs([200, 200, 3])
    assert same_partition(shrunk_mixture(points, truth), truth)


def test_equal_points_keep_the_labels_they_came_with() -> None:
    points = np.ones((20, 3), np.float32)
    np.testing.assert_array_equal(Mixtures(points).into(3), ward(points, 3))


@pytest.mark.parametrize("block", [7, 1000])
def test_a_sample_of_many_points_is_enough(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    points, truth = blobs([300, 200, 100])
    monkeypatch.setattr(_mixtures, "_FITTED_ON", 150)
    monkeypatch.setattr(_mixtures, "_BLOCK", block)
    worse = np.where(np.random.default_rng(0).random(600) < 0.2, (truth + 1) % 3, truth)
    np.testing.assert_array_equal(shrunk_mixture(points, worse), truth)
