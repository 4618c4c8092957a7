"""The generative model's draws against its formulas."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sccagn_scale.simulate import _tree
from sccagn_scale.simulate._tree import TreeModel, _alias_table, make_tree_model


@pytest.fixture(scope="module")
def model() -> TreeModel:
    return make_tree_model(60, 3, np.random.default_rng(0))


def test_counts_are_negative_binomial_given_the_library_size(model: TreeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tree, "LIBRARY_SIZE_SD", 0.0)
    flat = np.zeros_like(model.loadings)
    plain = dataclasses.replace(
        model,
        median_library_size=400.0,
        loadings=flat,
        log_scale=np.log(model.profiles).astype(np.float32),
    )
    drawn = plain.draw(np.ones(10_000, dtype=np.int8), np.random.default_rng(1)).toarray()
    mean = 400.0 * model.profiles[1]
    for gene in (np.argmin(mean), np.argsort(mean)[30], np.argmax(mean)):
        size = 1 / model.dispersions[gene].astype(float)
        law = stats.nbinom(size, size / (size + mean[gene]))
        edges = np.unique(law.ppf(np.linspace(0.05, 0.95, 10)))
        expected = len(drawn) * np.diff(np.concatenate(([0.0], law.cdf(edges), [1.0])))
        observed = np.histogram(drawn[:, gene], np.concatenate(([-1], edges + 0.5, [np.inf])))[0]
        keep = expected > 0
        assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-3


def test_programmes_leave_the_mean_profile_as_it_is(model: TreeModel) -> None:
    model = dataclasses.replace(model, median_library_size=400.0)
    library_mean = 400.0 * np.exp(_tree.LIBRARY_SIZE_SD**2 / 2)
    for kind in range(3):
        drawn = model.draw(np.full(8_000, kind, dtype=np.int8), np.random.default_rng(kind)).toarray()
        error = drawn.std(axis=0) / np.sqrt(len(drawn))
        z = (drawn.mean(axis=0) - library_mean * model.profiles[kind]) / np.maximum(error, 1e-4)
        assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("median", [300.0, 3000.0])
def test_library_sizes_are_log_normal(median: float) -> None:
    model = make_tree_model(5000, 4, np.random.default_rng(0), median_library_size=median)
    types = np.random.default_rng(1).integers(0, 4, size=1500).astype(np.int8)
    total = np.log(np.asarray(model.draw(types, np.random.default_rng(2)).sum(axis=1)).ravel())
    assert total.mean() == pytest.approx(np.log(median), abs=0.06)
    assert total.std() == pytest.approx(_tree.LIBRARY_SIZE_SD, abs=0.06)


def test_twenty_thousand_genes_are_as_sparse_as_droplet_data() -> None:
    model = make_tree_model(20_000, 3, np.random.default_rng(0))
    drawn = model.draw(np.zeros(100, dtype=np.int8), np.random.default_rng(0))
    assert 0.04 < drawn.nnz / np.prod(drawn.shape) < 0.09


def test_rows_follow_the_types_in_any_order(model: TreeModel) -> None:
    types = np.array([2, 0, 1] * 200, dtype=np.int8)
    drawn = model.draw(types, np.random.default_rng(0)).toarray()
    for kind in range(3):
        share = drawn[types == kind].sum(axis=0) / drawn[types == kind].sum()
        distances = np.abs(share - model.profiles).sum(axis=1)
        assert distances.argmin() == kind


def test_the_tree_names_every_type_once_and_tells_near_from_far() -> None:
    model = make_tree_model(4000, 12, np.random.default_rng(3))
    assert sorted(re.findall(r"type_\d+", model.newick)) == model.type_names
    assert model.newick.count("(") == model.newick.count(")") == 11
    log_fold = np.log(model.profiles)
    changed = np.array([[np.mean(np.abs((a - b) - np.median(a - b)) > 1e-9) for b in log_fold] for a in log_fold])
    cherries = re.findall(r"\((type_\d+):[\d.]+,(type_\d+):[\d.]+\)", model.newick)
    near = [changed[int(a[5:]), int(b[5:])] for a, b in cherries]
    assert np.mean(near) < changed[np.triu_indices(12, 1)].mean()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1e-8, 1e4), min_size=1, max_size=60))
def test_alias_table_gives_each_slot_its_weight(weights: list[float]) -> None:
    probability, alias = _alias_table(np.array(weights))
    n = len(weights)
    reached = probability / n + np.bincount(alias, weights=(1.0 - probability) / n, minlength=n)
    np.testing.assert_allclose(reached, np.array(weights) / np.sum(weights), atol=1e-6)
