"""Of few cells, the number of clusters is judged over their nearest neighbours alone."""

from __future__ import annotations

import dataclasses

import anndata as ad
import numpy as np
import pytest

import sccagn_scale
from sccagn_scale import Config, graph
from sccagn_scale.model._graph import closest_graph


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize(("n_obs", "expected"), [(120, 5), (16, 5), (400, 10), (899, 14)])
def test_few_cells_are_joined_with_the_nearest_that_were_found(n_obs: int, expected: int, prune: bool) -> None:
    points = np.random.default_rng(1).normal(size=(n_obs, 4)).astype(np.float32)
    found = graph.neighbors(points, 15, "exact")
    closest = closest_graph(found, graph.adjacency(found), dataclasses.replace(Config(), prune=prune))
    sought = graph.adjacency(graph.neighbors(points, expected, "exact"), prune=prune)
    np.testing.assert_array_equal(closest.toarray(), sought.toarray())


@pytest.mark.parametrize(("n_obs", "n_neighbors"), [(900, 15), (120, 5), (120, 4)])
def test_more_cells_keep_the_graph_of_the_run(n_obs: int, n_neighbors: int) -> None:
    points = np.random.default_rng(1).normal(size=(n_obs, 4)).astype(np.float32)
    found = graph.neighbors(points, n_neighbors, "exact")
    adjacency = graph.adjacency(found)
    assert closest_graph(found, adjacency, dataclasses.replace(Config(), n_neighbors=n_neighbors)) is adjacency


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
