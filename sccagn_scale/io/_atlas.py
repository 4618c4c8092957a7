"""An atlas on disk, in one file or several: cells in blocks, X never loaded whole."""

from __future__ import annotations

import os
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from sccagn_scale._errors import InputError, InputWarning, first_line
from sccagn_scale._threads import ahead

from ._atomic import scratch_folder
from ._blocks import Block, blocks_of, check_block_size
from ._join import Columns, join_frames, join_genes
from ._layout import HDF5_SUFFIXES, MTX_NAMES, damaged, file_facts, is_zarr, open_store
from ._read import read_frame, read_with
from ._stored import RAW_NAMES, HeldRows, Rows, StoredRows, choices, layers_in, supported
from ._transpose import transposed


def open_atlas(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, scratch: str | os.PathLike[str] | None = None
) -> Atlas:
    """Open files as one atlas, without loading their matrices.

    Several files are joined along the cells. The atlas has the genes that all files share (in the order of the first),
    every column of `obs` that any file has, and the columns of `var` that are the same in all files. A further column
    `obs["file"]` says which file a cell is from: its name without the extension or, where two names are the same, its
    path from the folder that all files are in.

    Parameters
    ----------
    paths
        `.h5ad` files, `.zarr` folders and 10x matrices (whose X is read into memory); or folders of such files, which
        are taken in the order of their names, without hidden ones.
    scratch
        Folder for copies of matrices that are stored by columns (CSC). It needs room for two copies while one is made.
        None: the system's temporary folder. The copies are removed with the atlas.

    Raises
    ------
    InputError
        If a file cannot be read, or if several files have no gene in common, share a cell name, or have a column
        `obs["file"]` already.

    Warns
    -----
    InputWarning
        If names repeat within a file (a suffix is added), or if 10x features that are not genes are left out.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    files = [file for path in given for file in _files_at(Path(path))]
    if not files:
        raise InputError("`paths` must name at least one file, but is empty.")
    by_place: dict[str, Path] = {}
    for file in files:
        if by_place.setdefault(os.path.realpath(file), file) is not file:
            raise InputError(f"`paths` must name every file once, but {str(file)!r} comes twice.")
    if scratch is not None and not Path(scratch).is_dir():
        raise InputError(f"`scratch` must be an existing folder, but {str(scratch)!r} is none.")
    opened = [_File(file) for file in files]
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
        self._scratch = _Scratch(scratch)
        self._matrices: dict[str | None, StoredMatrix] = {}
        frames = [file.frame for file in opened]
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
        """Whether there is one file, in which matrices stay: all but those of 10x are such."""
        return len(self._opened) == 1 and not self._opened[0].is_held

    @property
    def changed_files(self) -> list[Path]:
        """Those that have been written, replaced or removed since they were opened; their cells may be others now."""
        return [file.path for file in self._opened if file.has_changed]

    def close(self) -> None:
        """Remove what was written to `scratch`; matrices that were stored by columns cannot be read any more."""
        self._scratch.remove()

    def matrix(self, layer: str | None = None) -> StoredMatrix:
        """Find a matrix; one that is stored by columns is transposed now.

        Parameters
        ----------
        layer
            None for `X`, `"raw"` for `.raw.X`, or a name in `layers`. A layer that is itself called `"raw"` goes first.

        Raises
        ------
        InputError
            If it is not in all files, is empty, holds no numbers or has damaged row offsets (values are checked when
            they are read); or if `scratch` is full.
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
            where = f" in {str(file.path)!r}" if len(files) > 1 else ""
            if layer is None:
                raise InputError(f"`layer` points at X, which holds no matrix{where}; choose one of {choices(there)}.")
            raise InputError(f"`layer` must be one of {choices(there)}; there is no '{layer}'{where}.")
        is_raw = any(file.is_raw(layer) for file in files)
        genes, columns = join_genes(self.files, [file.genes(layer) for file in files]) if is_raw else self._genes
        stored = [file.rows(layer) for file in files]  # all are checked before one is transposed
        parts, start = [], 0
        for file, rows, own in zip(files, stored, columns, strict=True):
            parts.append(_Part(file.path, start, self._by_rows(rows), own))
            start += file.frame.n_obs
        where = "X" if layer is None else "raw.X" if files[0].is_raw(layer) else f"layers['{layer}']"
        return StoredMatrix(parts, genes, where=where, choices=choices(there), scratch=self._scratch)

    def _by_rows(self, rows: HeldRows | StoredRows) -> Rows:
        if isinstance(rows, StoredRows) and rows.layout == "csc":
            return transposed(rows, self._scratch.folder)
        return rows


