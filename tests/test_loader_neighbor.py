"""Sampled neighbourhoods: who is drawn, what the edges weigh, and how steady it all is."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from sccagn_scale import _compat
from sccagn_scale._errors import InputError
from sccagn_scale.graph import adjacency, neighbors, normalized
from sccagn_scale.loader import Batch, NeighborLoader
from sccagn_scale.loader._sampler import CsrSampler, subsets
from sccagn_scale.ops import Csr

CPU = torch.device("cpu")
N_OBS = 200
SAMPLERS = ["torch", "torch-sparse"]


def whole_graph(n_obs: int = N_OBS) -> sp.csr_matrix:
    points = np.random.default_rng(0).normal(size=(n_obs, 3)).astype(np.float32)
    return normalized(adjacency(neighbors(points, 8)))


GRAPH = whole_graph()
DENSE = GRAPH.toarray()
X = np.random.default_rng(1).random((N_OBS, 5)).astype(np.float32)


def loader(
    n_fanout: tuple[int, ...] = (3, 2), *, x: Any = X, seed: int = 0, batch_size: int = 30, sampler: Any = "torch"
) -> NeighborLoader:
    if sampler == "torch-sparse":
        pytest.importorskip("torch_sparse")
    generator = np.random.default_rng(seed)
    return NeighborLoader(x, GRAPH, n_fanout, batch_size=batch_size, device=CPU, generator=generator, sampler=sampler)


def contents(batch: Batch) -> tuple[Any, ...]:
    return batch.n_id.tolist(), batch.adjacency.to_dense().tolist(), batch.n_seeds


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sparse", [True, False])
def test_a_batch_is_seeds_and_cells_within_reach(sampler: str, sparse: bool) -> None:
    batches = loader(x=sp.csr_matrix(X) if sparse else X, sampler=sampler)
    for batch in batches:
        n_id = batch.n_id.numpy()
        assert len(set(n_id)) == len(n_id)
        assert isinstance(batch.x, Csr if sparse else torch.Tensor)
        np.testing.assert_array_equal((batch.x.to_dense() if sparse else batch.x).numpy(), X[n_id])
        assert batch.adjacency.shape == (len(n_id), len(n_id))
        hops = np.linalg.matrix_power(DENSE > 0, 2)[n_id[: batch.n_seeds]].any(axis=0)
        assert hops[n_id].all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_edges_are_the_whole_graphs_and_rows_keep_their_sums(sampler: str) -> None:
    for batch in loader(sampler=sampler):
        n_id, found = batch.n_id.numpy(), batch.adjacency.to_dense().numpy()
        weights = DENSE[np.ix_(n_id, n_id)]
        assert (weights[found > 0] > 0).all()
        assert (found.diagonal() > 0).all()
        np.testing.assert_allclose(found.sum(axis=1), DENSE[n_id].sum(axis=1), rtol=1e-5)
        ratio = np.divide(found, weights, out=np.full_like(found, np.nan), where=found > 0)
        np.testing.assert_allclose(np.nanmax(ratio, axis=1), np.nanmin(ratio, axis=1), rtol=1e-5)


def test_no_more_are_drawn_than_asked_for_and_all_where_there_are_few() -> None:
    degree = (DENSE > 0).sum(axis=1) - 1
    assert degree.min() < 6 < degree.max()
    for batch in loader((6,)):
        seeds, others = batch.n_id[: batch.n_seeds].numpy(), batch.n_id[batch.n_seeds :]
        drawn = (batch.adjacency.to_dense() > 0).sum(dim=1).numpy() - 1
        np.testing.assert_array_equal(drawn[: batch.n_seeds], np.minimum(degree[seeds], 6))
        assert not drawn[batch.n_seeds :].any()
        assert len(others)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_fan_out_of_all_neighbours_gives_seeds_their_true_rows(sampler: str) -> None:
    for batch in loader((N_OBS,), sampler=sampler):
        n_id = batch.n_id.numpy()
        rows = np.zeros((batch.n_seeds, N_OBS), np.float32)
        rows[:, n_id] = batch.adjacency.to_dense().numpy()[: batch.n_seeds]
        np.testing.assert_allclose(rows, DENSE[n_id[: batch.n_seeds]], rtol=1e-5, atol=1e-7)


def test_the_transpose_is_that_of_a_directed_sample() -> None:
    found = [batch.adjacency for batch in loader()]
    for matrix in found:
        torch.testing.assert_close(matrix.T.to_dense(), matrix.to_dense().T)
    assert not torch.equal(found[0].to_dense(), found[0].to_dense().T)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("batch_size", [1, 7, 30, 150, 200, 999])
def test_every_cell_is_a_seed_once_an_epoch_in_as_many_batches(sampler: str, batch_size: int) -> None:
    batches = loader(batch_size=batch_size, sampler=sampler)
    for _ in range(2):
        seeds = [batch.n_id[: batch.n_seeds].numpy() for batch in batches]
        assert len(seeds) == len(batches) == max(1, round(N_OBS / batch_size))
        assert max(map(len, seeds)) - min(map(len, seeds)) <= 1
        np.testing.assert_array_equal(np.sort(np.concatenate(seeds)), np.arange(N_OBS))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_epochs_differ_and_follow_the_generator_alone(sampler: str) -> None:
    def epochs(seed: int, *, others: int = 0, cut_short: bool = False) -> list[Any]:
        torch.manual_seed(others)
        torch.set_num_threads(1 + others)
        batches = loader(seed=seed, sampler=sampler)
        if cut_short:
            next(iter(batches))
            return [[], [contents(batch) for batch in batches]]
        return [[contents(batch) for batch in batches] for _ in range(2)]

    first = epochs(0)
    assert first == epochs(0, others=1)
    torch.set_num_threads(1)
    assert first[0] != first[1]
    assert first != epochs(1)
    assert epochs(0, cut_short=True)[1] == first[1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seeds_come_in_another_order_every_epoch(sampler: str) -> None:
    batches = loader(sampler=sampler)
    orders = [np.concatenate([batch.n_id[: batch.n_seeds].numpy() for batch in batches]) for _ in range(2)]
    for order, other in zip(orders, [orders[1], np.arange(N_OBS)], strict=True):
        assert (order != other).mean() > 0.9


def test_the_root_logger_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # pytest's
    next(iter(loader()))
    assert root.handlers == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_global_generator_is_left_alone(sampler: str) -> None:
    batches = loader(sampler=sampler)
    before = torch.random.get_rng_state()
    list(batches)
    assert torch.equal(torch.random.get_rng_state(), before)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(0, 8), st.integers(0, 2**31))
def test_a_subset_has_distinct_members_in_range(spare: list[int], k: int, seed: int) -> None:
    n = torch.tensor(spare) + k
    chosen = subsets(n, k, generator=torch.Generator().manual_seed(seed))
    assert chosen.shape == (len(n), k)
    assert ((chosen >= 0) & (chosen < n[:, None])).all()
    assert all(len(set(row)) == k for row in chosen.tolist())


def test_every_subset_is_as_likely() -> None:
    chosen = subsets(torch.full((30_000,), 5), 3, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    _, counts = chosen.unique(dim=0, return_counts=True)
    assert len(counts) == 10
    assert (counts - 3000).abs().max() < 5 * (3000 * 0.9) ** 0.5


@given(
    st.integers(1, 30), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 2**31), st.floats(0, 0.3)
)
def test_the_sampler_keeps_pygs_contract(n: int, n_fanout: list[int], seed: int, density: float) -> None:
    from torch_geometric.sampler import NodeSamplerInput

    rng = np.random.default_rng(seed)
    dense = rng.random((n, n)) < density
    graph = Csr.from_scipy(sp.csr_matrix(dense.astype(np.float32)))
    generator = torch.Generator().manual_seed(seed)
    sampler = CsrSampler(graph.indptr, graph.indices, tuple(n_fanout), generator=generator)
    for _ in range(2):  # nothing is left over from the call before
        seeds = torch.from_numpy(rng.permutation(n)[: rng.integers(1, n + 1)])
        out = sampler.sample_from_nodes(NodeSamplerInput(input_id=seeds, node=seeds))
        assert torch.equal(out.node[: len(seeds)], seeds)
        assert len(set(out.node.tolist())) == len(out.node)
        assert torch.equal(out.node[out.row], graph.indices[out.edge])
        assert torch.equal(out.node[out.col], graph.row_of_value()[out.edge])
        assert len(set(out.edge.tolist())) == len(out.edge)
        degree = torch.from_numpy(dense.sum(axis=1))[seeds].clamp_max(n_fanout[0])
        assert torch.equal(torch.bincount(out.col, minlength=len(out.node))[: len(seeds)], degree)
        assert set(out.row.tolist()) | set(range(len(seeds))) == set(range(len(out.node)))


@pytest.mark.parametrize("sampler", ["torch-sparse", "pyg-lib"])
def test_a_missing_package_is_told_with_what_to_install(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = _compat.OptionalPart(sampler, "sampling", False, "not installed (pip install this)")
    monkeypatch.setattr("sccagn_scale._compat.probe", lambda name: absent)
    with pytest.raises(InputError, match=rf'`neighbor_sampler` = "{sampler}" .*pip install this.*"torch"'):
        NeighborLoader(X, GRAPH, (3,), batch_size=9, device=CPU, generator=np.random.default_rng(0), sampler=sampler)
