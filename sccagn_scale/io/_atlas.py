"""An atlas on disk, in one file or several: cells in blocks, X never loaded whole."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from sccagn_scale._errors import InputError, InputWarning, first_line
from sccagn_scale.io._columns import StoredColumns
from sccagn_scale.io._copied import CopiedRows, ScratchFolder
from sccagn_scale.io._join import Columns, join_frames, join_genes
from sccagn_scale.io._layers import RAW_NAMES, choices, layers_in, no_layer, place
from sccagn_scale.io._layout import HDF5_SUFFIXES, MTX_NAMES, Layout, damaged, file_facts, is_zarr, open_store
from sccagn_scale.io._market import MarketText
from sccagn_scale.io._matrix import Part, StoredMatrix
from sccagn_scale.io._parameters import as_path
from sccagn_scale.io._read import FRAME, read_frame, read_with
from sccagn_scale.io._stored import Rows, StoredRows
from sccagn_scale.io._tenx import expression_columns, keep_expression, mtx_files, read_hdf5_frame, read_mtx_frame


def open_atlas(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    scratch: str | os.PathLike[str] | None = None,
    parts: Collection[str] | None = None,
) -> Atlas:
    """Open files as one atlas, without loading their matrices.

    Several files are joined along the cells. The atlas has the genes that all files share (in the order of the first),
    every column of `obs` that any file has, and the columns of `var` that are the same in all files. A further column
    `obs["file"]` says which file a cell is from: its name without the extension or, where two names are the same, its
    path from the folder that all files are in. Whole numbers stay such: a column of them that a file lacks is nullable,
    and one that no type of numbers holds becomes text.

    Parameters
    ----------
    paths
        `.h5ad` files, `.zarr` folders, 10x `.h5` files and 10x folders; or folders of such files, which are taken in
        the order of their names, without hidden ones.
    scratch
        Folder for copies of matrices that are stored by columns (CSC) or as text (`matrix.mtx`), which are made when
        their rows are first read. It needs 8 bytes a value, and 12 more while a copy is made (12 and 16 where values
        have 8 bytes); none more for text whose values come cell after cell, by rising genes. None: the system's
        temporary folder. The copies are removed with the atlas.
    parts
        What is read of a single file, such as `("obs", "var", "obsm")`; None: all. Of several it is `obs` and `var`.

    Raises
    ------
    InputError
        If a file cannot be read, or if several files have no gene in common, share a cell name, or have a column
        `obs["file"]` already.

    Warns
    -----
    InputWarning
        If names repeat within a file (a suffix is added), if 10x features that are not genes are left out, or if a
        column of `obs` holds values of several types from file to file and is taken as text.
    """
    given = paths if isinstance(paths, Iterable) and not isinstance(paths, str | bytes | os.PathLike) else [paths]
    files = [file for path in given for file in _files_at(as_path(path, "paths"))]
    if not files:
        raise InputError("`paths` must name at least one file, but is empty.")
    by_place: dict[str, Path] = {}
    for file in files:
        if by_place.setdefault(os.path.realpath(file), file) is not file:
            raise InputError(f"`paths` must name every file once, but {str(file)!r} comes twice.")
    if scratch is not None and not as_path(scratch, "scratch").is_dir():
        raise InputError(f"`scratch` must be an existing folder, but {str(scratch)!r} is none.")
    opened = [_File(file, ("obs", "var") if len(files) > 1 else parts or FRAME) for file in files]
    for one in opened:
        for note in one.notes:
            warnings.warn(f"{one.path}: {note}" if len(files) > 1 else note, InputWarning, stacklevel=2)
    return Atlas(opened, None if scratch is None else Path(scratch))


class Atlas:
    """Cells × genes in one file or several; made by `open_atlas`.

    Attributes
    ----------
    adata
        Everything but X, layers and raw: `obs`, `var`, and of a single file what else it holds. Not tied to the files.
    files
        Where it comes from.
    """

    adata: AnnData
    files: tuple[Path, ...]

    def __init__(self, opened: Sequence[_File], scratch: Path | None) -> None:
        self.files = tuple(file.path for file in opened)
        self._opened = opened
        self._scratch = ScratchFolder(scratch)
        self._matrices: dict[str | None, StoredMatrix] = {}
        frames = [file.take_frame() for file in opened]
        self._genes = join_genes(self.files, [frame.var_names for frame in frames])
        self.adata = join_frames(self.files, frames, self._genes[0]) if len(frames) > 1 else frames[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.adata.shape

    @property
    def n_obs(self) -> int:
        """Cells."""
        return self.adata.n_obs

    @property
    def n_vars(self) -> int:
        """Genes."""
        return self.adata.n_vars

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of the cells."""
        return self.adata.obs

    @property
    def layers(self) -> list[str | None]:
        """What `matrix` takes: the matrices that all files have."""
        return [name for name in self._opened[0].layers if all(name in file.layers for file in self._opened)]

    @property
    def is_one_file(self) -> bool:
        """Whether there is one file, in which results have a place: all but those of 10x are such."""
        return len(self._opened) == 1 and self._opened[0].is_anndata

    @property
    def changed_files(self) -> list[Path]:
        """Those that have been written, replaced or removed since they were opened; their cells may be others now."""
        return [file.path for file in self._opened if file.has_changed]

    def close(self) -> None:
        """Remove what was written to `scratch`; matrices not stored by rows that were read cannot be any more."""
        self._scratch.remove()

    def matrix(self, layer: str | None = None) -> StoredMatrix:
        """Find a matrix; one that is not stored by rows is copied when its rows are first read.

        Parameters
        ----------
        layer
            None for `X`, `"raw"` for `.raw.X`, or a name in `layers`. A layer that is itself called `"raw"` goes first.

        Raises
        ------
        InputError
            If it is not in all files, is empty, holds no numbers or has damaged row offsets (values are checked when
            they are read).
        """
        if layer not in self._matrices:
            self._matrices[layer] = self._find(layer)
        return self._matrices[layer]

    def _find(self, layer: str | None) -> StoredMatrix:
        files = self._opened
        there = self.layers
        for file in files:
            if layer in file.layers:
                continue
            raise no_layer(layer, there, f" in {str(file.path)!r}" if len(files) > 1 else "")
        is_raw = any(file.is_raw(layer) for file in files)
        genes, columns = join_genes(self.files, [file.genes(layer) for file in files]) if is_raw else self._genes
        parts, start = [], 0
        for file, own in zip(files, columns, strict=True):
            parts.append(Part(file.path, start, self._by_rows(file.matrix(layer)), file.stored_columns(own)))
            start += file.n_obs
        where = place(layer, is_raw=files[0].is_raw(layer))
        return StoredMatrix(parts, genes, where=where, choices=choices(there))

    def _by_rows(self, matrix: StoredRows | MarketText) -> Rows:
        if isinstance(matrix, MarketText):
            return CopiedRows(matrix, self._scratch)
        return CopiedRows(StoredColumns(matrix), self._scratch) if matrix.layout == "csc" else matrix


