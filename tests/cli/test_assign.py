"""`sccagn-scale assign`: other cells into the clusters of a kept model."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from cli_samples import exit_code

from sccagn_scale import SCCAGN, Config
from sccagn_scale.cli import main
from sccagn_scale.model import CELLS

N_GENES = 60


def planted(n_obs: int, seed: int) -> ad.AnnData:
    """Cells of three types, the same for every seed, in turn."""
    profiles = np.random.default_rng(0).gamma(0.5, 4.0, (3, N_GENES))
    counts = np.random.default_rng(seed).poisson(profiles[np.arange(n_obs) % 3]).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(counts))
    adata.obs_names = [f"{seed}-{i}" for i in range(n_obs)]
    adata.var_names = [f"g{i}" for i in range(N_GENES)]
    return adata


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 120 cells."""
    folder = tmp_path_factory.mktemp("kept")
    SCCAGN(planted(120, 1), 3, Config(input_kind="counts", n_top_genes=50, joint_steps=3)).train().save(
        folder / "model"
    )
    return folder / "model"


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Ninety other cells, their genes in another order; in a layer each has the counts of the next, of another type."""
    adata = planted(90, 2)[:, ::-1].copy()
    adata.layers["next"] = adata.X[np.roll(np.arange(90), -1)]
    adata.write_h5ad(tmp_path / "more.h5ad")
    return tmp_path / "more.h5ad"


def test_other_cells_get_the_clusters_of_the_model(kept: Path, more: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = more.parent
    out, run, plots = folder / "assigned.h5ad", folder / "run.json", folder / "plots"
    assert (
        main(["assign", str(more), "--model", str(kept), "-o", str(out), "--json", str(run), "--plots", str(plots)])
        == 0
    )
    adata, expected = ad.read_h5ad(out), SCCAGN.load(kept, planted(90, 2))
    np.testing.assert_array_equal(adata.obs["sccagn"].astype(int), expected.labels_)
    np.testing.assert_allclose(adata.obsm["X_sccagn"], expected.embedding_, rtol=1e-4, atol=1e-5)
    assert (adata.obs["sccagn"].to_numpy()[:3] == adata.obs["sccagn"].to_numpy().reshape(-1, 3)).all()
    assert adata.obs["sccagn"].nunique() == 3
    assert (adata.X != ad.read_h5ad(more).X).nnz == 0

    said = capsys.readouterr().out
    assert f"3, those of {kept}" in said
    assert [line.split()[:2] for line in said.splitlines() if "%" in line] == [[name, "30"] for name in "012"]
    facts = json.loads(run.read_text())
    assert facts["n_clusters_estimated"] is False
    assert (facts["n_clusters"], facts["params"]["n_clusters"]) == (3, 3)
    assert list(facts["seconds"]) == ["Read", "Preprocess", "Neighbors", "Read out", "Write", "Draw", "total"]
    assert [path.name for path in plots.iterdir()] == ["cells.png"]  # nothing was trained, no number estimated


def test_inplace_beside_other_results(kept: Path, more: Path) -> None:
    arguments = ["--inplace", "--model", str(kept), "--quiet", "--layer", "next"]
    for name in ("first", "second"):
        assert main(["assign", str(more), *arguments, "--key-added", name]) == 0
    adata = ad.read_h5ad(more)
    assert (adata.obs["first"] == adata.obs["second"]).all()
    np.testing.assert_array_equal(
        adata.obs["second"].astype(int), np.roll(SCCAGN.load(kept, planted(90, 2)).labels_, -1)
    )
    assert adata.uns["second"]["params"]["layer"] == "next"
    assert list(more.parent.iterdir()) == [more]


def test_options_reach_the_model(kept: Path, more: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    threads: list[int] = []
    load = SCCAGN.load

    def recorded(*given: Any, **named: Any) -> SCCAGN:
        call = inspect.signature(load).bind(*given, **named).arguments
        calls.append({name: value for name, value in call.items() if name not in ("adata", "progress")})
        return load(*given, progress=named["progress"])

    monkeypatch.setattr(SCCAGN, "load", recorded)
    monkeypatch.setattr("sccagn_scale.cli.limit_threads", threads.append)
    out, store = more.with_name("out.h5ad"), more.with_name("store")
    options = ["--layer", "next", "--device", "cpu", "--memory", "4G", "--store", store, "--dask", "tcp://h:1"]
    assert exit_code(["assign", more, "--model", kept, "-o", out, *options, "--threads", 3, "--quiet"]) == 0
    expected = {"layer": "next", "device": "cpu", "memory": 4 * 10**9, "store": store, "dask": "tcp://h:1"}
    assert calls == [{"folder": kept, "scratch": more.parent, **expected}]
    assert threads == [3]


def test_a_store_keeps_the_counts_and_is_taken_up_again(kept: Path, more: Path) -> None:
    store, out = more.with_name("store"), more.with_name("out.h5ad")
    made = []
    for _ in range(2):
        assert exit_code(["assign", more, "--model", kept, "-o", out, "--store", store, "--quiet"]) == 0
        made.append({path.name: path.stat().st_mtime_ns for path in (store / CELLS).iterdir()})
    assert made[0] == made[1] != {}
    np.testing.assert_array_equal(
        ad.read_h5ad(out).obs["sccagn"].astype(int), SCCAGN.load(kept, planted(90, 2)).labels_
    )


@pytest.mark.parametrize("is_folder", [False, True])
def test_several_files_are_one_atlas(
    kept: Path, tmp_path: Path, is_folder: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "atlas", tmp_path / "out.h5ad"
    folder.mkdir()
    planted(90, 2).write_h5ad(folder / "monday.h5ad")
    planted(60, 3)[:, ::-1].copy().write_h5ad(folder / "tuesday.h5ad")
    inputs = [folder] if is_folder else [folder / "monday.h5ad", folder / "tuesday.h5ad"]
    assert exit_code(["assign", *inputs, "--model", kept, "-o", out, "--results-only", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    adata = ad.read_h5ad(out)
    assert adata.X is None
    assert adata.obs["file"].tolist() == ["monday"] * 90 + ["tuesday"] * 60
    expected = [SCCAGN.load(kept, planted(n_obs, seed)).labels_ for n_obs, seed in ((90, 2), (60, 3))]
    np.testing.assert_array_equal(adata.obs["sccagn"].astype(int), np.concatenate(expected))


def test_quiet_prints_only_notes(kept: Path, more: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(more, "a") as file:
        file["obs/_index"][89] = "2-0"
    assert exit_code(["assign", more, "--model", kept, "-o", more.with_name("out.h5ad"), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("note: 1 of 90 cell names repeat an earlier one (such as '2-0')")
    assert err.count("\n") == 1


def test_every_cell_gets_a_cluster_even_without_any_count(kept: Path, more: Path) -> None:
    adata = ad.read_h5ad(more)
    counts = adata.X.toarray()
    counts[:3] = 0
    adata.X = sp.csr_matrix(counts)
    adata.write_h5ad(more)
    assert exit_code(["assign", more, "--model", kept, "--inplace", "--quiet"]) == 0
    adata = ad.read_h5ad(more)
    assert adata.obs["sccagn"].notna().all()
    for values in (adata.obs["sccagn_confidence"], adata.obsm["X_sccagn"], adata.obsm["X_pca"]):
        assert np.isfinite(values).all()
    for name in ("distances", "connectivities"):
        assert np.isfinite(adata.obsp[name].data).all()
    expected = SCCAGN.load(kept, planted(90, 2)).labels_
    np.testing.assert_array_equal(adata.obs["sccagn"].astype(int)[3:], expected[3:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "out.h5ad"], "the following arguments are required: --model"),
        (["--model", "MODEL"], "one of the arguments -o/--output --inplace is required"),
        (["--model", "nowhere", "-o", "out.h5ad"], "`--model` must be a folder that `cluster --model` has written"),
        (["--model", "empty", "-o", "out.h5ad"], "`--model` 'empty' holds no model that can be read"),
        (["--model", "MODEL", "-o", "MODEL/out.h5ad"], "`--output` must not be the same as `--model` nor inside it"),
        (["--model", "MODEL", "-o", "out.h5ad", "--plots", "MODEL"], "`--plots` must not be the same as `--model`"),
        (["--model", "MODEL", "-o", "out.h5ad", "--layer", "no"], "`--layer` must be one of"),
        (["--model", "MODEL", "-o", "out.h5ad", "--key-added", "a/b"], "`--key-added` must be a name"),
        (
            ["--model", "MODEL", "-o", "out.h5ad", "--memory", "8"],
            "a size such as 4G or 800M is needed, got '8', 8 bytes",
        ),
        (["--model", "MODEL", "-o", "out.h5ad", "--memory", "1M"], "`--memory` = 1 MB is too little"),
        (["--model", "MODEL", "-o", "out.h5ad", "--device", "cuda"], "`--device` = 'cuda' needs a GPU"),
        (["--model", "MODEL", "-o", "out.h5ad", "-k", "3"], "unrecognized arguments: -k 3"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    kept: Path,
    more: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(more.parent)
    Path("empty").mkdir()
    given = [option.replace("MODEL", str(kept)) for option in options]
    assert exit_code(["assign", more, *given]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in Path().iterdir()} == {"more.h5ad", "empty"}
    assert {path.name for path in kept.iterdir()} == {"model.json", "recipe.npz", "weights.pt"}


def test_genes_that_the_model_needs_are_named(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted(90, 2)[:, 5:].copy().write_h5ad(tmp_path / "few.h5ad")
    assert main(["assign", str(tmp_path / "few.h5ad"), "--model", str(kept), "-o", str(tmp_path / "out.h5ad")]) == 2
    assert "`INPUT` lacks 5 of the 50 genes that the model was trained on" in capsys.readouterr().err
    assert not (tmp_path / "out.h5ad").exists()


def test_clusters_without_cells_are_counted_and_not_listed(
    kept: Path, more: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = ad.read_h5ad(more)
    labels = SCCAGN.load(kept, adata).labels_
    adata[labels == 1].copy().write_h5ad(more)
    out = more.with_name("out.h5ad")
    assert main(["assign", str(more), "--model", str(kept), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 of them hold no cell" in said
    assert [line.split()[0] for line in said.splitlines() if "%" in line] == ["1"]
    assert ad.read_h5ad(out).obs["sccagn"].cat.categories.tolist() == ["0", "1", "2"]
