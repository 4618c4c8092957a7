"""Batches: every cell once, the whole graph's weights, steady numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from sccagn_scale.graph import adjacency, neighbors, normalized, partition
from sccagn_scale.io import CellStore, CellStoreWriter
from sccagn_scale.loader import Batch, CellsOnDisk, FullLoader, PartitionLoader
from sccagn_scale.ops import Csr

CPU = torch.device("cpu")
N_OBS = 300


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Cells × components, in ten groups."""
    rng = np.random.default_rng(0)
    return (5 * rng.normal(size=(10, 4))[np.arange(N_OBS) % 10] + rng.normal(size=(N_OBS, 4))).astype(np.float32)


@pytest.fixture(scope="module")
def weights(points: np.ndarray) -> sp.csr_matrix:
    return normalized(adjacency(neighbors(points, 8)))


def loader(
    x: Any, weights: sp.csr_matrix, parts: np.ndarray, *, seed: int = 0, batch_size: int = 60
) -> PartitionLoader:
    generator = np.random.default_rng(seed)
    return PartitionLoader(x, weights, parts, batch_size=batch_size, device=CPU, generator=generator)


def of_parts(parts: np.ndarray, batch_size: int) -> PartitionLoader:
    """A loader for cells that differ in nothing but their part."""
    n_obs = len(parts)
    return loader(np.zeros((n_obs, 1), np.float32), sp.identity(n_obs, format="csr"), parts, batch_size=batch_size)


def dense(x: Csr | torch.Tensor) -> np.ndarray:
    return (x if isinstance(x, torch.Tensor) else x.to_dense()).numpy()


def check(batch: Batch, x: np.ndarray, weights: sp.csr_matrix) -> None:
    n_id = batch.n_id.numpy()
    assert (np.diff(n_id) > 0).all()
    np.testing.assert_array_equal(dense(batch.x), x[n_id])
    inside = weights.toarray()[np.ix_(n_id, n_id)]
    scaled = inside * (weights.toarray()[n_id].sum(axis=1) / inside.sum(axis=1))[:, None]
    np.testing.assert_allclose(batch.adjacency.to_dense().numpy(), scaled, rtol=1e-6)
    np.testing.assert_allclose(batch.adjacency.T.to_dense().numpy(), scaled.T, rtol=1e-6)
    assert batch.n_id.dtype == torch.int64


@pytest.mark.parametrize("sparse", [True, False])
def test_the_full_loader_gives_everything_at_once(points: np.ndarray, weights: sp.csr_matrix, sparse: bool) -> None:
    full = FullLoader(sp.csr_matrix(points) if sparse else points, weights, CPU)
    assert len(full) == len(list(full)) == len(list(full)) == 1
    (batch,) = full
    np.testing.assert_array_equal(batch.n_id.numpy(), np.arange(N_OBS))
    assert isinstance(batch.x, Csr if sparse else torch.Tensor)
    check(batch, points, weights)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_batch_carries_its_cells_and_rows_that_sum_as_in_the_whole_graph(
    points: np.ndarray, weights: sp.csr_matrix, sparse: bool
) -> None:
    rows = sp.csr_matrix(points) if sparse else points
    for batch in loader(rows, weights, partition(points, 15)):
        assert isinstance(batch.x, Csr if sparse else torch.Tensor)
        check(batch, points, weights)


def test_cells_come_by_their_numbers_whatever_their_order_in_the_store(
    tmp_path: Path, points: np.ndarray, weights: sp.csr_matrix
) -> None:
    order = np.random.default_rng(0).permutation(N_OBS)
    with CellStoreWriter(tmp_path / "store", points.shape[1], {}) as writer:
        writer.append(sp.csr_matrix(points)[order])
    stored, cells = CellsOnDisk(CellStore.open(tmp_path / "store"), order), np.array([250, 3, 7, 3])
    assert stored.shape == points.shape
    np.testing.assert_array_equal(stored[cells].toarray(), points[cells])
    np.testing.assert_array_equal(dense(stored.take(torch.from_numpy(cells))), points[cells])
    np.testing.assert_array_equal(dense(stored.rows(20, 25)), points[20:25])
    for batch in loader(stored, weights, partition(points, 15)):
        check(batch, points, weights)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(2, 40))
def test_every_cell_is_in_one_batch_of_an_epoch(parts: list[int], batch_size: int) -> None:
    batches = of_parts(np.array(parts), batch_size)
    for _ in range(3):
        seen = np.concatenate([batch.n_id.numpy() for batch in batches])
        np.testing.assert_array_equal(np.sort(seen), np.arange(len(parts)))


def test_a_part_is_never_torn() -> None:
    parts = np.random.default_rng(0).integers(0, 12, 200)
    for batch in of_parts(parts, 50):
        inside = parts[batch.n_id.numpy()]
        outside = np.delete(parts, batch.n_id.numpy())
        assert not set(inside) & set(outside)


def test_the_number_and_size_of_batches_are_steady(points: np.ndarray, weights: sp.csr_matrix) -> None:
    batches = loader(points, weights, partition(points, 60 // 8))
    assert len(batches) == 5
    for _ in range(10):
        sizes = [len(batch.n_id) for batch in batches]
        assert len(sizes) == 5
        assert 30 <= min(sizes) <= max(sizes) <= 90


def test_equal_parts_make_equal_batches() -> None:
    batches = of_parts(np.repeat(np.arange(32), 4), 32)
    assert [len(batch.n_id) for batch in batches] == [32] * 4


def test_unequal_parts_make_as_many_batches_as_were_promised() -> None:
    batches = of_parts(np.repeat(np.arange(8), [70, 10, 5, 5, 4, 3, 2, 1]), 25)
    for _ in range(10):
        assert len(list(batches)) == len(batches)


def test_a_part_of_more_than_a_batch_may_come_first() -> None:
    parts = np.repeat(np.arange(4), [70, 10, 10, 10])
    batches = of_parts(parts, 25)
    firsts = set()
    for _ in range(40):
        groups = [parts[batch.n_id.numpy()] for batch in batches]
        assert [len(set(group)) for group in groups] == [1] * len(batches) == [1] * 4
        firsts.add(groups[0][0])
    assert firsts == {0, 1, 2, 3}


def test_epochs_differ_and_follow_the_generator(points: np.ndarray, weights: sp.csr_matrix) -> None:
    parts = partition(points, 10)

    def epochs(seed: int) -> list[list[int]]:
        batches = loader(points, weights, parts, seed=seed)
        return [[i for batch in batches for i in batch.n_id.tolist()] for _ in range(3)]

    first = epochs(0)
    assert first == epochs(0)
    assert first[0] != first[1] != first[2]
    assert first != epochs(1)
