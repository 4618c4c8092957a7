"""AnnData in, labels out: the whole job through the Python interface."""

from __future__ import annotations

import copy
import dataclasses
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score

import sccagn_scale
from sccagn_scale import SCCAGN, Config, InputError, InputWarning, cluster, train

FAST = dataclasses.replace(Config(), pretrain_steps=20, joint_steps=10, n_init=2)
TINY = dataclasses.replace(FAST, pretrain_steps=2, joint_steps=2)


def planted(sizes: tuple[int, ...] = (150, 100, 50), n_vars: int = 200, seed: int = 0) -> ad.AnnData:
    """Counts of types that each raise twenty genes of their own fourfold, cells in mixed order."""
    rng = np.random.default_rng(seed)
    types = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = np.tile(rng.gamma(2, 1, n_vars), (len(sizes), 1))
    for i in range(len(sizes)):
        means[i, 20 * i : 20 * (i + 1)] *= 4
    depth = rng.lognormal(0, 0.3, len(types))
    counts = rng.poisson(means[types] * depth[:, None])
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.int32)))
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    adata.obs["type"] = pd.Categorical(types.astype(str))
    return adata


def agreement(adata: ad.AnnData, key: str = "sccagn") -> float:
    return float(adjusted_rand_score(adata.obs["type"], adata.obs[key]))


def content(adata: ad.AnnData) -> dict[str, Any]:
    """All that an AnnData of `planted` holds, for comparison."""
    assert adata.X is not None
    parts: dict[str, Any] = {"X": adata.X.toarray(), "X.dtype": adata.X.dtype, "obs": adata.obs.copy()}
    return parts | {name: sorted(getattr(adata, name)) for name in ("obsm", "obsp", "uns", "layers", "varm", "var")}


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    np.testing.assert_array_equal(before.pop("X"), after.pop("X"))
    pd.testing.assert_frame_equal(before.pop("obs"), after.pop("obs"))
    assert before == after


@pytest.fixture(scope="module")
def blood() -> ad.AnnData:
    """Real cells: X is z-scored, the log-normalised values are in `raw`."""
    return sc.datasets.pbmc68k_reduced()


@pytest.fixture(scope="module")
def clustered(blood: ad.AnnData) -> ad.AnnData:
    adata = blood.copy()
    cluster(adata, config=FAST, layer="raw")
    return adata


# --- what is written


def test_keys_and_types(clustered: ad.AnnData, blood: ad.AnnData) -> None:
    n = blood.n_obs
    labels = clustered.obs["sccagn"]
    record = clustered.uns["sccagn"]
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert all(isinstance(name, str) for name in labels.cat.categories)
    assert labels.notna().all()
    assert labels.value_counts(sort=False).is_monotonic_decreasing  # "0" is the largest
    assert list(labels.cat.categories) == [str(i) for i in range(labels.nunique())]

    confidence = clustered.obs["sccagn_confidence"]
    assert confidence.dtype == np.float32
    assert confidence.between(1 / record["n_clusters"], 1).all()
    assert (clustered.obsm["X_sccagn"].shape, clustered.obsm["X_sccagn"].dtype) == ((n, FAST.n_latent), np.float32)
    assert (clustered.obsm["X_pca"].shape, clustered.obsm["X_pca"].dtype) == ((n, FAST.n_comps), np.float32)
    assert np.isfinite(clustered.obsm["X_sccagn"]).all()

    distances, graph = clustered.obsp["distances"], clustered.obsp["connectivities"]
    for matrix in (distances, graph):
        assert (matrix.format, matrix.dtype, matrix.shape) == ("csr", np.float32, (n, n))
        assert matrix.diagonal().sum() == 0
    assert (np.diff(distances.indptr) == FAST.n_neighbors - 1).all()  # `n_neighbors` counts the cell itself
    assert (graph != graph.T).nnz == 0
    assert clustered.uns["neighbors"]["params"]["n_neighbors"] == FAST.n_neighbors


