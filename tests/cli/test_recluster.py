"""`sccagn-scale recluster`, on a file of its own making."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cli_samples import exit_code, write_tenx, write_tenx_hdf5

from sccagn_scale import clustering
from sccagn_scale.cli import main
from sccagn_scale.io import read, write


@pytest.fixture
def clustered(tmp_path: Path) -> Path:
    """Four groups at the corners of a trapezium, two clusters."""
    rng = np.random.default_rng(0)
    corner = np.repeat(np.arange(4), [50, 40, 30, 20])
    z = np.column_stack([40 * (corner // 2), np.array([0, 10, 0, 8])[corner]]) + rng.normal(size=(140, 2))
    adata = ad.AnnData(rng.random((140, 3)).astype(np.float32), layers={"counts": rng.poisson(1, (140, 3))})
    adata.obs["batch"] = pd.Categorical(corner.astype(str))
    adata.obs["sccagn"] = pd.Categorical((corner // 2).astype(str))
    adata.obsm["X_sccagn"] = z.astype(np.float32)
    adata.uns["sccagn"] = {"params": {"nu": "none"}}
    path = tmp_path / "clustered.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.mark.parametrize("name", ["B [/mem]", "T [bold]naive[/bold]", ":smile:"])
def test_names_are_printed_as_they_are(clustered: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    adata = ad.read_h5ad(clustered)
    adata.obs["sccagn"] = adata.obs["sccagn"].cat.rename_categories({"0": name})
    adata.write_h5ad(clustered)
    out = clustered.with_name("[red].h5ad")
    assert main(["recluster", str(clustered), "-o", str(out), "--n-clusters", "3", "--key-added", "k[3]"]) == 0
    printed = capsys.readouterr().out
    assert "\nk[3] " in printed
    assert f"\n{name} " in printed or f"\n{name},0 " in printed
    assert printed.endswith(f"\nWritten   {out}\n")


def test_the_file_has_the_new_clusters_beside_the_old(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(clustered) as file:
        before = file["X"][:], file["layers/counts"][:]
    assert main(["recluster", str(clustered), "--inplace", "--factor", "2"]) == 0
    out = capsys.readouterr().out
    assert "4, where sccagn has 2" in out
    assert [line.split()[:3] for line in out.splitlines() if "%" in line] == [
        ["0,0", "50", "35.7%"],
        ["0,1", "40", "28.6%"],
        ["1,0", "30", "21.4%"],
        ["1,1", "20", "14.3%"],
    ]
    adata = ad.read_h5ad(clustered)
    assert adata.obs["sccagn_k4"].value_counts().to_dict() == {"0,0": 50, "0,1": 40, "1,0": 30, "1,1": 20}
    assert adata.obs["sccagn"].nunique() == 2
    np.testing.assert_array_equal(adata.X, before[0])
    np.testing.assert_array_equal(adata.layers["counts"], before[1])


def test_another_file_and_name_leave_the_first_as_it_was(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, out = clustered.read_bytes(), clustered.with_name("fine.h5ad")
    assert main(["recluster", str(clustered), "-o", str(out), "-k", "3", "--key-added", "fine", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert clustered.read_bytes() == before
    assert sorted(ad.read_h5ad(out).obs["fine"].unique()) == ["0,0", "0,1", "1"]


@pytest.mark.parametrize("is_inplace", [True, False])
def test_a_zarr_store_is_reclustered_as_a_file_is(clustered: Path, is_inplace: bool) -> None:
    store, copy = clustered.with_suffix(".zarr"), clustered.with_name("fine.zarr")
    before = ad.read_h5ad(clustered)
    write(before, store)
    assert exit_code(["recluster", clustered, "--inplace", "-k", 4, "--quiet"]) == 0
    where = ["--inplace"] if is_inplace else ["-o", copy]
    assert exit_code(["recluster", store, *where, "-k", 4, "--quiet"]) == 0
    after = read(store if is_inplace else copy)
    pd.testing.assert_series_equal(after.obs["sccagn_k4"], ad.read_h5ad(clustered).obs["sccagn_k4"])
    assert after.obs["sccagn_k4"].nunique() == 4
    np.testing.assert_array_equal(after.X, before.X)
    np.testing.assert_array_equal(after.layers["counts"], before.layers["counts"])
    assert ("sccagn_k4" in read(store).obs) == is_inplace
    assert copy.exists() != is_inplace


def test_other_results_can_be_reclustered(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = ad.read_h5ad(clustered)
    adata.obs["other"] = pd.Categorical(np.where(np.isin(adata.obs["batch"], ["0", "2"]), "even", "odd"))
    adata.obsm["X_other"], adata.uns["other"] = adata.obsm["X_sccagn"][:, ::-1].copy(), {"params": {"nu": 1.0}}
    adata.write_h5ad(clustered)
    assert exit_code(["recluster", clustered, "--inplace", "--key", "other", "-k", 4]) == 0
    assert "4, where other has 2" in capsys.readouterr().out
    after = ad.read_h5ad(clustered)
    assert after.obs["other_k4"].value_counts().to_dict() == {"even,0": 50, "odd,0": 40, "even,1": 30, "odd,1": 20}
    assert after.uns["other_k4"]["key"] == "other"
    assert "sccagn_k4" not in after.obs


def test_the_seed_decides_how_clusters_fall_apart(clustered: Path) -> None:
    adata = ad.read_h5ad(clustered)
    adata.obsm["X_sccagn"] = np.random.default_rng(0).normal(size=(140, 3)).astype(np.float32)
    adata.write_h5ad(clustered)
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        options = ["-k", 12, "--key-added", name, "--seed", seed, "--quiet"]
        assert exit_code(["recluster", clustered, "--inplace", *options]) == 0
    after = ad.read_h5ad(clustered)
    assert (after.obs["one"].astype(str) == after.obs["again"].astype(str)).all()
    assert (after.obs["one"].astype(str) != after.obs["two"].astype(str)).any()
    assert [int(after.uns[name]["random_state"]) for name in ("one", "again", "two")] == [1, 1, 2]


@pytest.mark.parametrize(("n_clusters", "origins"), [(3, [["0"], ["0"], ["1"]]), (2, [["0"], ["1"]])])
def test_json_says_where_each_cluster_came_from(clustered: Path, n_clusters: int, origins: list[list[str]]) -> None:
    adata = ad.read_h5ad(clustered)
    adata.obs.loc[adata.obs_names[:2], "sccagn"] = np.nan
    adata.write_h5ad(clustered)
    out = clustered.with_name("run.json")
    command = ["recluster", str(clustered), "--inplace", "-k", str(n_clusters), "--json", str(out), "--quiet"]
    assert main(command) == 0
    facts, written = json.loads(out.read_text()), ad.read_h5ad(clustered)
    assert (facts["input"], facts["output"], facts["key"]) == (str(clustered), str(clustered), "sccagn")
    assert (facts["n_obs"], facts["n_clusters"], facts["n_clusters_before"]) == (140, n_clusters, 2)
    assert facts["n_obs_without_cluster"] == 2
    labels, confidence = (written.obs[facts["key_added"] + end] for end in ("", "_confidence"))
    assert {cluster["name"]: cluster["n_obs"] for cluster in facts["clusters"]} == labels.value_counts().to_dict()
    assert [cluster["from"] for cluster in facts["clusters"]] == origins
    for cluster in facts["clusters"]:
        assert cluster["mean_confidence"] == pytest.approx(confidence[labels == cluster["name"]].mean(), rel=1e-5)
    assert facts["seconds"]["total"] >= facts["seconds"]["Recluster"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-k", "3"], "one of the arguments -o/--output --inplace is required"),
        (["--inplace"], "one of the arguments -k/--n-clusters --factor is required"),
        (["--inplace", "-k", "1"], "at least 2 clusters are needed, got 1"),
        (["--inplace", "-k", "99"], "`--n-clusters` must be at most 18,"),
        (["--inplace", "--factor", "-2"], "`--factor` must be a number above 0; it is -2.0"),
        (["--inplace", "-k", "3", "--key", "leiden"], "`--key` must name results of `cluster`, but there is no obs"),
        (["--inplace", "-k", "3", "--key-added", "sccagn"], "`--key-added` must be another name than `--key`"),
        (["--inplace", "-k", "3", "--key-added", "batch"], "`--key-added` = 'batch' would replace obs['batch']"),
        (["--inplace", "-k", "3", "--key-added", "a/b"], "`--key-added` must be a name"),
        (["--inplace", "-k", "3", "--seed", "-1"], "`--seed` must be a whole number of at least 0"),
        (["-o", "IN.zarr", "-k", "3"], "`--output` must end in .h5ad"),
        (["-o", "IN.h5ad", "-k", "3"], "`--output` must not be the same as `FILE`"),
        (["--inplace", "-k", "3", "--json", "IN.h5ad"], "`--json` must not be the same as `FILE`"),
        (["-o", "IN.fine.h5ad", "-k", "3", "--json", "IN.fine.h5ad"], "`--json` must not be the same as `--output`"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    clustered: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = clustered.read_bytes()
    given = [str(clustered.with_suffix(name[2:])) if name.startswith("IN.") else name for name in options]
    assert exit_code(["recluster", clustered, *given]) == 2
    assert message in capsys.readouterr().err
    assert clustered.read_bytes() == before
    assert list(clustered.parent.iterdir()) == [clustered]


def test_what_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recluster", str(tmp_path / "no.h5ad"), "--inplace", "-k", "3"]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["10x", "10x.h5", "folder"])
def test_only_a_file_that_cluster_has_written_is_reclustered(
    clustered: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adata, source, out = ad.read_h5ad(clustered), clustered.with_name(kind), clustered.with_name("out.h5ad")
    if kind != "folder":
        write = write_tenx if kind == "10x" else write_tenx_hdf5
        write(ad.AnnData(sp.csr_matrix(adata.layers["counts"]), obs=adata.obs), source)
    else:
        source.mkdir()
        for name, part in (("a", adata[:70]), ("b", adata[70:])):
            part.copy().write_h5ad(source / f"{name}.h5ad")
    assert exit_code(["recluster", source, "-o", out, "-k", 3]) == 2
    assert "`FILE` must be one .h5ad or .zarr file that `cluster` has written." in capsys.readouterr().err
    assert not out.exists()


def test_a_file_that_becomes_another_is_left_alone(
    clustered: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = clustered.read_bytes()
    divided = clustering.divided

    def meanwhile(*arguments: Any, **options: Any) -> np.ndarray:
        os.utime(clustered, ns=(5, 5))
        return divided(*arguments, **options)

    monkeypatch.setattr("sccagn_scale.clustering.divided", meanwhile)
    assert main(["recluster", str(clustered), "--inplace", "-k", "4"]) == 2
    assert "`FILE` must stay as it is meanwhile" in capsys.readouterr().err
    assert clustered.read_bytes() == before
