"""10x matrices: HDF5 files, and folders of matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from sccagn_scale._errors import InputError
from sccagn_scale.io._join import Columns
from sccagn_scale.io._layout import MTX_NAMES, open_hdf5, tenx_groups
from sccagn_scale.io._market import MarketText
from sccagn_scale.io._stored import StoredRows

EXPRESSION = "Gene Expression"


def read_tenx_hdf5(path: Path) -> AnnData:
    """Read a 10x .h5 file of any Cell Ranger, all feature types; integers stay the integers stored.

    Raises
    ------
    InputError
        If it holds several genomes in a group each.
    """
    adata, name = read_hdf5_frame(path)
    with StoredRows(path, name).reading() as read:
        adata.X = read(0, adata.n_obs)
    return adata


def read_hdf5_frame(path: Path) -> tuple[AnnData, str]:
    """Read the cells and features of a 10x .h5 file, `obs` and `var` as scanpy names them; and its matrix's name.

    Raises
    ------
    InputError
        If it holds several genomes in a group each.
    """
    with open_hdf5(path) as file:
        groups = tenx_groups(file)
        if len(groups) > 1:
            raise InputError(
                f"`path` {str(path)!r} holds a matrix for each of {', '.join(groups)}; "
                "save the one wanted as .h5ad with scanpy.read_10x_h5(path, genome=...)."
            )
        group = file[groups[0]]
        obs = pd.DataFrame(index=pd.Index(_texts(group["barcodes"])))
        if "filtered_barcodes" in group:
            obs["filtered_barcodes"] = group["filtered_barcodes"][()].astype(bool)
        if "gene_names" in group:  # before Cell Ranger 3
            names, var = group["gene_names"], {"gene_ids": _texts(group["genes"])}
        else:
            names, var = group["features/name"], _columns_of(group["features"])
        return AnnData(obs=obs, var=pd.DataFrame(var, index=pd.Index(_texts(names)))), groups[0]


def read_tenx_mtx(path: Path) -> AnnData:
    """Read a 10x folder, or the matrix.mtx[.gz] in it, which then gives the prefix of the two other files.

    Each of the three may be compressed or not. Integers come back as int32, or int64 if one does not fit, other
    numbers as float64: the text says no more.

    Raises
    ------
    InputError
        If the folder holds several matrices, a file is missing, or the sizes disagree.
    """
    files = mtx_files(path)
    adata = read_mtx_frame(files)
    adata.X = MarketText(files.matrix).whole()
    return adata


class MtxFiles(NamedTuple):
    """The files of a 10x folder."""

    matrix: Path
    features: Path
    barcodes: Path


def mtx_files(path: Path) -> MtxFiles:
    """Find the files of a 10x folder, or of the matrix.mtx[.gz] in it, which then gives the prefix of the other two.

    Raises
    ------
    InputError
        If the folder holds several matrices, or a file is missing.
    """
    matrix_path = _only_matrix(path) if path.is_dir() else path
    prefix = matrix_path.name.removesuffix(".gz").removesuffix("matrix.mtx")
    features_path = _beside(matrix_path, prefix, ("features.tsv", "genes.tsv"))
    return MtxFiles(matrix_path, features_path, _beside(matrix_path, prefix, ("barcodes.tsv",)))


def read_mtx_frame(files: MtxFiles) -> AnnData:
    """Read the cells and features of a 10x folder.

    Raises
    ------
    InputError
        If the sizes disagree.
    """
    matrix_path, features_path, barcodes_path = files
    features, barcodes = _read_table(features_path), _read_table(barcodes_path)
    n_obs, n_vars = MarketText(matrix_path).shape
    if (n_vars, n_obs) != (len(features), len(barcodes)):
        raise InputError(
            f"`path` {str(matrix_path.parent)!r} must hold a matrix of features × barcodes, but {matrix_path.name} is "
            f"{n_vars} × {n_obs} where {features_path.name} has {len(features)} lines and "
            f"{barcodes_path.name} {len(barcodes)}."
        )
    symbols = features.columns[min(1, features.shape[1] - 1)]
    var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=pd.Index(features[symbols].to_numpy()))
    if features.shape[1] > 2:
        var["feature_types"] = pd.Categorical(features[2])
    obs = pd.DataFrame(index=pd.Index(barcodes[0].to_numpy()))
    return AnnData(obs=obs, var=var)


def expression_columns(adata: AnnData) -> Columns:
    """Find the genes where antibodies, guides and the like are there too; None: all features are taken."""
    if "feature_types" not in adata.var:
        return None
    keep = (adata.var["feature_types"].astype(str) == EXPRESSION).to_numpy()
    return None if keep.all() or not keep.any() else np.flatnonzero(keep)


def keep_expression(adata: AnnData) -> tuple[AnnData, list[str]]:
    """Leave out antibodies, guides and the like where genes are there too; the second says what was done."""
    columns = expression_columns(adata)
    if columns is None:
        return adata, []
    types = adata.var["feature_types"].astype(str)
    others = ", ".join(sorted(set(types) - {EXPRESSION}))
    note = f"{len(types) - len(columns)} of {len(types)} features are not {EXPRESSION} ({others}) and were left out."
    return adata[:, columns].copy(), [note]


def _columns_of(features: h5py.Group) -> dict[str, npt.NDArray[Any]]:
    """What `var` holds of the features beside their names."""
    further = {name: item for name, item in features.items() if isinstance(item, h5py.Dataset)}
    for name in ("name", "id", "gene_id", "feature_type", "_all_tag_keys"):
        further.pop(name, None)
    if "gene_id" in features:  # of probes
        columns = {"gene_ids": _texts(features["gene_id"]), "probe_ids": _texts(features["id"])}
    else:
        columns = {"gene_ids": _texts(features["id"])}
    columns["feature_types"] = _texts(features["feature_type"])
    return columns | {name: item[()] if item.dtype.kind == "b" else _texts(item) for name, item in further.items()}


def _texts(array: h5py.Dataset) -> npt.NDArray[Any]:
    return array.asstr("utf-8")[()] if h5py.check_string_dtype(array.dtype) else array[()].astype(str)


def _only_matrix(folder: Path) -> Path:
    # in reverse order, so that of matrix.mtx and its own matrix.mtx.gz the first stays
    files = sorted((file for file in folder.iterdir() if file.name.endswith(MTX_NAMES)), reverse=True)
    matrices = {file.name.removesuffix(".gz"): file for file in files}
    if len(matrices) > 1:
        raise InputError(
            f"`path` {str(folder)!r} holds {len(matrices)} matrices, {', '.join(sorted(matrices)[:4])} among them; "
            "give the path of the one wanted."
        )
    return next(iter(matrices.values()))


def _beside(matrix_path: Path, prefix: str, names: tuple[str, ...]) -> Path:
    candidates = [matrix_path.with_name(prefix + name + end) for name in names for end in ("", ".gz")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        f"`path` must have {' or '.join(prefix + name for name in names)} (or .gz) beside {matrix_path.name}, "
        f"but {str(matrix_path.parent)!r} has none."
    )


def _read_table(path: Path) -> pd.DataFrame:
    # as text and unquoted: a gene may be called NA, and a name may hold a quotation mark
    return pd.read_csv(path, sep="\t", header=None, dtype=str, na_filter=False, quoting=csv.QUOTE_NONE)