def test_record_of_the_run(clustered: ad.AnnData) -> None:
    record = clustered.uns["sccagn"]
    assert set(record) == {
        "params", "versions", "n_clusters", "n_clusters_evidence", "preprocessing", "graph", "history", "stopped"
    }  # fmt: skip
    assert record["params"]["n_clusters"] == "auto"
    assert (record["params"]["layer"], record["params"]["random_state"]) == ("raw", 0)
    assert record["params"]["n_latent"] == FAST.n_latent
    assert record["versions"]["torch"] == torch.__version__
    assert record["preprocessing"]["input_kind"] == "log"
    assert (record["graph"]["backend"], record["graph"]["recall"]) == ("exact", 1.0)
    assert record["stopped"] in ("settled", "plateau", "budget")
    evidence = record["n_clusters_evidence"]
    assert evidence["n_clusters"][np.argmax(evidence["score"])] == record["n_clusters"]
    low, high = evidence["plausible"]
    assert 2 <= low <= record["n_clusters"] <= high
    assert set(record["history"]) >= {
        "stage",
        "epoch",
        "loss",
        "reconstruction",
        "adversarial",
        "clustering",
        "changed",
    }


def test_what_was_there_is_kept(clustered: ad.AnnData, blood: ad.AnnData) -> None:
    np.testing.assert_array_equal(clustered.X, blood.X)
    np.testing.assert_array_equal(clustered.raw.X.toarray(), blood.raw.X.toarray())
    pd.testing.assert_frame_equal(clustered.obs[blood.obs.columns], blood.obs)
    np.testing.assert_array_equal(clustered.obsm["X_umap"], blood.obsm["X_umap"])


def test_scanpy_goes_on_from_the_result(clustered: ad.AnnData, tmp_path: Path) -> None:
    adata = clustered.copy()
    del adata.obsm["X_umap"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's and umap-learn's own
        sc.tl.umap(adata, maxiter=5)
        sc.tl.rank_genes_groups(adata, "sccagn", use_raw=True)
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)
    assert np.isfinite(adata.obsm["X_umap"]).all()
    names = adata.uns["rank_genes_groups"]["names"]
    assert set(names.dtype.names) == set(adata.obs["sccagn"].cat.categories)

    clustered.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_series_equal(back.obs["sccagn"], clustered.obs["sccagn"])
    np.testing.assert_array_equal(back.obsm["X_sccagn"], clustered.obsm["X_sccagn"])
    assert (back.obsp["connectivities"] != clustered.obsp["connectivities"]).nnz == 0
    assert back.uns["sccagn"]["n_clusters"] == clustered.uns["sccagn"]["n_clusters"]
    np.testing.assert_array_equal(back.uns["sccagn"]["history"]["loss"], clustered.uns["sccagn"]["history"]["loss"])


def test_key_added_names_everything(blood: ad.AnnData) -> None:
    adata = planted()
    cluster(adata, 3, TINY, key_added="mine")
    assert {"mine", "mine_confidence"} <= set(adata.obs)
    assert "X_mine" in adata.obsm
    assert "mine" in adata.uns
    assert not any("sccagn" in key for part in (adata.obs, adata.obsm, adata.obsp, adata.uns) for key in part)


def test_model_attributes() -> None:
    adata = planted()
    before = content(adata)
    model = SCCAGN(adata, 3, FAST).train()
    assert_same(before, content(adata))  # only `write_to` writes

    soft = model.soft_assignments_
    assert (soft.shape, soft.dtype) == ((300, 3), np.float32)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(soft.argmax(1), model.labels_)
    np.testing.assert_allclose(soft.max(1), model.confidence_, rtol=1e-5)
    assert model.labels_.dtype == np.int64
    assert model.embedding_.shape == (300, FAST.n_latent)
    assert (model.n_clusters_, model.estimate_) == (3, None)
    counts = model.history_["stage"].value_counts()
    assert 0 < counts["pretrain"] <= FAST.pretrain_steps
    assert 0 < counts["joint"] <= FAST.joint_steps
    assert np.isfinite(model.history_["loss"]).all()

    model.write_to(adata)
    np.testing.assert_array_equal(adata.obs["sccagn"].astype(int), model.labels_)
    with pytest.raises(InputError, match=r"`adata` must hold the 300 cells the model was made with; it has 299\."):
        model.write_to(adata[1:].copy())


# --- how good it is, and how steady


@pytest.mark.parametrize("n_clusters", [3, None])
def test_planted_types_are_found(n_clusters: int | None) -> None:
    adata = planted()
    cluster(adata, n_clusters, FAST)
    assert adata.obs["sccagn"].nunique() == 3
    assert adata.uns["sccagn"]["n_clusters"] == 3
    assert agreement(adata) > 0.9


def test_seed_decides_everything() -> None:
    first, again, other = (SCCAGN(planted(), 3, FAST, random_state=seed).train() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.labels_, again.labels_)
    np.testing.assert_array_equal(first.embedding_, again.embedding_)
    pd.testing.assert_frame_equal(first.history_, again.history_)
    assert not np.array_equal(first.embedding_, other.embedding_)


