"""Every kNN backend against comparing all pairs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from scipy.spatial.distance import cdist

from sccagn_scale._errors import InputError
from sccagn_scale._memory import Scratch
from sccagn_scale.config import Backend
from sccagn_scale.graph import (
    ALGORITHMS,
    EXACT_BACKENDS,
    Neighbors,
    neighbors,
    sampled_recall,
    why_unavailable,
)
from sccagn_scale.graph._algorithms import _lists, ivf, ivf_graph, torch_exact

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(why_unavailable(name) is not None, reason=str(why_unavailable(name))))
    for name in ALGORITHMS
]


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_find_the_true_neighbours(cells: np.ndarray, truth: np.ndarray, backend: Backend) -> None:
    found = neighbors(cells, 15, backend)
    share = recall(found.indices, truth)
    assert share >= (0.9999 if backend in EXACT_BACKENDS else 0.95)
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
    monkeypatch.setitem(ALGORITHMS, "exact", lambda points, k, **place: (indices, distances))
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


def test_a_cell_that_is_alone_is_its_own_neighbour(cells: np.ndarray) -> None:
    found = neighbors(cells[:1], 1)
    assert (found.indices.tolist(), found.distances.tolist()) == ([[0]], [[0]])


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


def test_points_at_unit_length_are_made_part_by_part_where_large_arrays_are_kept(
    cells: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, empty = [], Scratch.empty
    monkeypatch.setattr(Scratch, "empty", lambda self, shape, *more: kept.append(shape) or empty(self, shape, *more))
    monkeypatch.setattr("sccagn_scale.graph._neighbors._BLOCK", 37)
    found = neighbors(cells, 9, metric="cosine", scratch=Scratch(tmp_path))
    assert kept.count(cells.shape) == 1
    unit = cells / np.linalg.norm(cells, axis=1, keepdims=True)
    np.testing.assert_array_equal(found.indices, neighbors(unit, 9).indices)
    assert sampled_recall(cells, found, 50, metric="cosine", scratch=Scratch(tmp_path)) == 1.0
    assert kept.count(cells.shape) == 2


def test_cosine_of_a_cell_without_values_is_no_nan() -> None:
    points = np.vstack([np.zeros(3), np.eye(3)])
    assert neighbors(points, 4, metric="cosine").distances[0].tolist() == [0, 1, 1, 1]


THREADS = """
import sys
import faiss, numpy as np, torch
from sccagn_scale.graph import neighbors, partition
rng = np.random.default_rng(0)
x = (2 * rng.normal(size=(20, 30))[rng.integers(20, size=12000)] + rng.normal(size=(12000, 30))).astype("f")
torch.set_num_threads(faiss.omp_get_max_threads())
found = neighbors(x, 15, sys.argv[1])
np.savez(sys.argv[2], parts=partition(x, 100), threads=faiss.omp_get_max_threads(), **found._asdict())
"""


@pytest.mark.parametrize("backend", ["ivf", "ivf_graph", "torch_exact"])
def test_threads_change_nothing(tmp_path: Path, backend: str) -> None:
    saved = []
    for threads in ("1", "2"):
        path = str(tmp_path / f"{threads}.npz")
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        subprocess.run([sys.executable, "-c", THREADS, backend, path], check=True, env=environment)
        saved.append(np.load(path))
    assert [int(one["threads"]) for one in saved] == [1, 2]
    for name in ("indices", "distances", "parts"):
        np.testing.assert_array_equal(saved[0][name], saved[1][name])


def large(n_obs: int = 20_000, d: int = 20) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (2 * rng.normal(size=(20, d))[rng.integers(20, size=n_obs)] + rng.normal(size=(n_obs, d))).astype("f")


@pytest.mark.parametrize("k", [2, 15, 50])
def test_a_walk_on_the_graph_finds_what_the_lists_missed(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf_graph, "_PROBED_POINTS", 300)
    points = large()
    found = neighbors(points, k, "ivf_graph")
    assert sampled_recall(points, found) >= 0.945
    exact = np.linalg.norm(points[:, None] - points[found.indices], axis=2)
    np.testing.assert_allclose(found.distances, exact, rtol=1e-4, atol=1e-4)
    assert all(len(set(row)) == k for row in found.indices.tolist())
    if k == 15:
        monkeypatch.setattr(ivf_graph, "_WIDTHS", (0,))
        monkeypatch.setattr(ivf_graph, "_LINKS", 16)
        assert sampled_recall(points, neighbors(points, k, "ivf_graph")) < 0.945


@pytest.mark.parametrize("backend", ["ivf", "ivf_graph"])
def test_lists_bear_cells_that_coincide(backend: Backend) -> None:
    points = np.repeat(large(2000), 4, axis=0)
    found = neighbors(points, 10, backend)
    assert (found.indices[:, :4] // 4 == np.arange(8000)[:, None] // 4).mean() > 0.95
    same = neighbors(np.zeros((6000, 5)), 10, backend)
    np.testing.assert_array_equal(same.distances, 0)
    np.testing.assert_array_equal(same.indices[:, 0], np.arange(6000))


@pytest.mark.parametrize("k", [2, 15, 50])
def test_points_look_into_as_many_lists_as_a_sample_asks_for(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = large()
    found = neighbors(points, k, "ivf")
    assert 0.945 <= sampled_recall(points, found) < 1
    exact = np.linalg.norm(points[:, None] - points[found.indices], axis=2)
    np.testing.assert_allclose(found.distances, exact, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == k for row in found.indices.tolist())
    monkeypatch.setattr(ivf, "_RECALL", 0.9999)
    assert sampled_recall(points, neighbors(points, k, "ivf")) > 0.999
    monkeypatch.setattr(ivf, "_PROBES", (3,))
    assert sampled_recall(points, neighbors(points, k, "ivf")) < 0.9


def test_lists_taken_in_blocks_and_results_on_disk_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = large()
    expected = neighbors(points, 15, "ivf")
    monkeypatch.setattr(ivf, "_BLOCK", 700)
    before = points.copy()
    found = neighbors(points, 15, "ivf", scratch=Scratch(tmp_path))
    np.testing.assert_array_equal(points, before)
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours.base, np.ndarray)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("backend", ["exact", "hnsw", "ivf", "ivf_graph", "torch_exact"])
def test_results_are_kept_where_they_are_asked_for(cells: np.ndarray, tmp_path: Path, backend: Backend) -> None:
    kept: list[tuple[int, ...]] = []

    class Known(Scratch):
        def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
            kept.append(shape if isinstance(shape, tuple) else (shape,))
            return super().empty(shape, dtype)

    found = neighbors(cells, 15, backend, scratch=Known(tmp_path))
    assert kept.count((5000, 15)) == 2
    neighbors(cells[:500], 15, backend, scratch=Known(tmp_path))
    assert kept.count((500, 15)) == 2
    np.testing.assert_array_equal(found.indices, neighbors(cells, 15, backend).indices)


def test_points_far_from_the_origin_find_the_same_neighbours() -> None:
    points = np.round(large(6000) * 64) / 64  # so that adding changes no bit
    found = neighbors(points + 1024, 15, "ivf")
    assert recall(found.indices, neighbors(points, 15, "ivf").indices) > 0.995
    exact = np.linalg.norm(points[:, None] - points[found.indices], axis=2)
    np.testing.assert_allclose(found.distances, exact, rtol=1e-4, atol=1e-4)


def test_points_between_groups_without_centroids_are_filed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every centroid is filed under the first group, as if all others had lost theirs."""
    points = large(6000)
    made = _lists._quantizer

    def first_group_alone(points: np.ndarray, n_lists: int) -> faiss.IndexIVFFlat:
        quantizer = made(points, n_lists)
        centroids = quantizer.quantizer.reconstruct_n(0, quantizer.nlist)
        quantizer.reset()
        quantizer.add_core(
            len(centroids), faiss.swig_ptr(centroids), None, faiss.swig_ptr(np.zeros(len(centroids), np.int64))
        )
        return quantizer

    monkeypatch.setattr(_lists, "_quantizer", first_group_alone)
    lists = _lists.make_lists(points, 100, 2)
    assert (lists.of_point >= 0).all()
    assert sampled_recall(points, neighbors(points, 15, "ivf")) > 0.9


