"""The views that a consensus is made from, and when there is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from model_samples import TINY, planted, two_batches
from sklearn.metrics import adjusted_rand_score

import sccagn_scale
from sccagn_scale import Config, clustering, graph, pp
from sccagn_scale._memory import Scratch
from sccagn_scale.model._initial import choose_init
from sccagn_scale.model._prepare import Prepared, prepare
from sccagn_scale.model._views import View, find_views

CONFIG = dataclasses.replace(Config(), n_latent=6, n_comps=12, n_heads=1)


def views_of(config: Config) -> tuple[Prepared, np.ndarray, list[View]]:
    prepared = prepare(planted(), config, layer=None, random_state=0, scaled=True)[1]
    adjacency = graph.adjacency(graph.neighbors(prepared.pcs, config.n_neighbors, "exact"))
    z = np.random.default_rng(0).normal(size=(len(prepared.pcs), config.n_latent)).astype(np.float32)
    return prepared, z, list(find_views(prepared, adjacency, z, config, device=torch.device("cpu")))


def test_components_are_averaged_over_each_graph_as_the_encoder_averages_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sccagn_scale.model._views._COLUMNS", 3)
    prepared, z, views = views_of(CONFIG)
    assert [[own.shape[1] for own in view.embeddings] for view in views] == [[5, 6, 7]] * 3
    assert views[0].embeddings[1] is z
    scores = prepared.pcs[:, :7].astype(np.float64)
    scores = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    for view in views:
        over = graph.normalized(view.adjacency).toarray().astype(np.float64)
        first = 0.5 * scores + 0.5 * over @ scores
        second = 0.5 * first + 0.5 * over @ over @ scores
        expected = 0.5 * second + 0.5 * over @ over @ scores
        np.testing.assert_allclose(view.embeddings[2], expected, atol=1e-4)
        np.testing.assert_allclose(view.embeddings[0], expected[:, :5], atol=1e-4)


def test_graphs_are_those_of_the_scaled_components_and_of_both() -> None:
    prepared, _, views = views_of(CONFIG)
    assert prepared.scaled_pcs is not None
    both = np.hstack([own / np.sqrt((own**2).sum(axis=1).mean()) for own in (prepared.pcs, prepared.scaled_pcs)])
    for view, points in zip(views[1:], (prepared.scaled_pcs, both), strict=True):
        expected = graph.adjacency(graph.neighbors(points, CONFIG.n_neighbors, "exact"))
        assert (view.adjacency != expected).nnz <= 0.001 * expected.nnz  # rounding may turn ties
    differ = [(views[i].adjacency != views[j].adjacency).nnz for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(differ) > 100


def test_components_without_variance_stay_quiet() -> None:
    prepared, z, _ = views_of(CONFIG)
    pcs = prepared.pcs.copy()
    pcs[:, 6] = 0
    adjacency = graph.adjacency(graph.neighbors(pcs, CONFIG.n_neighbors, "exact"))
    flat = dataclasses.replace(prepared, pcs=pcs)
    for view in find_views(flat, adjacency, z, CONFIG, device=torch.device("cpu")):
        np.testing.assert_array_equal(view.embeddings[2][:, 6], 0)
        assert np.isfinite(view.embeddings[2]).all()


def test_no_more_components_than_there_are() -> None:
    _, _, views = views_of(dataclasses.replace(CONFIG, n_latent=12))
    assert [own.shape[1] for own in views[0].embeddings] == [10, 12]
    _, _, views = views_of(dataclasses.replace(CONFIG, n_latent=1))
    assert [own.shape[1] for own in views[0].embeddings] == [1]


def test_of_many_cells_a_view_has_one_embedding_that_of_the_run_in_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, few = views_of(CONFIG)
    monkeypatch.setattr("sccagn_scale.model._views.FEW_CELLS", len(few[0].embeddings[0]) - 1)
    _, z, many = views_of(CONFIG)
    assert [len(view.embeddings) for view in many] == [1, 1, 1]
    assert many[0].embeddings[0] is z
    monkeypatch.setattr("sccagn_scale.model._views.FEW_CELLS", len(z))
    assert [len(view.embeddings) for view in views_of(CONFIG)[2]] == [3, 3, 3]
    for own, other in zip(many[1:], few[1:], strict=True):
        np.testing.assert_allclose(own.embeddings[0], other.embeddings[1], atol=1e-6)
        assert (own.adjacency != other.adjacency).nnz == 0


def test_on_disk_they_are_the_same(tmp_path: Path) -> None:
    prepared, z, views = views_of(CONFIG)
    kept = find_views(prepared, views[0].adjacency, z, CONFIG, device=torch.device("cpu"), scratch=Scratch(tmp_path))
    for own, other in zip(kept, views, strict=True):
        np.testing.assert_array_equal(own.adjacency.toarray(), other.adjacency.toarray())
        for one, two in zip(own.embeddings, other.embeddings, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("init", "n_clusters", "n_obs", "expected"),
    [
        ("auto", None, 20_000, "consensus"),
        ("auto", 5, 20_000, "consensus"),
        ("auto", None, 20_001, "leiden"),
        ("auto", 5, 20_001, "consensus"),
        ("consensus", None, 10**6, "consensus"),
        ("ward", None, 10, "ward"),
    ],
)
def test_there_is_a_consensus_unless_many_cells_have_their_number_of_clusters_estimated(
    init: str, n_clusters: int | None, n_obs: int, expected: str
) -> None:
    assert choose_init(dataclasses.replace(Config(), init=init), n_clusters, n_obs) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("few", [20_000, 300, 50])
@pytest.mark.parametrize("n_clusters", [None, 3])
def test_clusters_from_a_consensus_are_the_planted_types(
    n_clusters: int | None, few: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sccagn_scale")
    for module in ("_views", "_initial"):
        monkeypatch.setattr(f"sccagn_scale.model.{module}.FEW_CELLS", few)
    adata = planted()
    sccagn_scale.cluster(adata, n_clusters, dataclasses.replace(TINY, init="consensus"))
    assert adjusted_rand_score(adata.obs["type"], adata.obs["sccagn"]) > 0.95
    assert ("agree more over the three cell graphs" in caplog.text) == (few < adata.n_obs)  # one kind has voted
    [winner] = [line.split(" agree")[0] for line in caplog.messages if " agree more" in line] or [None]
    kinds = {None: "consensus", "Gaussian mixtures": "consensus of mixtures"}
    kinds["Leiden communities"] = "consensus of communities"
    assert adata.uns["sccagn"]["initial"] == {"method": kinds[winner]}


def test_of_many_cells_communities_are_sought_among_groups_in_every_view(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_views", "_initial"):
        monkeypatch.setattr(f"sccagn_scale.model.{module}.FEW_CELLS", 50)
    monkeypatch.setattr("sccagn_scale.model._initial._SKETCH", 60)
    seen, finder = [], clustering.CommunityFinder
    monkeypatch.setattr(clustering, "CommunityFinder", lambda *a, **k: seen.append(k.get("groups")) or finder(*a, **k))
    adata = planted()
    sccagn_scale.cluster(adata, 3, dataclasses.replace(TINY, init="consensus"))
    assert len(seen) == 3
    assert all(len(np.unique(groups)) < 100 < len(groups) for groups in seen)
    assert adjusted_rand_score(adata.obs["type"], adata.obs["sccagn"]) > 0.95


def test_with_batches_both_sets_of_components_are_corrected() -> None:
    pytest.importorskip("harmonypy")
    adata = two_batches()
    plain, corrected = (
        prepare(adata, CONFIG, layer=None, random_state=0, batch_key=key, scaled=True)[1] for key in (None, "batch")
    )
    assert plain.scaled_pcs is not None
    batches = pp.select_batches(adata, "batch", plain.keep_obs)
    expected = pp.correct_batches(plain.scaled_pcs, batches, random_state=0)
    np.testing.assert_allclose(corrected.scaled_pcs, expected, atol=1e-4)
    assert np.abs(expected - plain.scaled_pcs).max() > 0.1