def test_global_generators_are_left_alone_and_have_no_say() -> None:
    def state() -> tuple[bytes, bytes, object]:
        return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()).encode(), random.getstate()  # noqa: NPY002

    before = state()
    first = SCCAGN(planted(), None, TINY).train()
    assert state() == before
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    again = SCCAGN(planted(), None, TINY).train()
    np.testing.assert_array_equal(first.embedding_, again.embedding_)


# --- input


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: sp.csc_matrix(x), id="csc"),
        pytest.param(lambda x: x.toarray(), id="dense"),
        pytest.param(lambda x: np.asfortranarray(x.toarray()), id="dense-by-column"),
        pytest.param(lambda x: sp.csr_array(x), id="csr_array"),
        pytest.param(lambda x: x.astype(np.uint16), id="uint16"),
        pytest.param(lambda x: x.astype(np.int64), id="int64"),
    ],
)
def test_storage_makes_no_difference(change: Callable[[Any], Any]) -> None:
    adata = planted()
    expected = SCCAGN(adata, 3, TINY).train()
    adata.X = change(adata.X)
    found = SCCAGN(adata, 3, TINY).train()
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    np.testing.assert_array_equal(found.embedding_, expected.embedding_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("ignore::sccagn_scale._errors.InputWarning")
def test_float_counts_are_counts(dtype: type) -> None:
    adata = planted()
    expected = SCCAGN(adata, 3, TINY).train()
    adata.X = adata.X.astype(dtype)
    found = SCCAGN(adata, 3, TINY).train()
    assert found.recipe_.input_kind == "counts"
    np.testing.assert_array_equal(found.embedding_, expected.embedding_)


def test_layers_raw_and_explicit_zeros() -> None:
    adata = planted()
    expected = SCCAGN(adata, 3, TINY).train()
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    for layer in ("counts", "raw"):
        np.testing.assert_array_equal(SCCAGN(adata, 3, TINY, layer=layer).train().embedding_, expected.embedding_)
    x = adata.layers["counts"]
    padded = sp.csr_matrix(
        (np.append(x.data, [0, 0]), np.append(x.indices, [3, 4]), np.append(x.indptr[:-1], x.nnz + 2)), x.shape
    )
    adata.layers["zeros"] = padded
    np.testing.assert_array_equal(SCCAGN(adata, 3, TINY, layer="zeros").train().embedding_, expected.embedding_)
    assert padded.nnz == x.nnz + 2  # the user's own matrix keeps them


def test_kinds_of_values_agree() -> None:
    """Counts, the same scaled to one total, and the logarithm of that are the same cells."""
    adata = planted()
    counts = adata.X.astype(np.float64)
    totals = np.asarray(counts.sum(1)).ravel()
    linear = sp.diags(1e6 / totals) @ counts  # as TPM
    log = (sp.diags(np.median(totals) / totals) @ counts).log1p()
    expected = SCCAGN(adata, 3, FAST).train()
    adata.X = sp.csr_matrix(linear)
    with pytest.warns(InputWarning, match="neither counts nor logged"):
        from_linear = SCCAGN(adata, 3, dataclasses.replace(FAST, target_sum=float(np.median(totals)))).train()
    adata.X = sp.csr_matrix(log)
    from_log = SCCAGN(adata, 3, FAST).train()
    kinds = [model.recipe_.input_kind for model in (expected, from_linear, from_log)]
    assert kinds == ["counts", "linear", "log"]
    for model in (from_linear, from_log):
        assert adjusted_rand_score(model.labels_, expected.labels_) > 0.98
        np.testing.assert_allclose(np.abs(model.pcs_), np.abs(expected.pcs_), atol=1e-3)  # signs may turn


def test_cells_that_fail_quality_control_have_no_result() -> None:
    adata = planted()
    poor = [0, 7, 299]
    lil = adata.X.tolil()
    lil[poor] = 0
    lil[7, 5] = 1
    adata.X = lil.tocsr()
    cluster(adata, 3, FAST)
    failed = np.isin(np.arange(300), poor)
    np.testing.assert_array_equal(adata.obs["sccagn"].isna(), failed)
    for values in (adata.obs["sccagn_confidence"].to_numpy()[:, None], adata.obsm["X_sccagn"], adata.obsm["X_pca"]):
        np.testing.assert_array_equal(np.isnan(values), np.broadcast_to(failed[:, None], values.shape))
    for key in ("distances", "connectivities"):
        np.testing.assert_array_equal(np.diff(adata.obsp[key].indptr) == 0, failed)
        assert not np.isin(adata.obsp[key].indices, poor).any()
    assert adata.uns["sccagn"]["preprocessing"]["n_obs_kept"] == 297
    assert adjusted_rand_score(adata.obs["type"][~failed], adata.obs["sccagn"][~failed]) > 0.9


# --- every part can be switched


@pytest.mark.parametrize("fusion", ["attention", "concat", "multiply", "none"])
@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
def test_every_convolution_with_every_fusion(conv: Any, fusion: Any) -> None:
    _runs(dataclasses.replace(TINY, conv=conv, fusion=fusion))


@pytest.mark.parametrize(
    "changes",
    [
        *({"n_heads": heads} for heads in (0, 1, 2, 8)),
        {"discriminator": False},
        {"weight_clustering": 0.0, "weight_adversarial": 0.0},
        {"weight_reconstruction": 0.0, "weight_adversarial": 0.0},
        {"weight_reconstruction": 0.0, "weight_clustering": 0.0},
        {"phi": 0.0},
        {"tau": 1.0},
        {"n_anchors": 16},
        {"attention_scope": "subgraph"},
        {"attention_scope": "full", "loader": "full"},
        {"loader": "partition", "batch_size": 100},
        {"loader": "neighbor", "batch_size": 100, "n_fanout": (3,)},
        {"loader": "neighbor", "batch_size": 100, "pretrain_batch_size": 50, "input_rep": "genes"},
        {"loader": "neighbor", "batch_size": 100, "conv": "gat"},
        {"loader": "full", "batch_size": 100},
        {"input_rep": "genes"},
        {"graph_rep": "genes"},
        {"input_rep": "genes", "conv": "gat"},
        {"input_rep": "genes", "conv": "sage"},
        {"init": "kmeans"},
        {"prune": False},
        {"metric": "cosine"},
        {"knn_backend": "hnsw"},
        {"knn_backend": "ivf"},
        {"knn_backend": "ivf_graph"},
        {"knn_backend": "torch_exact"},
        {"pretrain_steps": 0, "joint_steps": 0},
        {"n_top_genes": 30, "n_comps": 10},
        {"n_latent": 16, "n_hidden": (50, 60, 60)},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_part_can_be_switched(changes: dict[str, Any]) -> None:
    _runs(dataclasses.replace(TINY, **changes))


@pytest.mark.parametrize(
    ("changes", "pretraining", "joint"),
    [
        ({}, "Prefetch", "Prefetch"),
        ({"loader": "partition"}, "Prefetch", "Prefetch"),
        ({"loader": "neighbor"}, "Prefetch", "Prefetch"),
        ({"loader": "full"}, "Prefetch", "FullLoader"),
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


def _runs(config: Config) -> None:
    model = SCCAGN(planted(), 3, config).train()
    assert model.embedding_.shape == (300, config.n_latent)
    assert np.isfinite(model.embedding_).all()
    assert set(model.labels_) <= {0, 1, 2}
    assert np.isfinite(model.history_.drop(columns=["stage", "changed"]).to_numpy(float)).all()


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


def test_batches_of_part_of_the_graph() -> None:
    adata = planted()
    config = dataclasses.replace(FAST, batch_size=100, pretrain_batch_size=50, pretrain_steps=60, joint_steps=30)
    model = SCCAGN(adata, 3, config).train()
    assert model.history_["stage"].eq("joint").sum() <= 10  # three batches to an epoch
    assert adjusted_rand_score(adata.obs["type"], model.labels_) > 0.9


def test_paper_preset() -> None:
    adata = planted()
    paper = dataclasses.replace(Config.preset("paper"), pretrain_steps=30, joint_steps=10, n_init=5)
    model = SCCAGN(adata, 3, paper).train()
    assert adjusted_rand_score(adata.obs["type"], model.labels_) > 0.9
    assert model.neighbors_.indices.shape[1] == 11  # ten and the cell itself
    named = SCCAGN(adata, 3, "paper")
    assert named.config == Config.preset("paper")


# --- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 1}, r"`n_clusters` must be at least 2; it is 1\."),
        ({"n_clusters": 301}, r"`n_clusters` = 301 needs at least as many cells; there are 300"),
        ({"n_clusters": 2.5}, r"`n_clusters` must be a whole number or None; it is 2\.5\."),
        ({"n_clusters": True}, r"`n_clusters` must be a whole number or None; it is True\."),
        (
            {"config": dataclasses.replace(Config(), n_neighbors=301)},
            r"`n_neighbors` = 301 needs at least as many cells",
        ),
        ({"config": "best"}, r"`config` must be a Config or one of 'default', 'paper'; it is 'best'\."),
        ({"layer": "counts"}, r"`layer` must be one of None \(X\); there is no 'counts'\."),
        ({"layer": "raw"}, r"`layer` must be one of None \(X\); there is no 'raw'\."),
        ({"device": "tpu"}, r"`device` must be 'auto', 'cpu' or 'cuda'; it is 'tpu'\."),
        (
            {"config": dataclasses.replace(Config(), min_cells_frac=1.0)},
            "`min_cells_frac` = 1 filters out all 200 genes",
        ),
        (
            {"config": dataclasses.replace(Config(), min_genes_frac=1.0)},
            "`min_genes_frac` = 1 filters out all 300 cells",
        ),
    ],
)
def test_wrong_parameters_change_nothing(options: dict[str, Any], message: str) -> None:
    adata = planted()
    before = content(adata)
    with pytest.raises(InputError, match=message) as error:
        cluster(adata, **options)
    assert "\n" not in str(error.value)
    assert_same(before, content(adata))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_to_use() -> None:
    with pytest.raises(InputError, match="`device` = 'cuda' needs a GPU"):
        cluster(planted(), device="cuda")


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "negative values"), (np.nan, "1 NaN or infinite"), (np.inf, "1 NaN or infinite")],
)
def test_values_that_cannot_be_clustered(value: float, message: str) -> None:
    adata = planted()
    adata.X = adata.X.astype(np.float32)
    adata.X.data[5] = value
    before = content(adata)
    with pytest.raises(InputError, match=message):
        cluster(adata)
    assert_same(before, content(adata))