def test_blocks_of_lists_have_all_lists_once() -> None:
    starts = np.concatenate([[0], np.cumsum([0, 5, 0, 3, 20, 1, 1, 0])])
    assert list(ivf._blocks(starts)) == [(0, 8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ivf, "_BLOCK", 8)
        assert list(ivf._blocks(starts)) == [(0, 4), (4, 5), (5, 8)]


def test_links_are_neighbours_then_those_that_list_the_point() -> None:
    first = np.array([[0, 1], [1, 2], [2, -1], [3, 0]], np.int32)
    links = ivf_graph._links(first)
    assert links.shape == (4, 32)
    assert [row[row >= 0].tolist() for row in links] == [[0, 1, 0, 3], [1, 2, 1, 0], [2, 2, 2, 1, 2], [3, 0, 3]]
    assert (np.diff((links < 0).astype(int), axis=1) >= 0).all()  # FAISS stops at the first −1


def test_torch_takes_the_points_in_tiles(monkeypatch: pytest.MonkeyPatch, cells: np.ndarray, truth: np.ndarray) -> None:
    monkeypatch.setattr(torch_exact, "_QUERIES", 700)
    monkeypatch.setattr(torch_exact, "_TILE", 9)
    indices, distances = neighbors(cells[:1500], 15, "torch_exact")
    np.testing.assert_array_equal(indices, brute_force(cells[:1500], 15)[0])
    np.testing.assert_allclose(distances, brute_force(cells[:1500], 15)[1], rtol=1e-6)


@pytest.mark.parametrize(
    "setting",
    [
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    ],
)
def test_torch_multiplies_with_all_digits(setting: str) -> None:
    """Scores of a few digits would lose neighbours of what counts as exact search. Settings are of the process."""
    code = f"""
import numpy as np, torch
from sccagn_scale.graph import neighbors
from sccagn_scale.graph._algorithms import torch_exact
{setting}
backends, addmm, during = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul), torch.addmm, []
before = [one.fp32_precision for one in backends]
def seen(*a, **k):
    during.extend(one.fp32_precision for one in backends)
    return addmm(*a, **k)
torch.addmm = seen
cells = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
found = neighbors(cells, 5, "torch_exact").indices
assert (torch_exact.search_some(cells, np.array([3]), 5) == found[[3]]).all()
assert during == ["ieee"] * 4, during
assert [one.fp32_precision for one in backends] == before != ["ieee"] * 2, before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("device", "number"), [("cuda:3", 3), ("cuda", 0), ("cpu", 0)])
@pytest.mark.parametrize("backend", ["flat_gpu", "ivf_gpu", "cagra_gpu"])
def test_faiss_searches_on_the_gpu_of_the_run(
    monkeypatch: pytest.MonkeyPatch, backend: Backend, device: str, number: int, cells: np.ndarray
) -> None:
    made = []

    class Gpu:
        """Indices are what they are made of, and settings no more than names."""

        def __getattr__(self, name: str) -> Any:
            return SimpleNamespace if not name.startswith("GpuIndex") or name.endswith("Config") else self.index

        def index(self, *given: Any) -> Any:
            made.append(given[-1].device)
            return SimpleNamespace(train=len, add=len)

    module = importlib.import_module(f"sccagn_scale.graph._algorithms.{backend}")
    found = neighbors(cells, 5, "exact")
    monkeypatch.setattr("sccagn_scale.graph._neighbors.why_unavailable", lambda name: None)
    monkeypatch.setattr(module, "gpu", Gpu())
    monkeypatch.setattr(module, "search_in_blocks", lambda *given, **options: found)
    neighbors(cells, 5, backend, device=device)
    assert made == [number]


def test_torch_keeps_small_distances_far_from_the_origin() -> None:
    points = (1000 + np.arange(64)[:, None] / 64 * np.ones(3)).astype(np.float32)
    found = neighbors(points, 3, "torch_exact")
    np.testing.assert_array_equal(found.distances, brute_force(points, 3)[1].astype(np.float32))


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


def test_the_seed_draws_the_cells_whose_recall_is_measured(cells: np.ndarray) -> None:
    points = cells[:1000]
    found = neighbors(points, 10)
    found.indices[::2, 5:] = -1  # of every other cell half is missed
    recalls = [sampled_recall(points, found, 10, random_state=seed) for seed in (0, 0, *range(1, 9))]
    assert recalls[0] == recalls[1]
    assert len(set(recalls)) > 1
