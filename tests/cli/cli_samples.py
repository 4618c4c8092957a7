"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import h5py
import pytest
from scipy.io import mmwrite

from sccagn_scale.cli import main


def exit_code(arguments: Sequence[object]) -> int | str | None:
    """Run the program; its exit code, whether it comes from the argument parser or from the work."""
    try:
        return main(list(map(str, arguments)))
    except SystemExit as error:
        return error.code


def complaint(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the program, which has to end with code 2; the one line that it says."""
    code = exit_code(arguments)
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("sccagn-scale: error: ")
    return err


def cluster(*arguments: object) -> int:
    """Run `cluster`; its exit code."""
    return main(["cluster", *map(str, arguments)])


def write_tenx_hdf5(adata: ad.AnnData, path: Path) -> None:
    """Write counts as a 10x .h5 file."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = adata.X.data.astype(int), adata.X.indices, adata.X.indptr
        group["shape"], group["barcodes"] = adata.shape[::-1], adata.obs_names.to_list()
        group["features/id"] = group["features/name"] = adata.var_names.to_list()
        group["features/feature_type"] = ["Gene Expression"] * adata.n_vars


def write_tenx(adata: ad.AnnData, folder: Path) -> None:
    """Write counts as a 10x folder."""
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", adata.X.T.astype(int))
    (folder / "genes.tsv").write_text("".join(f"id of {gene}\t{gene}\n" for gene in adata.var_names))
    (folder / "barcodes.tsv").write_text("".join(f"{cell}\n" for cell in adata.obs_names))