def test_empty_matrices() -> None:
    for shape in ((0, 5), (5, 0)):
        with pytest.raises(InputError):
            cluster(ad.AnnData(sp.csr_matrix(shape, dtype=np.float32)))
    with pytest.raises(InputError, match="filters out all"):
        cluster(ad.AnnData(sp.csr_matrix((30, 20), dtype=np.int32)))


def test_quality_control_can_leave_too_few_cells() -> None:
    adata = planted()
    lil = adata.X.tolil()
    lil[10:] = 0
    adata.X = lil.tocsr()
    before = content(adata)
    with pytest.raises(InputError, match=r"`n_neighbors`"):
        cluster(adata, 3, TINY)
    few = dataclasses.replace(TINY, n_neighbors=4)
    with pytest.raises(InputError, match=r"`n_clusters` = 11 needs at least as many cells; there are 10 that pass"):
        cluster(adata, 11, few)
    assert_same(before, content(adata))


def test_failure_while_training_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = planted()
    before = content(adata)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("sccagn_scale.train.train_jointly", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        cluster(adata, 3, TINY)
    assert_same(before, content(adata))


def test_no_argument_could_carry_a_label() -> None:
    """Types in the AnnData have no influence either."""
    adata = planted()
    with_types = SCCAGN(adata, None, TINY).train()
    bare = ad.AnnData(copy.copy(adata.X))
    without = SCCAGN(bare, None, TINY).train()
    np.testing.assert_array_equal(with_types.embedding_, without.embedding_)


# --- large data, made small


@pytest.mark.parametrize("threads", ["1", "2"])
def test_blocks_groups_and_a_file_change_nothing_that_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    """As an atlas is treated: X left in its file, many blocks, communities sought on groups of cells."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    adata = planted()
    cluster(adata, config=FAST)
    planted().write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("sccagn_scale.pp._matrix.BLOCK_SIZE", 32)
    monkeypatch.setattr("sccagn_scale.model._model._SKETCH", 60)
    seen = []
    finder = train.CommunityFinder
    monkeypatch.setattr(train, "CommunityFinder", lambda *a, **k: seen.append(k["groups"]) or finder(*a, **k))
    backed = sccagn_scale.read(tmp_path / "cells.h5ad", backed=True)
    cluster(backed, config=FAST)
    assert backed.isbacked
    assert len(set(seen[0].tolist())) < 100 < len(seen[0])
    assert backed.obs["sccagn"].nunique() == adata.obs["sccagn"].nunique() == 3
    assert adjusted_rand_score(adata.obs["sccagn"], backed.obs["sccagn"]) > 0.97
    # the two components that are not noise
    np.testing.assert_allclose(backed.obsm["X_pca"][:, :2], adata.obsm["X_pca"][:, :2], atol=1e-4)
