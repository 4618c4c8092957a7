"""Sparse products and epochs: that what is compared is the same, and that what is made is what it claims."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import epoch, sparse
from sccagn_scale.train import Optimizer


@pytest.mark.parametrize("case", list(sparse.CASES))
def test_every_way_gives_the_same_product_and_gradient(case: str) -> None:
    outcomes = {}
    for method in sparse.METHODS:
        if method == "torch_sparse" and find_spec("torch_sparse") is None:
            continue
        if case == "genes_dense" and method == "pyg_scatter":
            continue  # gigabytes
        outcomes[method] = sparse.measure(case, method, 0.0)
    assert len(outcomes) >= 4
    first = outcomes["csr_matmul"]
    for method, outcome in outcomes.items():
        assert outcome.evidence == pytest.approx(first.evidence, rel=1e-4), method
        metrics = outcome.score()[case]
        assert outcome.seconds[case] == [pytest.approx(sum(metrics.values()) / 1e3)]
        assert min(metrics.values()) > 0


def test_cells_have_unit_length_and_the_density_asked_for() -> None:
    cells = epoch._cells(300, np.random.default_rng(0))
    assert cells.nnz == 300 * 160
    assert cells.has_canonical_format
    lengths = np.sqrt(cells.multiply(cells).sum(axis=1))
    np.testing.assert_allclose(lengths.mean(), 1, atol=0.05)


def test_the_graph_joins_what_stands_near_in_the_order() -> None:
    graph, order = epoch._graph(500, np.random.default_rng(0))
    np.testing.assert_allclose(graph.toarray(), graph.T.toarray(), rtol=1e-6)
    place = np.argsort(order)
    coo = graph.tocoo()
    distance = np.abs(place[coo.row] - place[coo.col])
    assert np.minimum(distance, 500 - distance).max() < 60


@pytest.mark.parametrize("input_rep", ["genes", "pca"])
def test_an_epoch_takes_every_cell(input_rep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "choose_extension", lambda wanted, device: None)  # which is for a process of its own
    taken, step = [], Optimizer.step
    monkeypatch.setattr(Optimizer, "step", lambda *args, **kwargs: (taken.append(1), step(*args, **kwargs))[1])
    outcome = epoch.measure(3000, input_rep, compiled=False, device="cpu")
    metrics = outcome.score()["epoch/3000"]
    assert len(taken) == 1 + 3  # one of them before the clock starts
    assert metrics["n_steps"] == 3
    assert metrics["ms_per_step"] * 3 == pytest.approx(1e3 * outcome.seconds["epoch/3000"][0])
    assert 0 <= metrics["waiting_share"] < 1