class _File:
    """One of an atlas's files: what it has beside its matrices, and where those are.

    Parameters
    ----------
    path
        The file.
    parts
        Those of an AnnData that are read, such as `obs`.
    """

    def __init__(self, path: Path, parts: Collection[str]) -> None:
        self.path = path
        self.layers: dict[str | None, str] = {None: "X"}
        self._market: Path | None = None  # the matrix of a 10x folder
        self._among: Columns = None  # where in a 10x matrix its genes stand
        self._n_features = 0  # of these, and others
        frame, self.notes = read_with(partial(self._read, parts=parts), path)
        self._frame: AnnData | None = frame
        self.n_obs, self._names = frame.n_obs, frame.var_names

    def _read(self, path: Path, layout: Layout, parts: Collection[str]) -> tuple[AnnData, list[str]]:
        self.is_anndata = layout in ("anndata", "zarr")
        files = mtx_files(path) if layout == "tenx_mtx" else None
        self._read_from = files or (path,)
        self._seen = _seen(self._read_from)
        if not self.is_anndata:
            if files is None:
                frame, self.layers[None] = read_hdf5_frame(path)
            else:
                frame, self._market = read_mtx_frame(files), files.matrix
            self._among, self._n_features = expression_columns(frame), frame.n_vars
            return keep_expression(frame)
        with open_store(path) as root:
            self.layers = layers_in(root)
            if self.is_raw("raw"):
                self._raw_genes = _names_in(root[self.layers["raw"].removesuffix("X") + "var"])
        return read_frame(path, layout, parts)

    def take_frame(self) -> AnnData:
        """Give away what was read, once: of several files it is joined, and not kept a second time."""
        frame, self._frame = self._frame, None
        assert frame is not None
        return frame

    @property
    def has_changed(self) -> bool:
        """Whether it is another than when it was opened."""
        try:
            return _seen(self._read_from) != self._seen
        except OSError:
            return True

    def is_raw(self, layer: str | None) -> bool:
        """Whether it is `.raw.X`, and no layer of that name."""
        return self.layers.get(layer) in RAW_NAMES

    def genes(self, layer: str | None) -> pd.Index:
        """The names of a matrix's genes."""
        return self._raw_genes if self.is_raw(layer) else self._names

    def stored_columns(self, columns: Columns) -> Columns:
        """Where some of `genes` stand in the file's matrix; None: all, in its order."""
        if self._among is None or columns is None:
            return columns if self._among is None else self._among
        return self._among[columns]

    def matrix(self, layer: str | None) -> StoredRows | MarketText:
        """A matrix, checked but for its values."""
        name = self.layers[layer]
        found = StoredRows(self.path, name) if self._market is None else MarketText(self._market)
        shape = self.n_obs, self._n_features or len(self.genes(layer))
        if found.shape != shape:
            raise damaged(
                self.path, f"/{name} is {found.shape[0]} × {found.shape[1]} but must be {shape[0]} × {shape[1]}"
            )
        return found


def _seen(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """What changes when a file is written, and not when it is given a link or a permission or its disk is remounted."""
    return [(facts["size"], facts["mtime_ns"]) for facts in map(file_facts, paths)]


def _names_in(var: Any) -> pd.Index:
    if hasattr(var, "dtype"):  # before AnnData 0.7: a table whose first column are the names
        return pd.Index(var[var.dtype.names[0]].astype(str))
    return read_elem(var).index


def _files_at(path: Path) -> list[Path]:
    """The path itself, or of a folder that is neither a store nor a 10x matrix, those and the files in it."""
    if not path.is_dir():
        return [path]
    try:
        if _is_one(path):
            return [path]
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        found = [e for e in entries if (_is_one(e) if e.is_dir() else e.suffix.lower() in HDF5_SUFFIXES)]
    except OSError as error:
        raise InputError(f"`paths` {str(path)!r} cannot be opened: {first_line(error)}.") from error
    if not found:
        raise InputError(
            f"`paths` must name files or a folder of them, but {str(path)!r} holds no .h5ad file, .zarr folder or 10x "
            f"matrix; it holds {', '.join(entry.name for entry in entries[:8]) or 'nothing'}."
        )
    return found


def _is_one(folder: Path) -> bool:
    """Whether a folder is a zarr store or a 10x matrix."""
    if folder.suffix.lower() == ".zarr" or is_zarr(folder):
        return True
    return any(entry.name.endswith(MTX_NAMES) for entry in folder.iterdir())
