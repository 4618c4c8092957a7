"""Few cells where the number of clusters that is wanted is not the one that the data support."""

from __future__ import annotations

import dataclasses
from typing import Any

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import TINY, planted
from sklearn.metrics import adjusted_rand_score

import sccagn_scale
from sccagn_scale import Config, clustering, graph
from sccagn_scale.model import _initial
from sccagn_scale.model._ensemble import Ensemble, mixtures_of
from sccagn_scale.model._graph import ScoringGraph
from sccagn_scale.model._initial import Initial, find_initial
from sccagn_scale.model._views import View

TYPES, PARTS = [850, 150, 100], [850, 150, 85, 15]


def cells(parts: list[int] = PARTS) -> tuple[np.ndarray, np.ndarray]:
    """A type far wider than the others, and one whose fifteen rarest cells lie apart: points and parts."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(parts)), parts)
    centers = np.zeros((len(parts), 6))
    centers[1, 1], centers[2:, 2] = 20, 20
    if len(parts) > 3:
        centers[3, 3] = 7
    points = centers[labels] + rng.normal(size=(len(labels), 6))
    points[labels == 0, 0] += rng.uniform(-6, 6, parts[0])
    return points.astype(np.float32), labels


def ensemble_of(points: np.ndarray) -> tuple[Ensemble, list[View], clustering.CommunityFinder]:
    adjacency = graph.adjacency(graph.neighbors(points, 15, "exact"))
    views = [View(adjacency, [points[:, :5], points])]
    finder = clustering.CommunityFinder(adjacency, 0)
    return Ensemble(points, views, finder, clustering.Mixtures(points), config=Config(), random_state=0), views, finder


def found(points: np.ndarray, n_clusters: int | None, config: Config | None = None) -> Initial:
    _, views, _ = ensemble_of(points)
    scoring = ScoringGraph(slice(None), views[0].adjacency)
    return find_initial(
        points,
        points,
        views[0].adjacency,
        n_clusters,
        config or Config(),
        find_scoring=lambda: scoring,
        init="consensus",
        views=views,
        random_state=0,
    )


@pytest.fixture
def _three(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data support three clusters best."""
    three = clustering.Estimate(3, "by hand", np.array([3]), np.array([1.0]), (3, 3))
    monkeypatch.setattr(clustering, "estimate_by_mixtures", lambda *given, **options: three)


@pytest.mark.usefixtures("_three")
def test_more_clusters_are_parts_of_those_that_are_borne_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sccagn_scale")
    points, parts = cells()
    assert np.bincount(found(points, None).labels).tolist() == TYPES
    for n_clusters, facts in (
        (None, {"method": "consensus"}),
        (3, {"method": "consensus"}),
        (4, {"method": "divided", "n_supported": 3}),
    ):
        initial = found(points, n_clusters)
        assert (initial.estimate is None) == (n_clusters is not None)
        assert initial.facts == facts
    labels = initial.labels
    assert adjusted_rand_score(labels, parts) == 1
    assert "The data support 3 clusters best: these are divided into 4." in caplog.text
    voted = ensemble_of(points)[0].consensus(4)
    assert adjusted_rand_score(voted, parts) < 0.9  # a mixture would rather have two of the wide type


@pytest.mark.usefixtures("_three")
def test_a_few_hundred_cells_are_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = cells()
    divided, voted = found(points, 4)[0], ensemble_of(points)[0].consensus(4)
    assert (divided != voted).any()
    monkeypatch.setattr(_initial, "_DIVIDED_FROM", len(points) + 1)
    initial = found(points, 4)
    np.testing.assert_array_equal(initial.labels, voted)
    assert initial.facts == {"method": "consensus", "n_supported": 3}
    monkeypatch.setattr(_initial, "_DIVIDED_FROM", len(points))
    np.testing.assert_array_equal(found(points, 4)[0], divided)


