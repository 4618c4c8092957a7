"""The same cells in every kind of matrix, and cells that fail quality control."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from model_samples import FAST, TINY, planted
from sklearn.metrics import adjusted_rand_score

from sccagn_scale import SCCAGN, InputWarning
from sccagn_scale.io import open_atlas
from sccagn_scale.model import _prepare
from sccagn_scale.model._prepare import prepare


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
    model = SCCAGN(adata, 3, FAST).train()
    model.write_to(adata)
    failed = np.isin(np.arange(300), poor)
    np.testing.assert_array_equal(adata.obs["sccagn"].isna(), failed)
    np.testing.assert_array_equal(model.labels_ < 0, failed)
    assert model.soft_assignments_.shape == (300, 3)
    written = (adata.obs["sccagn_confidence"].to_numpy()[:, None], adata.obsm["X_sccagn"], adata.obsm["X_pca"])
    for values in (*written, model.confidence_[:, None], model.soft_assignments_):
        np.testing.assert_array_equal(np.isnan(values), np.broadcast_to(failed[:, None], values.shape))
    for key in ("distances", "connectivities"):
        np.testing.assert_array_equal(np.diff(adata.obsp[key].indptr) == 0, failed)
        assert not np.isin(adata.obsp[key].indices, poor).any()
    assert adata.uns["sccagn"]["preprocessing"]["n_obs_kept"] == 297
    assert adjusted_rand_score(adata.obs["type"][~failed], adata.obs["sccagn"][~failed]) > 0.9


def test_axes_of_very_many_cells_are_those_of_every_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    adata, config = planted((600, 450, 300)), dataclasses.replace(TINY, target_sum=1000.0)
    third = prepare(adata[::3].copy(), config, layer=None, random_state=0)[0]
    monkeypatch.setattr(_prepare, "_ENOUGH_FOR_AXES", 400)
    whole, cells = prepare(adata, config, layer=None, random_state=0)
    assert len(whole.chosen) == len(third.chosen) == 200
    np.testing.assert_allclose(whole.pca.components, third.pca.components, atol=1e-6)
    assert cells.pcs.shape == (1350, config.n_comps)
    on_genes = dataclasses.replace(config, input_rep="genes")  # whose blocks are held
    held = prepare(adata, on_genes, layer=None, random_state=0)[0]
    np.testing.assert_allclose(held.pca.components, third.pca.components, atol=1e-6)
    monkeypatch.setattr(_prepare, "_ENOUGH_FOR_AXES", 676)  # more than half of them: all
    assert not np.allclose(prepare(adata, config, layer=None, random_state=0)[0].pca.components, third.pca.components)


@pytest.mark.parametrize("input_rep", ["pca", "genes"])
def test_axes_do_not_depend_on_where_files_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, input_rep: str) -> None:
    monkeypatch.setattr(_prepare, "_ENOUGH_FOR_AXES", 60)
    adata, config = planted(), dataclasses.replace(TINY, input_rep=input_rep, target_sum=1000.0)
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path, part in zip(paths, (adata[:101], adata[101:]), strict=True):
        part.copy().write_h5ad(path)
    whole = prepare(adata, config, layer=None, random_state=0)[0]
    parts = prepare(open_atlas(paths), config, layer=None, random_state=0)[0]
    np.testing.assert_allclose(parts.pca.components, whole.pca.components, atol=1e-5)