class StoredMatrix:
    """Cells × genes whose values stay in their files, each of which is open only while it is read.

    Can be pickled, and then opens the files where it is. What is held of a file are its row offsets, 8 bytes a cell,
    and of 10x its values.

    Attributes
    ----------
    shape
        Cells and genes.
    dtype
        Of the values as they are stored; over several files the smallest that holds them all.
    nnz
        Values stored in the files, in genes that are left out too; of a dense matrix, all.
    n_bytes
        What a pass over them reads, compressed as they are.
    names
        Of the genes.
    where
        In the AnnData, for messages.
    choices
        What else `layer` could be.
    parts
        The files and the first cell of each.
    """

    def __init__(self, parts: Sequence[_Part], names: pd.Index, *, where: str, choices: str, scratch: _Scratch) -> None:
        last = parts[-1]
        self.shape = last.start + last.rows.shape[0], len(names)
        if 0 in self.shape:
            raise InputError(f"The input is empty: {where} has {self.shape[0]} cells and {self.shape[1]} genes.")
        self.dtype = np.result_type(*(part.rows.dtype for part in parts))
        self.nnz = sum(part.rows.nnz for part in parts)
        self.n_bytes = sum(part.rows.n_bytes for part in parts)
        self.names, self.where, self.choices = names, where, choices
        self._parts = tuple(parts)
        self._scratch: _Scratch | None = scratch  # stays as long as there is a matrix in it
        self._block_dtype = supported(self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_scratch": None}  # belongs to the process that made it

    @property
    def parts(self) -> tuple[tuple[Path, int], ...]:
        """The files and the first cell of each."""
        return tuple((part.path, part.start) for part in self._parts)

    def blocks(self, block_size: int) -> Iterator[Block]:
        """Go through the cells in blocks, which end at the files' borders, the next one being read by a thread.

        Parameters
        ----------
        block_size
            Cells in a block; a file's last may have fewer.

        Yields
        ------
        The block's first cell, and the block as CSR [≤ block_size, n_vars] of type `dtype`, but float32 for float16.

        Raises
        ------
        InputError
            If the block is damaged in its file; the message names the file and the cells, counted from its first.
        """
        check_block_size(block_size)
        return ahead(
            (part.start + start, self._joined(part, block))
            for part in self._parts
            for start, block in blocks_of(part.rows, block_size)
        )

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read the cells `start` to `stop` - 1 as CSR [stop - start, n_vars]; for several threads at once, if need be.

        Raises
        ------
        InputError
            If there are no such cells, or they are damaged in their file.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise InputError(
                f"`start` and `stop` must lie in order between 0 and {self.shape[0]}, but are {start} and {stop}."
            )
        pieces = [sparse.csr_matrix((0, self.shape[1]), dtype=self._block_dtype)]
        for part in self._parts:
            first, last = max(start - part.start, 0), min(stop - part.start, part.rows.shape[0])
            if first < last:
                with part.rows.reading() as read:
                    pieces.append(self._joined(part, read(first, last)))
        return pieces[1] if len(pieces) == 2 else sparse.vstack(pieces, format="csr")

    def _joined(self, part: _Part, block: sparse.csr_matrix) -> sparse.csr_matrix:
        if part.columns is not None:
            block = block[:, part.columns]
            block.sort_indices()
        return block.astype(self._block_dtype, copy=False)


@dataclass(frozen=True)
class _Part:
    """The rows of a matrix that are in one file."""

    path: Path
    start: int
    rows: Rows
    columns: Columns


class _File:
    """One of an atlas's files: everything but its matrices, and where those are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts = file_facts(path) if path.exists() else {}
        self.frame, self.notes = read_with(read_frame, path)
        self._held, self.frame.X = self.frame.X, None  # of 10x
        self.layers: dict[str | None, str] = {None: "X"}
        if self._held is None:
            with open_store(path) as root:
                self.layers = layers_in(root)
                if self.is_raw("raw"):
                    self._raw_genes = _names_in(root[self.layers["raw"].removesuffix("X") + "var"])

    @property
    def is_held(self) -> bool:
        """Whether its matrix is in memory."""
        return self._held is not None

    @property
    def has_changed(self) -> bool:
        """Whether it is another than when it was opened, unless its matrix was read then."""
        try:
            return not self.is_held and file_facts(self.path) != self._facts
        except OSError:
            return True

    def is_raw(self, layer: str | None) -> bool:
        """Whether it is `.raw.X`, and no layer of that name."""
        return self.layers.get(layer) in RAW_NAMES

    def genes(self, layer: str | None) -> pd.Index:
        """The names of a matrix's genes."""
        return self._raw_genes if self.is_raw(layer) else self.frame.var_names

    def rows(self, layer: str | None) -> HeldRows | StoredRows:
        """A matrix, checked but for its values."""
        if self._held is not None:
            return HeldRows(self._held)
        rows = StoredRows(self.path, self.layers[layer])
        shape = self.frame.n_obs, len(self.genes(layer))
        if rows.shape != shape:
            raise damaged(
                self.path, f"/{rows.name} is {rows.shape[0]} × {rows.shape[1]} but must be {shape[0]} × {shape[1]}"
            )
        return rows


class _Scratch:
    """A temporary folder that is made when it is first asked for, and goes with the last that uses it."""

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent

    @cached_property
    def folder(self) -> Path:
        """The folder.

        Raises
        ------
        InputError
            If it cannot be made.
        """
        stack = ExitStack()
        try:
            folder = stack.enter_context(scratch_folder(self._parent or Path(tempfile.gettempdir())))
        except OSError as error:
            raise InputError(f"`scratch` must be a folder that takes new files: {first_line(error)}.") from error
        self._remove = weakref.finalize(self, stack.close)
        return folder

    def remove(self) -> None:
        """Remove it and what is in it."""
        if "folder" in vars(self):
            self._remove()


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
