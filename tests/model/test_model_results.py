"""What a run writes into the AnnData, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pickle
import re
import warnings
from pathlib import Path

import anndata as ad
import faiss
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from model_samples import FAST, TINY, assert_same, content, planted

from sccagn_scale import SCCAGN, InputError, _compat, cluster
from sccagn_scale.model._results import _over_all, versions


@pytest.fixture(scope="module")
def blood() -> ad.AnnData:
    """Real cells: X is z-scored, the log-normalised values are in `raw`."""
    return sc.datasets.pbmc68k_reduced()


@pytest.fixture(scope="module")
def clustered(blood: ad.AnnData) -> ad.AnnData:
    adata = blood.copy()
    cluster(adata, config=FAST, layer="raw")
    return adata


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
        "params", "versions", "n_clusters", "n_clusters_evidence", "initial", "preprocessing", "graph", "history",
        "stopped",
    }  # fmt: skip
    assert record["initial"] == {"method": "consensus"}
    assert record["params"]["n_clusters"] == "auto"
    assert (record["params"]["layer"], record["params"]["random_state"]) == ("raw", 0)
    assert record["params"]["n_latent"] == FAST.n_latent
    for package in ("torch", "faiss-cpu"):
        assert record["versions"][package] == importlib.metadata.version(package)
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
    assert "PCs" in blood.varm
    assert "pca" in blood.uns
    np.testing.assert_array_equal(clustered.X, blood.X)
    np.testing.assert_array_equal(clustered.raw.X.toarray(), blood.raw.X.toarray())
    pd.testing.assert_frame_equal(clustered.obs[blood.obs.columns], blood.obs)
    np.testing.assert_array_equal(clustered.obsm["X_umap"], blood.obsm["X_umap"])
    np.testing.assert_array_equal(clustered.varm["PCs"], blood.varm["PCs"])
    np.testing.assert_equal(clustered.uns["pca"], blood.uns["pca"])


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


def test_the_graph_of_genes_names_no_representation() -> None:
    params = {}
    for rep in ("pca", "genes"):
        adata = planted()
        cluster(adata, 3, dataclasses.replace(TINY, graph_rep=rep))
        params[rep] = adata.uns["neighbors"]["params"]
    assert params["pca"]["use_rep"] == "X_pca"
    assert "use_rep" not in params["genes"]


def test_progress_shows_what_the_command_line_shows(capsys: pytest.CaptureFixture[str]) -> None:
    adata = planted()
    cluster(adata, None, TINY)
    assert capsys.readouterr() == ("", "")
    cluster(adata, None, TINY, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    stages = [line.split(":")[0] for line in err.splitlines() if re.match(r"[A-Z][a-z ]+: \d", line)]
    assert stages == ["Preprocess", "Neighbors", "Pretrain", "Initial clusters", "Joint training", "Read out"]
    assert "The number of clusters is estimated as 3" in err


def test_a_model_can_be_pickled_whatever_it_showed(tmp_path: Path) -> None:
    model = SCCAGN(planted(), 3, TINY, progress=True).train()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.labels_, model.labels_)
    model.save(tmp_path / "kept")
    pickle.dumps(SCCAGN.load(tmp_path / "kept", planted(), progress=True))
    negative = planted()
    negative.X.data[0] = -1
    failed = SCCAGN(negative, 3, TINY, progress=True)
    with pytest.raises(InputError, match="negative"):
        failed.train()
    pickle.dumps(failed)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.floats(0, 1), st.integers(0, 99))
def test_a_matrix_of_the_kept_cells_is_spread_over_all(keep: list[bool], density: float, seed: int) -> None:
    there = np.array(keep)
    matrix = sp.random(there.sum(), there.sum(), density, format="csr", dtype=np.float32, random_state=seed)
    spread = _over_all(matrix, there)
    assert (spread.format, spread.dtype, spread.shape) == ("csr", np.float32, (len(keep), len(keep)))
    spread.check_format(full_check=True)
    np.testing.assert_array_equal(spread[there][:, there].toarray(), matrix.toarray())
    assert spread.nnz == matrix.nnz  # so that the others have none


@pytest.mark.parametrize(("absent", "expected"), [(("faiss-cpu",), "1"), (_compat._FAISS, faiss.__version__)])
def test_faiss_may_come_as_another_distribution(
    monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], expected: str
) -> None:
    def version(name: str) -> str:
        if name in absent:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(_compat, "version", version)
    found = versions()
    assert found["faiss"] == expected
    assert "faiss-cpu" not in found
