"""Every part can be switched."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import TINY, planted
from sklearn.metrics import homogeneity_score

from sccagn_scale import SCCAGN, Config, train
from sccagn_scale._seed import seeded
from sccagn_scale.model._setup import pick_device


@pytest.mark.parametrize("fusion", ["attention", "add", "concat", "multiply", "none"])
@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
def test_every_convolution_with_every_fusion(conv: Any, fusion: Any) -> None:
    _finds_the_types(dataclasses.replace(TINY, conv=conv, fusion=fusion))


CHANGES: list[dict[str, Any]] = [
    *({"n_heads": heads} for heads in (1, 2, 8)),
    {"weight_adversarial": 0.0},
    {"weight_clustering": 0.0, "weight_adversarial": 0.0},
    {"weight_reconstruction": 0.0, "weight_adversarial": 0.0},
    {"weight_reconstruction": 0.0, "weight_clustering": 0.0},
    {"phi": 0.0},
    {"tau": 1.0},
    {"n_attended": 16},
    {"loader": "partition", "batch_size": 100},
    {"loader": "neighbor", "batch_size": 100, "n_fanout": (3,)},
    {"loader": "neighbor", "batch_size": 100, "pretrain_batch_size": 50, "input_rep": "genes"},
    {"loader": "neighbor", "batch_size": 100, "conv": "gat"},
    {"input_rep": "genes"},
    {"graph_rep": "genes"},
    {"input_rep": "genes", "conv": "gat"},
    {"input_rep": "genes", "conv": "sage"},
    *({"init": init} for init in ("leiden", "ward", "mixture", "kmeans")),
    {"prune": False},
    {"metric": "cosine"},
    {"pretrain_steps": 0, "joint_steps": 0},
    {"n_top_genes": 30, "n_comps": 10},
    {"n_latent": 16, "n_hidden": (50, 60, 60)},
]
BACKENDS = ("exact", "hnsw", "ivf", "ivf_graph", "torch_exact")
ALIKE: list[dict[str, Any]] = [
    {"n_attended": None},
    {"n_attended": None, "batch_size": None},
    {"batch_size": None},
]
"""Changes that come to the same for so few cells."""


@pytest.mark.parametrize(
    "changes",
    [*CHANGES, *ALIKE, *({"knn_backend": backend} for backend in BACKENDS)],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_part_can_be_switched(changes: dict[str, Any]) -> None:
    _finds_the_types(dataclasses.replace(TINY, **changes))


@pytest.mark.parametrize("init", ["leiden", "ward", "mixture", "kmeans", "consensus"])
def test_how_the_first_clusters_came_about_is_kept(init: str) -> None:
    config = dataclasses.replace(TINY, init=init)
    for n_clusters in (None, 3):
        assert SCCAGN(planted(), n_clusters, config).train().initial_ == {"method": init}


@pytest.mark.parametrize("changes", ALIKE, ids=lambda changes: ",".join(changes))
def test_what_few_cells_do_not_reach_changes_nothing(changes: dict[str, Any]) -> None:
    for own, usual in zip(_outcome(dataclasses.replace(TINY, **changes)), _outcome(TINY), strict=True):
        np.testing.assert_array_equal(own, usual)


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbors_are_searched_as_asked_for(backend: Any) -> None:
    assert _trained(dataclasses.replace(TINY, knn_backend=backend)).graph_facts_["backend"] == backend


FLAT = {"joint_steps": 5, "settle_epochs": 1000, "learning_rate": 1e-6, "weight_adversarial": 0.0, "patience": 50}
"""The loss does not fall."""
OTHERWISE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(({}, changes) for changes in CHANGES),
    *(({}, {name: value}) for name, value in {"conv": "sage", "fusion": "concat", "whiten": False}.items()),
    ({"fusion": "multiply"}, {"fusion": "add"}),
    ({}, {"n_neighbors": 10}),
    ({}, {"target_sum": 1e4}),
    ({}, {"min_cells_frac": 0.3}),
    ({}, {"min_genes_frac": 0.6}),
    ({}, {"nu": 1.0}),
    ({}, {"anchor_share": 0.0}),
    ({}, {"round_clusters": False}),
    ({}, {"learning_rate": 0.001}),
    ({}, {"discriminator_learning_rate": 0.1}),
    ({}, {"weight_clustering": 0.0}),
    ({}, {"weight_reconstruction": 0.0}),
    ({}, {"n_top_genes": 100}),
    ({}, {"n_comps": 30}),
    ({}, {"n_latent": 16}),
    ({}, {"n_hidden": (50, 60, 60)}),
    ({}, {"pretrain_steps": 0}),
    ({}, {"joint_steps": 0}),
    ({"joint_steps": 60, "patience": 50, "settle_epochs": 1000}, {"settle_epochs": 1}),
    (FLAT, {"patience": 1}),
    ({"input_kind": "counts"}, {"input_kind": "log"}),
    ({"n_attended": 16}, {"n_attended": None}),
    ({"init": "kmeans"}, {"n_init": 20}),
    ({"init": "mixture"}, {"mixture_shrinkage": 0.01}),
    ({"batch_size": 100}, {"loader": "neighbor"}),
    ({"batch_size": 100}, {"batch_size": 50}),
    ({"batch_size": 100}, {"batch_size": None}),
    ({"batch_size": 100, "pretrain_batch_size": 100}, {"pretrain_batch_size": 50}),
    ({"loader": "neighbor", "batch_size": 100}, {"n_fanout": (3,)}),
    ({"joint_steps": 60, "settle_epochs": 2, "learning_rate": 0.01}, {"tolerance": 0.5}),
]
"""Settings, and a change to them that has to show."""
ELSEWHERE = {
    "knn_backend": "comes to the same for so few cells, but is told",
    "neighbor_sampler": "needs a package that may be missing",
    "resolution": "tells where the number of clusters is estimated",
}
"""Settings that have tests of their own, and why."""


def test_every_setting_is_changed_alone() -> None:
    alone = {next(iter(changes)) for _, changes in OTHERWISE if len(changes) == 1}
    assert sorted([*alone, *ELSEWHERE]) == sorted(field.name for field in dataclasses.fields(Config))


@pytest.mark.parametrize(("base", "changes"), OTHERWISE, ids=lambda changes: ",".join(changes))
def test_no_setting_is_ignored(base: dict[str, Any], changes: dict[str, Any]) -> None:
    before, after = (_outcome(dataclasses.replace(TINY, **settings)) for settings in (base, base | changes))
    assert not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))


def test_the_sampler_of_neighbors_is_the_one_asked_for() -> None:
    pytest.importorskip("torch_sparse")
    sampled = dataclasses.replace(TINY, loader="neighbor", batch_size=100)
    before, after = (
        _outcome(dataclasses.replace(sampled, neighbor_sampler=name)) for name in ("torch", "torch-sparse")
    )
    assert not np.array_equal(before[0], after[0])


@pytest.mark.parametrize(
    ("init", "few"),
    [*((init, 20_000) for init in ("consensus", "ward", "mixture", "kmeans")), ("consensus", 100), ("auto", 100)],
)
def test_a_higher_resolution_gives_more_clusters(init: Any, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_views", "_initial"):
        monkeypatch.setattr(f"sccagn_scale.model.{module}.FEW_CELLS", few)
    config = dataclasses.replace(TINY, init=init, n_comps=24, joint_steps=0, pretrain_steps=0)
    usual, fine = (
        SCCAGN(planted((60, 45, 30)), None, dataclasses.replace(config, resolution=resolution)).train().n_clusters_
        for resolution in (0.5, 4.0)
    )
    assert usual == 3 < fine


def test_a_loss_that_is_flat_ends_training() -> None:
    models = [_trained(dataclasses.replace(TINY, **FLAT | {"patience": patience})) for patience in (50, 1, 3)]
    assert [model.stopped_ for model in models] == ["budget", "plateau", "plateau"]
    assert [int((model.history_["stage"] == "joint").sum()) for model in models] == [5, 2, 4]


@functools.cache
def _trained(config: Config) -> SCCAGN:
    """A run with more clusters than there are types, so that every choice tells."""
    return SCCAGN(planted(), 8, config).train()


def _outcome(config: Config) -> list[np.ndarray]:
    """What a run comes to."""
    model = _trained(config)
    history = model.history_.drop(columns="stage").to_numpy(float)
    return [model.embedding_, model.soft_assignments_, model.adjacency_.toarray(), history]


@pytest.mark.parametrize(
    ("changes", "pretraining", "joint"),
    [
        ({}, "Prefetch", "Prefetch"),
        ({"loader": "partition"}, "Prefetch", "Prefetch"),
        ({"loader": "neighbor"}, "Prefetch", "Prefetch"),
        ({"batch_size": None}, "Prefetch", "FullLoader"),
        ({"batch_size": 300, "pretrain_batch_size": 300}, "FullLoader", "FullLoader"),
    ],
)
def test_the_graph_is_divided_where_it_is_larger_than_a_batch(
    changes: dict[str, Any], pretraining: str, joint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    for name in ("pretrain", "train_jointly"):
        stage = getattr(train, name)
        monkeypatch.setattr(
            train, name, lambda o, loader, *a, _stage=stage, **k: used.append(loader) or _stage(o, loader, *a, **k)
        )
    config = dataclasses.replace(TINY, **({"batch_size": 100, "pretrain_batch_size": 50} | changes))
    SCCAGN(planted(), 3, config).train()
    assert [type(loader).__name__ for loader in used] == [pretraining, joint]
    inner = [type(loader._loader).__name__ for loader in used if type(loader).__name__ == "Prefetch"]
    wanted = "NeighborLoader" if changes.get("loader") == "neighbor" else "PartitionLoader"
    assert set(inner) <= {wanted}


def _finds_the_types(config: Config) -> None:
    model = _trained(config)
    assert model.embedding_.shape == (300, config.n_latent)
    assert np.isfinite(model.embedding_).all()
    assert model.labels_.min() == 0
    assert model.labels_.max() < 8
    assert homogeneity_score(planted().obs["type"], model.labels_) > 0.8
    assert np.isfinite(model.history_.drop(columns=["stage", "changed"]).to_numpy(float)).all()


def test_degrees_of_freedom_are_the_latent_dimensions_unless_given() -> None:
    config = dataclasses.replace(TINY, n_latent=8)
    left, given, other = (
        SCCAGN(planted(), 3, dataclasses.replace(config, nu=nu)).train().soft_assignments_ for nu in (None, 8.0, 1.0)
    )
    np.testing.assert_array_equal(left, given)
    assert not np.allclose(left, other)


def test_a_weight_of_zero_takes_the_loss_away() -> None:
    parts = {"weight_reconstruction": "reconstruction", "weight_adversarial": "adversarial"}
    for weight, name in {**parts, "weight_clustering": "clustering"}.items():
        off = dict.fromkeys([*parts, "weight_clustering"], 0.0) | {weight: 1.0}
        history = SCCAGN(planted(), 3, dataclasses.replace(TINY, **off)).train().history_
        joint = history[history["stage"] == "joint"]
        assert (joint[name] > 0).all()
        assert (joint[[other for other in ("reconstruction", "adversarial", "clustering") if other != name]] == 0).all(
            None
        )


def test_a_gpu_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads, such as the one that prepares batches, would take "cuda" for the first."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cpu") == torch.device("cpu")


def test_parameters_come_from_the_seed_and_no_global_generator_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's generator was seeded"))
    before = torch.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        with seeded(seed):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)
