"""Which components the network starts from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from sccagn_scale import Config, graph
from sccagn_scale.model._start import find_start
from sccagn_scale.pp import unit_length

PAPER = Config.preset("paper")


@pytest.fixture
def genes() -> sp.csr_matrix:
    """Three groups of cells of unit length, far from centred."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(1.0, 2.0, size=(3, 60))
    x = sp.csr_matrix(rng.poisson(rates[np.arange(150) % 3]).astype(np.float32))
    unit_length(x)
    return x


def normalized(x: sp.csr_matrix) -> sp.csr_matrix:
    found = graph.neighbors(x.toarray(), 11, "exact")
    return graph.normalized(graph.adjacency(found))


def test_the_axes_of_genes_do_not_see_the_mean_cell(genes: sp.csr_matrix) -> None:
    start = find_start(genes, normalized(genes), PAPER, random_state=0)
    np.testing.assert_allclose(start.axes @ start.mean, 0, atol=1e-5)
    assert np.ptp(normalized(genes).sum(axis=1)) > 0.1  # so that a smoothed mean would not be constant


def test_the_first_axes_hold_what_neighbours_share(genes: sp.csr_matrix) -> None:
    adjacency = normalized(genes)
    start = find_start(genes, adjacency, PAPER, random_state=0)
    smooth = (adjacency @ adjacency @ genes @ start.axes.T).var(axis=0)
    assert smooth[:2].sum() > 0.8 * smooth.sum()  # two dimensions tell three groups apart


@pytest.mark.parametrize("whiten", [True, False])
def test_whitening_is_a_scale_for_each_axis_or_one_for_all(genes: sp.csr_matrix, whiten: bool) -> None:
    start = find_start(genes, normalized(genes), dataclasses.replace(PAPER, whiten=whiten), random_state=0)
    assert (np.ptp(start.scale) == 0) != whiten
    if whiten:
        np.testing.assert_allclose((genes @ start.axes.T).std(axis=0), start.scale, rtol=1e-4)


def test_components_are_taken_as_they_are() -> None:
    pcs = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    start = find_start(pcs, sp.eye(40, format="csr"), Config(), random_state=0)
    np.testing.assert_array_equal(start.axes, np.eye(5))
    np.testing.assert_allclose(start.scale, pcs.std(axis=0), rtol=1e-5)


def test_cells_that_are_all_alike_leave_a_scale_to_divide_by() -> None:
    start = find_start(np.ones((40, 5), np.float32), sp.eye(40, format="csr"), Config(), random_state=0)
    assert start.scale.dtype == np.float32
    assert (start.scale > 0).all()
