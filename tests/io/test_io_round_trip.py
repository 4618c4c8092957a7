"""Whatever cells hold comes back from a file, and stays in it where results are added."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import sparse

from sccagn_scale import io

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
LAYOUTS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}


@st.composite
def cells(draw: st.DrawFn) -> anndata.AnnData:
    """Every kind of column, name and matrix."""
    n_obs, n_vars = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def matrix() -> Any:
        values = rng.poisson(0.7, (n_obs, n_vars)).astype(draw(st.sampled_from(["u1", "i4", "i8", "f4", "f8"])))
        return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](values)

    def column(values: st.SearchStrategy[Any], *, unique: bool = False) -> list[Any]:
        return draw(st.lists(values, min_size=n_obs, max_size=n_obs, unique=unique))

    names = pd.Index(column(TEXT, unique=True), dtype=object)
    kinds = draw(st.lists(TEXT, min_size=1, max_size=4, unique=True))
    obs = {
        "is_good": column(st.booleans()),
        "is_known": pd.array(column(st.none() | st.booleans()), "boolean"),
        "n_genes": pd.array(column(st.none() | st.integers(-(2**63), 2**63 - 1)), "Int64"),
        "kind": pd.Categorical(column(st.none() | st.sampled_from(kinds)), kinds, ordered=draw(st.booleans())),
        "score": np.array(column(st.floats())),
        "größe": pd.array([draw(TEXT), *column(st.none() | TEXT)[1:]], object),
    }
    adata = anndata.AnnData(
        matrix() if draw(st.booleans()) else None,
        obs=pd.DataFrame(obs, names),
        var=pd.DataFrame({"is_marker": np.arange(n_vars) < 2}, [f"gène{i}" for i in range(n_vars)]),
        obsm={
            "dense": rng.random((n_obs, 2), np.float32),
            "sparse": sparse.random(n_obs, 3, 0.5, format="csr", random_state=0),
            "frame": pd.DataFrame({"x": rng.random(n_obs), "kind": obs["kind"]}, names),
        },
        layers={"more": matrix()},
        uns={"größe": {"words": np.array(["a", "ß"], dtype=object), "seed": 3}},
    )
    adata.raw = adata if draw(st.booleans()) and adata.X is not None else None
    return adata


def assert_same_matrix(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if expected is not None:
        assert found.dtype == expected.dtype
        found, expected = (m.toarray() if sparse.issparse(m) else m for m in (found, expected))
        np.testing.assert_array_equal(found, expected)


def assert_same_cells(found: anndata.AnnData, expected: anndata.AnnData) -> None:
    for one, other in ((found.obs, expected.obs), (found.var, expected.var)):
        assert one.index.tolist() == other.index.tolist()
        assert one.columns.tolist() == other.columns.tolist()
        for name in other:
            if name == "größe":  # text, which becomes categorical where it repeats
                assert one[name].astype(object).where(one[name].notna(), None).tolist() == other[name].tolist()
            else:
                pd.testing.assert_series_equal(one[name], other[name], check_exact=True, check_index_type=False)
    assert_same_matrix(found.X, expected.X)
    assert_same_matrix(found.layers["more"], expected.layers["more"])
    assert (found.raw is None) == (expected.raw is None)
    if expected.raw is not None:
        assert_same_matrix(found.raw.X, expected.raw.X)
    assert set(found.obsm) == set(expected.obsm)
    assert_same_matrix(found.obsm["dense"], expected.obsm["dense"])
    assert_same_matrix(found.obsm["sparse"], expected.obsm["sparse"])
    frames = found.obsm["frame"], expected.obsm["frame"]
    pd.testing.assert_frame_equal(*frames, check_exact=True, check_index_type=False)
    np.testing.assert_equal(found.uns, expected.uns)


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@settings(max_examples=20)
@given(cells())
def test_what_is_written_is_read_and_stays_beside_results(adata: anndata.AnnData) -> None:
    check_written(adata, "h5ad")


@settings(max_examples=6, phases=[Phase.generate])  # each is a thousand small files
@given(cells())
def test_in_a_folder_too(adata: anndata.AnnData) -> None:
    check_written(adata, "zarr")


def check_written(adata: anndata.AnnData, ending: str) -> None:
    before = adata.copy()
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / f"a.{ending}", Path(folder) / f"b.{ending}"
        io.write(adata, path)
        assert_same_cells(io.read(path), before)
        results = io.open_atlas(path).adata
        results.obs["cluster"] = pd.Categorical(["0"] * adata.n_obs, ["0", "1"])
        results.obsm["X_new"] = np.ones((adata.n_obs, 2))
        io.write_copy(results, path, copy)
        io.add_results(results, path)
        for written in (copy, path):
            found = io.read(written)
            pd.testing.assert_series_equal(found.obs.pop("cluster"), results.obs["cluster"], check_index_type=False)
            np.testing.assert_array_equal(found.obsm.pop("X_new"), np.ones((adata.n_obs, 2)))
            assert_same_cells(found, before)
