"""`evaluate`: clusters beside known types, on the terminal and in files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anndata as ad
import h5py
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cli_samples import complaint

from sccagn_scale.cli import main
from sccagn_scale.cli._evaluate import _letters
from sccagn_scale.metrics import evaluate


@pytest.fixture
def clustered(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    types = np.array(["CD8+ [naive] T", "B", "NK"])[np.arange(60) % 3].astype(object)
    labels = (np.arange(60) % 3).astype(str).astype(object)
    labels[rng.choice(60, 8)] = "1"
    types[4], labels[5] = np.nan, np.nan
    obs = pd.DataFrame({"cell_type": pd.Categorical(types), "sccagn": pd.Categorical(labels)})
    obs.index = obs.index.astype(str)
    path = tmp_path / "clustered.h5ad"
    ad.AnnData(rng.random((60, 2)).astype(np.float32), obs=obs).write_h5ad(path)
    return path


def test_evaluate_prints_and_writes(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = clustered.with_name("metrics.json")
    assert main(["evaluate", str(clustered), "--truth", "cell_type", "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    obs = ad.read_h5ad(clustered).obs
    scores = evaluate(obs["cell_type"], obs["sccagn"])
    facts = json.loads(file.read_text())
    assert facts["metrics"] == pytest.approx(scores)
    assert (facts["n_obs"], facts["n_obs_compared"], facts["n_obs_without_cluster"]) == (60, 59, 1)
    assert facts["contingency"]["clusters"] == ["0", "1", "2", "(none)"]
    assert np.sum(facts["contingency"]["n_obs"]) == 59
    assert "59 of 60 cells have a type in 'cell_type'; 1 of them have no cluster" in out
    for name, value in {"NMI": scores["nmi"], "ARI": scores["ari"], "accuracy": scores["accuracy"]}.items():
        assert any(line.split()[:2] == [name, f"{value:.4f}"] for line in out.splitlines())
    header = next(line for line in out.splitlines() if line.startswith("cluster"))
    assert "CD8+ [naive] T" in header  # brackets are no markup
    assert err == ""


def test_evaluate_prints_the_columns_name_as_it_is(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = ad.read_h5ad(clustered)
    adata.obs["type[fine]"] = adata.obs["cell_type"]
    adata.write_h5ad(clustered)
    assert main(["evaluate", str(clustered), "--truth", "type[fine]"]) == 0
    assert "have a type in 'type[fine]';" in capsys.readouterr().out


def test_evaluate_reads_files_from_before_anndata_0_7(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    obs = np.zeros(60, dtype=[("index", "S10"), ("cell_type", "i1"), ("louvain", "i1")])
    obs["index"] = [f"c{i}".encode() for i in range(60)]
    obs["cell_type"] = obs["louvain"] = np.arange(60) % 3
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["obs"] = obs
        file["var"] = np.array([(b"g0",), (b"g1",)], dtype=[("index", "S10")])
        file["uns/cell_type_categories"] = np.array([b"a", b"b", b"c"])
        file["X"] = np.ones((60, 2), np.float32)
    assert main(["evaluate", str(tmp_path / "old.h5ad"), "--truth", "cell_type", "--key", "louvain"]) == 0
    out = capsys.readouterr().out
    assert "60 of 60 cells have a type in 'cell_type'" in out
    assert next(line for line in out.splitlines() if line.startswith("cluster")).split() == ["cluster", "a", "b", "c"]


def test_evaluate_draws_clusters_beside_types(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = ad.read_h5ad(clustered)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    adata.write_h5ad(clustered)
    folder, scores = clustered.with_name("plots"), clustered.with_name("metrics.json")
    options = ["--plots", str(folder), "--json", str(scores)]
    assert main(["evaluate", str(clustered), "--truth", "cell_type", *options]) == 0
    (picture,) = folder.iterdir()
    height, width, _ = matplotlib.image.imread(picture).shape
    assert width > 2 * height  # two panels
    written = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert written == [str(scores), str(picture)]


def test_evaluate_is_silent_if_asked_to_be(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = clustered.with_name("metrics.json")
    assert main(["evaluate", str(clustered), "--truth", "cell_type", "--json", str(file), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert json.loads(file.read_text())["n_obs"] == 60


def test_evaluate_draws_other_clusters_where_their_embedding_has_them(clustered: Path) -> None:
    adata = ad.read_h5ad(clustered)
    adata.obs["mine"] = adata.obs["sccagn"]
    adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(60, 3))
    adata.obsp["connectivities"] = sp.csr_matrix((60, 60))  # nothing that a UMAP could be made of
    adata.uns["neighbors"] = {"params": {}}
    adata.write_h5ad(clustered)
    folder = clustered.with_name("plots")
    assert main(["evaluate", str(clustered), "--truth", "cell_type", "--key", "mine", "--plots", str(folder)]) == 0
    assert [path.name for path in folder.iterdir()] == ["comparison.png"]


def test_evaluate_without_a_graph_to_draw_writes_nothing(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, scores = clustered.with_name("plots"), clustered.with_name("metrics.json")
    capsys.readouterr()
    assert (
        main(["evaluate", str(clustered), "--truth", "cell_type", "--plots", str(folder), "--json", str(scores)]) == 2
    )
    assert "error: `FILE` must hold X_umap in obsm or a cell graph" in capsys.readouterr().err
    assert list(clustered.parent.iterdir()) == [clustered]


def test_evaluate_uses_letters_in_a_narrow_terminal(
    clustered: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sccagn_scale._console._UNFOLDED", 30)
    assert main(["evaluate", str(clustered), "--truth", "cell_type"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["cluster", "A", "B", "C"] for line in lines)
    assert any(line.split(maxsplit=1) == ["A", "CD8+ [naive] T"] for line in map(str.strip, lines))


def test_evaluate_shortens_no_number(
    clustered: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = ad.read_h5ad(clustered)
    ad.concat([adata] * 100, index_unique="-").write_h5ad(clustered)  # so that numbers are long
    argv = ["evaluate", str(clustered), "--truth", "cell_type"]
    assert main(argv) == 0
    wide = capsys.readouterr().out
    monkeypatch.setattr("sccagn_scale._console._UNFOLDED", 24)  # three types have no room beside each other
    assert main(argv) == 0
    narrow = capsys.readouterr().out
    heads = [line.split()[1:] for line in narrow.splitlines() if line.startswith("cluster")]
    assert heads == [["A", "B"], ["C"]]
    numbers = re.compile(r"\b\d[\d.,]*\b")
    assert set(numbers.findall(wide)) <= set(numbers.findall(narrow))


def test_evaluate_of_zarr(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("zarr")
    from sccagn_scale.io import write

    store = clustered.with_suffix(".zarr")
    write(ad.read_h5ad(clustered), store)
    assert main(["evaluate", str(clustered), "--truth", "cell_type"]) == 0
    expected = capsys.readouterr().out
    assert main(["evaluate", str(store), "--truth", "cell_type"]) == 0
    assert capsys.readouterr().out == expected


def test_evaluate_says_what_is_wrong(clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = complaint(["evaluate", clustered, "--truth", "type"], capsys)
    assert "`--truth` must name a column of obs, but there is no 'type'; the columns are: cell_type, sccagn" in message
    assert "`--key`" in complaint(["evaluate", clustered, "--truth", "cell_type", "--key", "leiden"], capsys)
    assert "`FILE`" in complaint(["evaluate", clustered.with_name("none.h5ad"), "--truth", "x"], capsys)
    assert "`--json`" in complaint(["evaluate", clustered, "--truth", "sccagn", "--json", clustered], capsys)
    assert "`--plots`" in complaint(["evaluate", clustered, "--truth", "sccagn", "--plots", clustered], capsys)
    cut = clustered.with_name("cut.h5ad")
    cut.write_bytes(clustered.read_bytes()[:3000])
    assert "`FILE`" in complaint(["evaluate", cut, "--truth", "cell_type"], capsys)


def test_evaluate_takes_numbers_for_groups_if_they_are_whole(
    clustered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = ad.read_h5ad(clustered)
    adata.obs["whole"] = np.where(np.arange(60) > 2, np.arange(60) % 3, np.nan)
    adata.obs["score"] = adata.obs["whole"] + 0.5
    adata.write_h5ad(clustered)
    wrong = "must name a column of groups, but obs['score'] holds numbers that are not whole."
    assert f"`--truth` {wrong}" in complaint(["evaluate", clustered, "--truth", "score"], capsys)
    assert f"`--key` {wrong}" in complaint(["evaluate", clustered, "--truth", "cell_type", "--key", "score"], capsys)
    assert main(["evaluate", str(clustered), "--truth", "whole"]) == 0
    assert "57 of 60 cells have a type in 'whole'" in capsys.readouterr().out


def test_columns_are_lettered_as_in_a_spreadsheet() -> None:
    assert [_letters(j) for j in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