@pytest.mark.usefixtures("_three")
@pytest.mark.parametrize("bad", ["consensus", "regrouped"])
def test_fewer_clusters_are_those_of_higher_modularity(
    bad: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sccagn_scale")
    monkeypatch.setattr(_initial, "_DIVIDED_FROM", 10**6)  # of few cells too
    points, parts = cells()
    at_random = np.random.default_rng(1).integers(0, 2, len(points))
    unions = np.minimum(parts, 1)

    def answer(name: str) -> Any:
        def method(self: Ensemble, *given: Any) -> np.ndarray:
            return parts if given[-1] == 3 else at_random if name == bad else unions

        return method

    for name in ("consensus", "regrouped"):
        monkeypatch.setattr(Ensemble, name, answer(name))
    initial = found(points, 2)
    assert initial.labels is unions
    assert initial.facts == {"method": "joined" if bad == "consensus" else "consensus", "n_supported": 3}
    assert ("The data support 3 clusters best: these are joined into 2." in caplog.text) == (bad == "consensus")


@pytest.mark.usefixtures("_three")
def test_the_modularity_of_fewer_clusters_is_that_at_the_resolution_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a high one, halves drawn at random are worth more than two clusters one of which has most cells."""
    monkeypatch.setattr(_initial, "_DIVIDED_FROM", 10**6)
    points, parts = cells()
    halves, unions = np.random.default_rng(1).integers(0, 2, len(points)), np.repeat([0, 1], [1000, 100])
    monkeypatch.setattr(Ensemble, "consensus", lambda self, n_clusters: parts if n_clusters == 3 else halves)
    monkeypatch.setattr(Ensemble, "regrouped", lambda *given: unions)
    assert found(points, 2)[0] is unions
    assert found(points, 2, dataclasses.replace(Config(), resolution=4.0))[0] is halves


def test_the_estimate_follows_the_settings() -> None:
    points, _ = cells()
    finder, usual = ensemble_of(points)[2], found(points, None)[1]
    assert usual is not None
    for resolution, shrinkage in ((2.0, Config().mixture_shrinkage), (Config().resolution, 0.05)):
        config = dataclasses.replace(Config(), resolution=resolution, mixture_shrinkage=shrinkage)
        estimate = found(points, None, config)[1]
        expected = clustering.estimate_by_mixtures(finder, clustering.Mixtures(points, shrinkage=shrinkage), resolution)
        assert estimate is not None
        np.testing.assert_array_equal(estimate.scores, expected.scores)
        assert not np.array_equal(estimate.scores, usual.scores)


def test_mixtures_of_a_view_follow_settings_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sccagn_scale.clustering._ward._EXACT_UP_TO", 100)  # k-means, which has a seed, comes first
    monkeypatch.setattr("sccagn_scale.clustering._ward._SEEDS", 40)
    points, _ = cells()
    own = mixtures_of(points, dataclasses.replace(Config(), mixture_shrinkage=0.05), 3).into(9)
    np.testing.assert_array_equal(own, clustering.Mixtures(points, shrinkage=0.05, random_state=3).into(9))
    assert (own != clustering.Mixtures(points, shrinkage=0.05, random_state=0).into(9)).any()
    assert (own != clustering.Mixtures(points, random_state=3).into(9)).any()


def test_where_cells_bear_nothing_out_there_is_a_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = cells()

    one = clustering.Estimate(1, "modularity", np.array([1]), np.array([0.5]), (1, 1))
    monkeypatch.setattr(clustering, "estimate_by_mixtures", lambda *_, **__: one)
    initial = found(points, 4)
    np.testing.assert_array_equal(initial.labels, ensemble_of(points)[0].consensus(4))
    assert initial.facts == {"method": "consensus"}


@pytest.mark.parametrize("few_cells", [20_000, 100])
def test_cells_of_one_kind_are_one_cluster(
    few_cells: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_initial, "FEW_CELLS", few_cells)
    counts = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(4, 1, 200), (600, 200))
    adata = ad.AnnData(counts.astype(np.float32))
    sccagn_scale.cluster(adata, config=TINY)
    assert adata.obs["sccagn"].cat.categories.tolist() == ["0"]
    assert adata.uns["sccagn"]["initial"] == {"method": "one cluster"}
    assert (adata.obs["sccagn_confidence"] == 1).all()
    assert "seem to be of one kind" in caplog.text
    assert sccagn_scale.recluster(adata, 2) == "sccagn_k2"
    sccagn_scale.cluster(adata, 2, TINY, key_added="two")
    assert adata.obs["two"].nunique() == 2


def test_more_clusters_than_there_can_be_parts_are_voted_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sccagn_scale")
    monkeypatch.setattr(_initial, "_DIVIDED_FROM", 10)
    adata = planted((60, 30, 20))
    sccagn_scale.cluster(adata, 40, TINY)  # parts have five cells at least
    assert adata.uns["sccagn"]["n_clusters"] == 40
    assert "cannot be divided into 40: 40 are fitted from the start" in caplog.text


def test_all_clusterings_of_all_views_vote() -> None:
    points, _ = cells()
    ensemble, [view], finder = ensemble_of(points)
    mixtures = [clustering.Mixtures(own).into(4) for own in view.embeddings]
    expected = clustering.consensus([*mixtures, finder.into(4, points)], 4)
    np.testing.assert_array_equal(ensemble.consensus(4), expected)


@pytest.mark.parametrize("n_clusters", [2, 6])
def test_clusters_are_regrouped_where_they_are_round(n_clusters: int) -> None:
    points, parts = cells()
    ensemble, [view], _ = ensemble_of(points)
    expected = [
        clustering.regrouped(own @ clustering.sphering(own, parts), parts, n_clusters) for own in view.embeddings
    ]
    regrouped = ensemble.regrouped(parts, n_clusters)
    np.testing.assert_array_equal(regrouped, clustering.consensus(expected, n_clusters))


def test_every_embedding_of_every_view_has_a_say_in_what_is_regrouped() -> None:
    rng = np.random.default_rng(5)
    clouds = [rng.normal(size=(300, 4)).astype(np.float32) for _ in range(3)]
    labels = (clouds[0][:, 0] > 0).astype(np.int64)
    adjacency = graph.adjacency(graph.neighbors(clouds[0], 15, "exact"))
    views = [View(adjacency, clouds[:2]), View(adjacency, clouds[2:])]
    finder = clustering.CommunityFinder(adjacency, 0)
    ensemble = Ensemble(clouds[0], views, finder, clustering.Mixtures(clouds[0]), config=Config(), random_state=3)
    regrouped = ensemble.regrouped(labels, 9)
    sphered = [own @ clustering.sphering(own, labels) for own in clouds]
    expected = [clustering.regrouped(own, labels, 9, random_state=3) for own in sphered]
    np.testing.assert_array_equal(regrouped, clustering.consensus(expected, 9))
    for others in (expected[:2], expected[2:], [clustering.regrouped(own, labels, 9) for own in sphered]):
        assert (clustering.consensus(others, 9) != regrouped).any()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12))
def test_regrouped_clusters_are_nested(n_clusters: int) -> None:
    points, parts = cells()
    labels = clustering.regrouped(points, parts, n_clusters)
    assert np.bincount(labels).tolist() == sorted(np.bincount(labels), reverse=True)
    assert labels.max() + 1 == n_clusters
    both = np.unique(np.column_stack([labels, parts]), axis=0)
    assert len(both) == max(n_clusters, 4)
