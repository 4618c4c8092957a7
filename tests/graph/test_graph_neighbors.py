"""Every kNN backend against comparing all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from sccagn_scale._errors import InputError
from sccagn_scale.graph import ALGORITHMS, Backend, Neighbors, choose_backend, neighbors, sampled_recall

BACKENDS: list[Backend] = ["exact", "hnsw", "ivf"]


def brute_force(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = cdist(points.astype(np.float64), points.astype(np.float64))
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return indices, np.take_along_axis(distances, indices, 1)


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    """5,000 points in 12 overlapping groups."""
    rng = np.random.default_rng(0)
    return (3 * rng.normal(size=(12, 10))[rng.integers(12, size=5000)] + rng.normal(size=(5000, 10))).astype(np.float32)


@pytest.fixture(scope="module")
def truth(cells: np.ndarray) -> np.ndarray:
    return np.argpartition(cdist(cells, cells), 14, axis=1)[:, :15]


@pytest.mark.parametrize("backend", ALGORITHMS)
def test_backends_find_the_true_neighbours(cells: np.ndarray, truth: np.ndarray, backend: Backend) -> None:
    found = neighbors(cells, 15, backend)
    share = recall(found.indices, truth)
    assert share >= (0.9999 if backend == "exact" else 0.95)
    assert sampled_recall(cells, found, 500) == pytest.approx(share, abs=0.01)
    exact = np.linalg.norm(cells[:, None] - cells[found.indices], axis=2)
    np.testing.assert_allclose(found.distances, exact, atol=5e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_typed_and_run_from_the_cell_itself_outwards(cells: np.ndarray, backend: Backend) -> None:
    found = neighbors(cells[:500], 7, backend)
    assert found.indices.dtype == np.int64
    assert found.distances.dtype == np.float32
    assert found.indices.shape == found.distances.shape == (500, 7)
    assert found.indices.flags.c_contiguous
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(500))
    np.testing.assert_array_equal(found.distances[:, 0], 0)
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert all(len(set(row)) == 7 for row in found.indices.tolist())


@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 10**6), st.data())
def test_exact_search_is_exact_on_a_grid(n_obs: int, d: int, seed: int, data: st.DataObject) -> None:
    """Whole numbers: float32 makes no error, and many cells coincide or are equally far."""
    points = np.random.default_rng(seed).integers(0, 4, (n_obs, d))
    k = data.draw(st.integers(2, n_obs))
    found = neighbors(points, k, "exact")
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(n_obs))
    assert all(len(set(row)) == k for row in found.indices.tolist())
    np.testing.assert_array_equal(found.distances, brute_force(points, k)[1].astype(np.float32))
    own = np.linalg.norm(points[:, None] - points[found.indices], axis=2)
    np.testing.assert_array_equal(found.distances, own.astype(np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cell_leads_its_own_row_even_among_many_twins(backend: Backend) -> None:
    """40 twins of each point and 5 neighbours: most searches do not return the cell itself."""
    points = np.repeat(np.random.default_rng(0).normal(size=(10, 4)), 40, axis=0)
    found = neighbors(points, 5, backend)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(400))
    assert all(len(set(row)) == 5 for row in found.indices.tolist())
    np.testing.assert_array_equal(found.indices // 40, np.arange(400)[:, None] // 40 * np.ones(5, int))
    np.testing.assert_allclose(found.distances, 0, atol=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_identical_cells_are_each_others_neighbours(backend: Backend) -> None:
    found = neighbors(np.zeros((100, 3)), 4, backend)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(100))
    assert ((found.indices >= 0) & (found.indices < 100)).all()
    np.testing.assert_array_equal(found.distances, 0)


def test_places_that_a_search_leaves_empty_name_the_cell_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = np.array([[1, 0, -1], [2, -1, -1], [2, 1, 0]])
    distances = np.array([[0, 0, np.inf], [3, np.inf, np.inf], [0, 3, 4]], np.float32)
    monkeypatch.setitem(ALGORITHMS, "exact", lambda points, k: (indices, distances))
    found = neighbors(np.zeros((3, 2)), 3, "exact")
    assert found.indices.tolist() == [[0, 1, 0], [1, 2, 1], [2, 1, 0]]
    assert found.distances.tolist() == [[0, 0, 0], [0, 3, 0], [0, 3, 4]]


def test_all_cells_can_be_neighbours(cells: np.ndarray) -> None:
    found = neighbors(cells[:20], 20)
    np.testing.assert_array_equal(np.sort(found.indices, axis=1), np.tile(np.arange(20), (20, 1)))


@pytest.mark.parametrize("n_neighbors", [-1, 0, 1, 21])
def test_too_few_or_too_many_neighbours_are_refused(cells: np.ndarray, n_neighbors: int) -> None:
    with pytest.raises(InputError, match=rf"`n_neighbors` must be between 2 and .*20.*it is {n_neighbors}"):
        neighbors(cells[:20], n_neighbors)


def test_cosine_sees_directions_only(cells: np.ndarray) -> None:
    points = cells[:300]
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    found = neighbors(points, 10, metric="cosine")
    assert recall(found.indices, brute_force(unit, 10)[0]) > 0.999
    np.testing.assert_allclose(found.distances[:, 1:], brute_force(unit, 10)[1][:, 1:], atol=2e-3)
    stretched = points * 2.0 ** np.random.default_rng(0).integers(-8, 8, (300, 1))
    np.testing.assert_array_equal(neighbors(stretched, 10, metric="cosine").indices, found.indices)
    assert recall(neighbors(stretched, 10).indices, found.indices) < 0.9
    assert sampled_recall(stretched, found, 300, metric="cosine") == 1.0


def test_cosine_of_a_cell_without_values_is_no_nan() -> None:
    points = np.vstack([np.zeros(3), np.eye(3)])
    assert neighbors(points, 4, metric="cosine").distances[0].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("n_obs", "backend"), [(2, "exact"), (30_000, "exact"), (30_001, "hnsw"), (300_000, "hnsw"), (300_001, "ivf")]
)
def test_the_number_of_cells_chooses_the_backend(n_obs: int, backend: str) -> None:
    assert choose_backend(n_obs) == backend


def test_memory_layout_and_type_do_not_matter_and_the_input_stays(cells: np.ndarray) -> None:
    points = cells[:100]
    before = points.copy()
    expected = neighbors(points, 5)
    for same in (points.astype(np.float64), np.asfortranarray(points), np.repeat(points, 2, axis=0)[::2]):
        np.testing.assert_array_equal(neighbors(same, 5).indices, expected.indices)
    neighbors(points, 5, metric="cosine")
    np.testing.assert_array_equal(points, before)


def test_recall_of_exact_search_is_one_and_falls_with_what_is_missed(cells: np.ndarray) -> None:
    points = cells[:1000]
    found = neighbors(points, 11)
    assert sampled_recall(points, found) == 1.0
    assert sampled_recall(points, found, 10**6) == 1.0
    worse = found.indices.copy()
    worse[:, 6:] = -1  # five of eleven are gone
    assert sampled_recall(points, Neighbors(worse, found.distances)) == pytest.approx(6 / 11)
