"""Any supported file or folder into an AnnData in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import h5py
from anndata.io import read_elem
from scipy import sparse

from sccagn_scale._errors import InputWarning
from sccagn_scale.io._blocks import iter_blocks
from sccagn_scale.io._check import as_signed, matrix_fault
from sccagn_scale.io._layout import Layout, as_damaged, damaged, layout_of, open_hdf5, open_store
from sccagn_scale.io._names import drop_ambiguous_names, plain_names
from sccagn_scale.io._parameters import as_path
from sccagn_scale.io._tenx import (
    keep_expression,
    mtx_files,
    read_hdf5_frame,
    read_mtx_frame,
    read_tenx_hdf5,
    read_tenx_mtx,
)

# AnnData asks for what is done here, and warns of the suffixes that do it
_NAME_WARNINGS = (r"(Observation|Variable) names are not unique", r"Suffix used .* to deduplicate index values")

FRAME = ("obs", "var", "uns", "obsm", "varm", "obsp", "varp")
"""Parts of an AnnData beside its matrices of all cells and genes."""


def read(path: str | os.PathLike[str], *, backed: bool = False) -> anndata.AnnData:
    """Read cells × genes from a file or folder.

    Where the name does not tell the format, the content does: a `.h5` file may be 10x's or AnnData's. Matrices stay as
    they are stored: CSR, CSC or dense, of any integer or float type, with their own index types.

    Parameters
    ----------
    path
        A `.h5ad` file, a 10x `.h5` file, a 10x folder (matrix.mtx, features.tsv or genes.tsv, barcodes.tsv, each
        compressed or not; or the path of one matrix.mtx among several, whose prefix the others share), or a `.zarr`
        folder.

    backed
        Leave `X` in the file (AnnData's backed mode) if that is a `.h5ad` file with `X` as CSR; everything else is read
        into memory. Damage inside such an `X` shows only when it is read.

    Returns
    -------
    AnnData [n_obs, n_vars], in memory except for such an `X`. From 10x: gene symbols as `var_names`, `var["gene_ids"]`,
    and `var["feature_types"]` if given.

    Raises
    ------
    InputError
        If the path does not exist, has no supported format, or is truncated or damaged.

    Warns
    -----
    InputWarning
        If cell or gene names repeat (a suffix is added), or if 10x features that are not genes are left out.
    """
    adata, notes = read_with(partial(_read_whole, backed=backed), as_path(path, "path"))
    for note in notes:
        warnings.warn(note, InputWarning, stacklevel=2)
    return adata


def read_with(
    reader: Callable[[Path, Layout], tuple[anndata.AnnData, list[str]]], path: Path
) -> tuple[anndata.AnnData, list[str]]:
    """Read an AnnData and make its names unique; the second says what was done to it.

    Parameters
    ----------
    reader
        Takes the path and what is there.

    Raises
    ------
    InputError
        If nothing that can be read is there, or `reader` fails at it.
    """
    layout = layout_of(path)
    with warnings.catch_warnings():
        for message in _NAME_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        with as_damaged(path):  # which makes the parsers fail in any way there is
            adata, notes = reader(path, layout)
            plain_names(adata)
            return adata, notes + _make_names_unique(adata)


def _read_whole(path: Path, layout: Layout, *, backed: bool) -> tuple[anndata.AnnData, list[str]]:
    adata = _load(path, layout, backed=backed)
    _check_matrices(adata, path)  # before anything selects from them
    return keep_expression(adata) if layout in ("tenx_hdf5", "tenx_mtx") else (adata, [])


def read_parts(path: str | os.PathLike[str], parts: Collection[str]) -> anndata.AnnData:
    """Read parts of an AnnData on disk, such as `obs` and `obsm`, whatever the size of the others.

    Raises
    ------
    InputError
        If the path does not exist, has no supported format, or is truncated or damaged.
    """
    adata, _ = read_with(partial(read_frame, parts=parts), as_path(path, "path"))
    return adata


def read_frame(path: Path, layout: Layout, parts: Collection[str] = FRAME) -> tuple[anndata.AnnData, list[str]]:
    """Read a file but for its matrices."""
    if layout in ("tenx_hdf5", "tenx_mtx"):
        return keep_expression(read_hdf5_frame(path)[0] if layout == "tenx_hdf5" else read_mtx_frame(mtx_files(path)))
    with open_store(path) as root:
        if isinstance(root.get("obs"), h5py.Dataset):  # before AnnData 0.7, whose own reader knows what came where
            old = anndata.read_h5ad(path, backed="r")
            found = {part: getattr(old, part) for part in parts}
            old.file.close()
        else:
            found = {part: read_elem(root[part]) for part in parts if part in root}
    return anndata.AnnData(**found), []


def _load(path: Path, layout: Layout, *, backed: bool) -> anndata.AnnData:
    if layout == "anndata":
        if backed and _has_csr(path):
            return anndata.read_h5ad(path, backed="r")
        return anndata.read_h5ad(path)
    if layout == "zarr":
        return anndata.read_zarr(path)
    return read_tenx_hdf5(path) if layout == "tenx_hdf5" else read_tenx_mtx(path)


def _has_csr(path: Path) -> bool:
    with open_hdf5(path) as file:
        return "X" in file and file["X"].attrs.get("encoding-type") == "csr_matrix"


def _matrices_of(adata: anndata.AnnData) -> Iterator[tuple[str, Any]]:
    """Every expression matrix of an AnnData with its name."""
    if adata.X is not None:
        yield "X", adata.X
    for name, matrix in adata.layers.items():
        yield f"layers[{name!r}]", matrix
    if adata.raw is not None:
        yield "raw.X", adata.raw.X


def _check_matrices(adata: anndata.AnnData, path: Path) -> None:
    if adata.isbacked:
        iter_blocks(adata)  # checks all but the values
    for name, matrix in _matrices_of(adata):
        if name == "X" and adata.isbacked:
            continue
        fault = matrix_fault(matrix)
        if fault is not None:
            raise damaged(path, f"in {name}, {fault}")
        if sparse.issparse(matrix):
            matrix.indices, matrix.indptr = as_signed(matrix.indices), as_signed(matrix.indptr)


def _make_names_unique(adata: anndata.AnnData) -> list[str]:
    notes = []
    for what, index, make_unique in (
        ("cell", adata.obs_names, adata.obs_names_make_unique),
        ("gene", adata.var_names, adata.var_names_make_unique),
    ):
        n_repeats = int(index.duplicated().sum())
        if n_repeats:
            make_unique()
            example = index[index.duplicated()][0]
            notes.append(
                f"{n_repeats} of {len(index)} {what} names repeat an earlier one (such as {example!r}); "
                "they were made unique with the suffixes -1, -2, …"
            )
    if notes:
        drop_ambiguous_names(adata)  # a column may hold the names as they were
    return notes
