"""Which cells numbers of clusters are scored by, and over which graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sccagn_scale
from sccagn_scale import Config, clustering, graph
from sccagn_scale.model import _graph, _initial
from sccagn_scale.model._graph import ScoringGraph, join_new, scoring_graph


def scoring_of(points: np.ndarray, config: Config, random_state: int = 0) -> tuple[ScoringGraph, graph.Neighbors]:
    found = graph.neighbors(points, config.n_neighbors, "exact")
    adjacency = graph.adjacency(found, prune=config.prune)
    return scoring_graph(points, found, adjacency, config, device=torch.device("cpu"), random_state=random_state), found


@pytest.mark.parametrize(
    ("n_obs", "n_trained", "expected"),
    [(10, 1000, 1), (35, 10**6, 1), (36, 10**6, 2), (400, 10**6, 6), (400, 1200, 6), (400, 600, 10), (400, 300, 15)],
)
def test_few_new_cells_are_joined_with_fewer(n_obs: int, n_trained: int, expected: int) -> None:
    points = drawn(n_obs)
    found = graph.neighbors(points, min(15, n_obs), "exact")
    adjacency = graph.adjacency(found)
    joined = join_new(found, adjacency, n_trained, Config())
    if expected == 15:
        assert joined is adjacency
    elif expected == 1:
        assert (joined.shape, joined.nnz) == ((n_obs, n_obs), 0)
    else:
        np.testing.assert_array_equal(
            joined.toarray(), graph.adjacency(graph.neighbors(points, expected, "exact")).toarray()
        )


def drawn(n_obs: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n_obs, 4)).astype(np.float32)


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize(("n_obs", "expected"), [(120, 5), (16, 5), (400, 10), (899, 14)])
def test_few_cells_are_joined_with_the_nearest_that_were_found(n_obs: int, expected: int, prune: bool) -> None:
    points = drawn(n_obs)
    scoring, _ = scoring_of(points, dataclasses.replace(Config(), prune=prune))
    assert scoring.cells == slice(None)
    assert scoring.note == f"on a graph of {expected} neighbours"
    sought = graph.adjacency(graph.neighbors(points, expected, "exact"), prune=prune)
    np.testing.assert_array_equal(scoring.adjacency.toarray(), sought.toarray())


@pytest.mark.parametrize(("n_obs", "n_neighbors"), [(900, 15), (120, 5), (120, 4)])
def test_more_cells_keep_the_graph_of_the_run(n_obs: int, n_neighbors: int) -> None:
    scoring, found = scoring_of(drawn(n_obs), dataclasses.replace(Config(), n_neighbors=n_neighbors))
    assert scoring.cells == slice(None)
    assert not scoring.note
    np.testing.assert_array_equal(scoring.adjacency.toarray(), graph.adjacency(found).toarray())


def test_of_many_cells_some_are_drawn_and_joined_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_graph, "_MOST_SCORED", 300)
    points = drawn(1000)
    (cells, adjacency, note), other = scoring_of(points, Config())[0], scoring_of(points, Config(), random_state=1)[0]
    assert note == "on 300 cells"
    assert len(np.unique(cells)) == 300
    assert len(np.intersect1d(cells, other.cells)) < 150
    sought = graph.adjacency(graph.neighbors(points[cells], 15, "exact"))
    np.testing.assert_array_equal(adjacency.toarray(), sought.toarray())


def test_cells_that_are_drawn_are_searched_on_the_device_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    points = drawn(400)
    found = graph.neighbors(points, 15, "exact")
    monkeypatch.setattr(_graph, "_MOST_SCORED", 300)
    search = graph.neighbors

    def searched(points: np.ndarray, *given: Any, device: torch.device, **more: Any) -> graph.Neighbors:
        asked.append((len(points), device.type))
        return search(points, *given, **more)

    monkeypatch.setattr(graph, "neighbors", searched)
    scoring_graph(points, found, graph.adjacency(found), Config(), device=torch.device("cuda"), random_state=0)
    assert asked == [(300, "cuda")]


@pytest.mark.parametrize("init", ["consensus", "leiden"])
def test_the_estimate_is_theirs(init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three types only two are drawn."""
    profiles = np.random.default_rng(3).gamma(1.0, 1.0, (3, 300))
    adata = ad.AnnData(np.random.default_rng(4).poisson(profiles[np.repeat([0, 1, 2], 60)]).astype(np.int32))
    config = dataclasses.replace(Config(), init=init)
    assert sccagn_scale.SCCAGN(adata, None, config).train().n_clusters_ == 3
    cells = np.arange(120)

    def draw_two(
        points: object, found: object, adjacency: sp.csr_matrix, *more: object, **options: object
    ) -> ScoringGraph:
        return ScoringGraph(cells, adjacency[cells][:, cells])

    monkeypatch.setattr("sccagn_scale.model._model.scoring_graph", draw_two)
    assert sccagn_scale.SCCAGN(adata, None, config).train().n_clusters_ == 2


@pytest.mark.parametrize("init", ["consensus", "leiden"])
def test_types_of_fewer_cells_than_neighbours_are_counted(init: str) -> None:
    rng = np.random.default_rng(3)
    sizes = [30, 24, 20, 16, 8, 8, 8]
    profiles = rng.gamma(1.0, 1.0, (len(sizes), 300))
    truth = np.repeat(np.arange(len(sizes)), sizes)
    counts = rng.poisson(profiles[truth]).astype(np.int32)
    estimate = sccagn_scale.SCCAGN(ad.AnnData(counts), None, dataclasses.replace(Config(), init=init)).train().estimate_
    assert estimate is not None
    assert estimate.n_clusters == len(sizes)
    assert estimate.method.endswith(" on a graph of 5 neighbours")


@pytest.mark.parametrize(("n_obs", "expected"), [(300, [300]), (100, [100, 100])])
def test_the_graph_of_the_run_is_made_ready_for_leiden_once(
    n_obs: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it scores too; of fewer cells the nearest neighbours are a graph of their own."""
    made: list[int] = []

    class Counting(clustering.CommunityFinder):
        def __init__(self, cells: sp.csr_matrix, *more: Any, **options: Any) -> None:
            made.append(cells.shape[0])
            super().__init__(cells, *more, **options)

    monkeypatch.setattr(clustering, "CommunityFinder", Counting)
    profiles = np.random.default_rng(3).gamma(1.0, 1.0, (2, 100))
    counts = np.random.default_rng(4).poisson(profiles[np.arange(n_obs) % 2]).astype(np.int32)
    config = dataclasses.replace(Config(), init="leiden", n_neighbors=8, n_comps=5, n_latent=4, joint_steps=1)
    sccagn_scale.SCCAGN(ad.AnnData(counts), None, config).train()
    assert made == expected


def test_cells_are_sought_communities_of_in_groups_where_there_are_two_of_them_to_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_initial, "_SKETCH", 50)
    assert _initial._sketch(drawn(99), 0) is None
    groups = _initial._sketch(drawn(100), 0)
    assert groups is not None
    assert groups.max() + 1 == 50
