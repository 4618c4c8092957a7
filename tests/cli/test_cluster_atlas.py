"""`cluster` with several inputs, into its input, without matrices; and what it refuses before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cli_samples import cluster, write_tenx, write_tenx_hdf5

from sccagn_scale.cli._parser import build_parser
from sccagn_scale.io import CellStore, open_atlas, read, write
from sccagn_scale.model import CELLS
from sccagn_scale.pp import select_matrix

pytestmark = pytest.mark.usefixtures("model")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def others(cells: Path) -> Path:
    """More cells, with one gene of the first lacking, in a folder with them."""
    folder = cells.parent / "atlas"
    folder.mkdir()
    cells.rename(folder / "a.h5ad")
    adata = ad.AnnData(sp.csr_matrix(np.random.default_rng(1).poisson(0.5, (25, 8)).astype(np.float32)))
    adata.obs_names, adata.var_names = [f"d{i}" for i in range(25)], [f"g{i}" for i in range(8, 0, -1)]
    adata.write_h5ad(folder / "b.h5ad")
    return folder


def test_a_folder_is_one_atlas(others: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, before = others.parent / "out.h5ad", [_digest(path) for path in sorted(others.iterdir())]
    assert cluster(others, "-o", out) == 0
    written = ad.read_h5ad(out)
    assert written.shape == (65, 8)
    assert written.obs["file"].value_counts().to_dict() == {"a": 40, "b": 25}
    assert "sccagn" in written.obs
    parts = [ad.read_h5ad(others / f"{name}.h5ad")[:, written.var_names].X.toarray() for name in "ab"]
    np.testing.assert_array_equal(written.X.toarray(), np.vstack(parts))
    assert [_digest(path) for path in sorted(others.iterdir())] == before
    assert "65 cells × 8 genes" in capsys.readouterr().out


def test_files_by_name_into_zarr(others: Path) -> None:
    out = others.parent / "out.zarr"
    assert cluster(others / "b.h5ad", others / "a.h5ad", "-o", out) == 0
    assert ad.read_zarr(out).obs["file"].tolist() == ["b"] * 25 + ["a"] * 40


def test_results_alone(cells: Path) -> None:
    out = cells.with_name("out.h5ad")
    assert cluster(cells, "-o", out, "--results-only") == 0
    written = ad.read_h5ad(out)
    assert written.X is None
    assert {"sccagn", "sccagn_confidence"} <= set(written.obs)


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_a_file_without_x_keeps_its_layers(cells: Path, ending: str) -> None:
    adata = ad.read_h5ad(cells)
    adata.layers["counts"], adata.X = adata.X, None
    source, out = cells.with_name(f"layers{ending}"), cells.with_name(f"out{ending}")
    write(adata, source)
    assert cluster(source, "--layer", "counts", "-o", out) == 0
    written = read(out)
    assert written.X is None
    np.testing.assert_array_equal(written.layers["counts"].toarray(), adata.layers["counts"].toarray())
    assert "sccagn" in written.obs


def test_a_layer_is_not_lost_where_there_is_no_x(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = ad.read_h5ad(cells)
    adata.layers["counts"], adata.X = adata.X, None
    adata.write_h5ad(cells)
    assert cluster(cells, "--layer", "counts", "-o", cells.with_name("out.zarr")) == 2
    assert "`--output` must end in .h5ad" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "message", "is_early"),
    [("indptr", "does not rise from 0", True), ("indices", "index 99 is not below 8", False)],
)
def test_a_damaged_x_beside_the_layer_is_told_as_the_inputs_and_before_the_work_if_it_can_be(
    others: Path, array: str, message: str, is_early: bool, capsys: pytest.CaptureFixture[str], model: Any
) -> None:
    for path in sorted(others.iterdir()):
        adata = ad.read_h5ad(path)
        adata.layers["counts"] = adata.X
        adata.write_h5ad(path)
    with h5py.File(others / "b.h5ad", "a") as file:
        file[f"X/{array}"][1] = 99
    assert cluster(others, "--layer", "counts", "-o", others.with_name("out.h5ad")) == 2
    error = capsys.readouterr().err
    assert f"`INPUT` '{others / 'b.h5ad'}' is damaged" in error
    assert message in error
    assert bool(model.calls) != is_early
    out = others.with_name("out.h5ad")
    assert out.exists() != is_early
    if not is_early:
        assert error.endswith(f"The results are in '{out}', without a matrix.\n")
        written = ad.read_h5ad(out)
        assert (written.X, written.n_obs, "sccagn" in written.obs) == (None, 65, True)
    assert sorted(path.name for path in others.parent.iterdir() if path != out) == ["atlas"]


def test_results_go_into_the_input(cells: Path) -> None:
    before = ad.read_h5ad(cells)
    assert cluster(cells, "--inplace") == 0
    after = ad.read_h5ad(cells)
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    assert {"sccagn", "sccagn_confidence"} <= set(after.obs)
    assert [path.name for path in cells.parent.iterdir()] == ["cells.h5ad"]


def test_results_in_the_input_leave_its_store_good(cells: Path) -> None:
    store = cells.with_name("store")
    for _ in select_matrix(open_atlas(cells), store=store / CELLS).each(lambda start, block: start):
        pass
    before = CellStore.open(store / CELLS).made_from["files"][str(cells)]
    assert cluster(cells, "--inplace", "--store", store) == 0
    after = CellStore.open(store / CELLS).made_from["files"][str(cells)]
    assert after["mtime_ns"] == cells.stat().st_mtime_ns != before["mtime_ns"]


def test_a_failure_leaves_the_input(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = _digest(cells)
    monkeypatch.setattr("sccagn_scale.io._results._replace", fail)
    assert cluster(cells, "--inplace") == 2
    assert _digest(cells) == before
    assert [path.name for path in cells.parent.iterdir()] == ["cells.h5ad"]


def test_matrices_stay_as_they_are_stored(cells: Path) -> None:
    adata = ad.read_h5ad(cells)
    adata.layers["twice"] = 2 * adata.X
    adata.raw = adata
    adata.write_h5ad(cells, compression="gzip")
    out = cells.with_name("out.h5ad")
    assert cluster(cells, "-o", out) == 0
    with h5py.File(cells) as source, h5py.File(out) as copy:
        for name in ("X/data", "layers/twice/indices", "raw/X/data"):
            assert copy[name].compression == "gzip"
            assert copy[name].id.read_direct_chunk((0,)) == source[name].id.read_direct_chunk((0,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{cells}", "{cells}", "-o", "{out}"], "`INPUT` must name each file once"),
        (["{cells}", "{none}", "-o", "{out}"], "`INPUT` must name an existing file or folder"),
        (["{cells}", "{other}", "--inplace"], "`--inplace` adds the results to one input file"),
        (["{cells}", "--inplace", "--results-only"], "`--inplace` adds the results to one input file"),
        (["{cells}", "-o", "{out}", "--store", "{cells}"], "`--store` must not be the same as `INPUT`"),
        (["{cells}", "{other}", "-o", "{other}"], "`--output` must not be the same as `INPUT 1`"),
        (["{cells}", "{other}", "-o", "{out}"], "`INPUT` must name every cell differently"),
    ],
)
def test_mistakes_are_told_before_any_work(
    cells: Path, capsys: pytest.CaptureFixture[str], model: Any, options: list[str], message: str
) -> None:
    names = {"cells": cells, "out": cells.with_name("out.h5ad"), "none": cells.with_name("none.h5ad")}
    names["other"] = cells.with_name("other.h5ad")
    names["other"].write_bytes(cells.read_bytes())
    assert cluster(*(option.format(**names) for option in options)) == 2
    assert message in capsys.readouterr().err
    assert not model.calls
    assert not names["out"].exists()


@pytest.mark.parametrize("source", ["10x", "10x.h5"])
@pytest.mark.parametrize("name", ["out.h5ad", "out.zarr"])
def test_a_10x_matrix_goes_along(cells: Path, source: str, name: str) -> None:
    adata, tenx = ad.read_h5ad(cells), cells.with_name(source)
    (write_tenx_hdf5 if source.endswith(".h5") else write_tenx)(adata, tenx)
    out = cells.with_name(name)
    assert cluster(tenx, "-o", out) == 0
    written = read(out)
    np.testing.assert_array_equal(written.X.toarray(), adata.X.toarray())
    assert (list(written.obs_names), list(written.var_names)) == (list(adata.obs_names), list(adata.var_names))
    assert "sccagn" in written.obs


def test_layers_of_an_anndata_called_h5_go_along(cells: Path) -> None:
    adata = ad.read_h5ad(cells)
    adata.layers["twice"] = 2 * adata.X
    adata.write_h5ad(cells.with_suffix(".h5"))
    out = cells.with_name("out.h5ad")
    assert cluster(cells.with_suffix(".h5"), "-o", out) == 0
    np.testing.assert_array_equal(ad.read_h5ad(out).layers["twice"].toarray(), 2 * adata.X.toarray())


def test_layers_would_be_lost_in_another_kind_of_file(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = ad.read_h5ad(cells)
    out = cells.with_name("out.zarr")
    assert cluster(cells, "-o", out) == 0  # none there
    np.testing.assert_array_equal(ad.read_zarr(out).X.toarray(), adata.X.toarray())
    adata.layers["twice"] = 2 * adata.X
    adata.write_h5ad(cells)
    assert cluster(cells, "-o", out) == 2
    assert "`--output` must end in .h5ad, as INPUT's layers and raw" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 * 10**9), ("1.5gb", 15 * 10**8), ("800M", 8 * 10**8), ("2GiB", 2**31), ("64k", 64_000), ("1000", 1000)],
)
def test_sizes(text: str, size: int) -> None:
    assert build_parser().parse_args(["plan", "a.h5ad", "--memory", text]).memory == size


@pytest.mark.parametrize("text", ["4 giga", "-1G", "G", "", "0", "0.0001"])
def test_what_is_no_size(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(["plan", "a.h5ad", f"--memory={text}"])
    assert stopped.value.code == 2
    assert "a size" in capsys.readouterr().err


def test_a_file_behind_a_link_in_a_folder_is_an_input_too(
    cells: Path, capsys: pytest.CaptureFixture[str], model: Any
) -> None:
    folder = cells.with_name("staged")
    folder.mkdir()
    (folder / "a.h5ad").symlink_to(cells)
    before = _digest(cells)
    for option, options in (
        ("--output", ["-o", cells]),
        ("--json", ["-o", cells.with_name("out.h5ad"), "--json", cells]),
    ):
        assert cluster(folder, *options) == 2
        assert f"`{option}` must not be the same as `INPUT {folder / 'a.h5ad'}`" in capsys.readouterr().err
    assert _digest(cells) == before
    assert not model.calls


@pytest.mark.parametrize("kept", ["--output", "--json", "--plots", "--store"])
def test_nothing_else_goes_into_the_folder_of_a_model(
    cells: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    folder = cells.with_name("model")
    folder.mkdir()
    places = {"--output": cells.with_name("out.h5ad"), "--json": cells.with_name("run.json")}
    places |= {"--plots": cells.with_name("plots"), "--store": cells.with_name("store")}
    places[kept] = folder / places[kept].name
    options = [part for option, path in places.items() for part in (option, path)]
    assert cluster(cells, *options, "--model", folder) == 2
    assert f"`{kept}` must not be inside `--model`" in capsys.readouterr().err


def test_a_model_takes_no_folder_above_the_input_or_the_output(
    cells: Path, capsys: pytest.CaptureFixture[str], model: Any
) -> None:
    deep = cells.parent / "model" / "deep"
    deep.mkdir(parents=True)
    assert cluster(cells, "-o", deep / "out.h5ad", "--model", deep.parent) == 2
    assert "`--output` must not be inside `--model`" in capsys.readouterr().err
    cells.rename(deep / "cells.h5ad")
    assert cluster(deep / "cells.h5ad", "-o", cells.with_name("out.h5ad"), "--model", deep.parent) == 2
    assert "`INPUT` must not be inside `--model`" in capsys.readouterr().err
    assert not model.calls
    assert [path for path in cells.parent.rglob("*") if path.is_file()] == [deep / "cells.h5ad"]


def _spoil(model: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    train = model.train
    monkeypatch.setattr(model, "train", lambda self: (change(), train(self))[1])


def test_an_input_that_becomes_another_costs_no_results(
    cells: Path, model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shuffled, names = ad.read_h5ad(cells)[::-1].copy(), ad.read_h5ad(cells).obs_names.tolist()
    _spoil(model, monkeypatch, lambda: shuffled.write_h5ad(cells))
    out = cells.with_name("out.h5ad")
    assert cluster(cells, "-o", out) == 2
    err = capsys.readouterr().err
    assert f"`INPUT` must stay as it is during the run, but '{cells}' was changed or removed" in err
    assert f"in '{out}', without a matrix" in err
    written = ad.read_h5ad(out)
    assert (written.obs_names.tolist(), written.X) == (names, None)
    assert "sccagn" in written.obs


@pytest.mark.parametrize("change", ["column", "removed"])
def test_what_others_wrote_into_the_input_meanwhile_stays(
    cells: Path, model: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    def annotate() -> None:
        adata = ad.read_h5ad(cells)
        adata.obs["new"] = 1
        adata.write_h5ad(cells)

    _spoil(model, monkeypatch, annotate if change == "column" else cells.unlink)
    cells.with_name("cells_sccagn.h5ad").write_text("mine")
    assert cluster(cells, "--inplace", "--model", cells.with_name("model")) == 2
    assert cells.with_name("cells_sccagn.h5ad").read_text() == "mine"
    assert cells.with_name("model").is_dir()
    beside = ad.read_h5ad(cells.with_name("cells_sccagn1.h5ad"))
    assert (beside.shape, beside.X) == ((40, 9), None)
    assert "sccagn" in beside.obs
    if change == "column":
        assert "new" in ad.read_h5ad(cells).obs
        assert "sccagn" not in ad.read_h5ad(cells).obs


def test_pictures_of_an_earlier_run_do_not_stay_beside_those_of_this(cells: Path) -> None:
    out, plots = cells.with_name("out.h5ad"), cells.with_name("plots")
    assert cluster(cells, "-o", out, "--plots", plots) == 0
    (plots / "mine.png").write_text("")
    assert {path.name for path in plots.iterdir()} == {"cells.png", "training.png", "n_clusters.png", "mine.png"}
    assert cluster(cells, "-o", out, "--plots", plots, "-k", 4) == 0  # whose number has no curve
    assert {path.name for path in plots.iterdir()} == {"cells.png", "training.png", "mine.png"}


def _joined(folder: Path, first: Any, second: Any) -> pd.Series:
    """The column that two files of two cells each have, as it is in what is written of both."""
    for name, column in (("a", first), ("b", second)):
        adata = ad.AnnData(sp.csr_matrix(np.ones((2, 3), np.float32)))
        adata.obs_names = [f"{name}{i}" for i in range(2)]
        adata.obs["column"] = column
        adata.write_h5ad(folder / f"{name}.h5ad")
    assert cluster(folder / "a.h5ad", folder / "b.h5ad", "-o", folder / "out.h5ad") == 0
    return ad.read_h5ad(folder / "out.h5ad").obs["column"]


@pytest.mark.parametrize(
    ("first", "numbers"), [(pd.array([1, None], "Int64"), [1, np.nan]), ([True, False], [1, 0]), ([1, 2], [1, 2])]
)
def test_numbers_of_several_types_are_written(tmp_path: Path, first: Any, numbers: list[float]) -> None:
    np.testing.assert_array_equal(_joined(tmp_path, first, [0.5, 1.5]), [*numbers, 0.5, 1.5])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([True, False], ["yes", "no"]),
        ([1, 2], ["one", "two"]),
        (pd.Categorical([1, 2]), pd.Categorical(["one", "two"])),
    ],
)
def test_columns_of_two_types_are_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: Any, second: Any
) -> None:
    assert _joined(tmp_path, first, second).tolist() == [*map(str, first), *map(str, second)]
    assert "Column 'column' of `obs` holds values of several types, from file to file: taken as text." in (
        capsys.readouterr().err
    )
