"""Cells × genes in one file or several, taken as one and never loaded whole."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale._threads import ahead

from ._blocks import Block, Rows, choices_in, element_in, guarded, open_root, rows_in
from ._layout import HDF5_SUFFIXES, damaged, first_line, is_zarr, layout_of
from ._read import make_names_unique, names_may_repeat, read

log = logging.getLogger("sccagn_scale")

ORIGIN = "file"
"""Column of obs that says which of several files a cell is from."""

_ANNOTATION = ("obs", "var", "uns", "obsm", "varm", "obsp", "varp")


class Atlas:
    """Annotated cells × genes in one file or several. Made by `open_atlas`.

    Attributes
    ----------
    adata
        Everything but matrices, in memory: of a single file its `obs`, `var`, `uns`, `obsm`, `varm`, `obsp` and `varp`;
        of several, their `obs` under one another with the column `file`, and the genes that all have.
    files
        The files, in the order of their cells.
    """

    def __init__(self, adata: anndata.AnnData, parts: Sequence[_Part]) -> None:
        self.adata = adata
        self.files = tuple(part.path for part in parts)
        self._parts = tuple(parts)

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
        """Annotation of cells."""
        return self.adata.obs

    @property
    def is_one_file(self) -> bool:
        """Whether there is one file, in which matrices stay: all but those of 10x are such."""
        return len(self._parts) == 1 and not self._parts[0].is_held

    @property
    def choices(self) -> list[str]:
        """What `layer` can be, as messages have it: matrices that all files have."""
        each = [part.choices() for part in self._parts]
        return [name for name in each[0] if all(name in names for names in each)]

    def matrix(self, layer: str | None = None) -> StoredMatrix:
        """Find a matrix; checks all of it but the values.

        Parameters
        ----------
        layer
            None for `X`, `"raw"` for `.raw.X`, or a name in `layers`; every file must have it.

        Raises
        ------
        InputError
            If there is no such layer, it holds no numbers, or a file is damaged.
        """
        found = [part.find(layer) for part in self._parts]
        names, columns = _joined([part.path for part in self._parts], [piece.names for piece in found])
        return StoredMatrix(
            pieces=tuple(found),
            columns=columns,
            names=names,
            where=found[0].where,
            choices=", ".join(self.choices),
        )


class StoredMatrix:
    """One matrix of an atlas. Can be pickled: files are opened when they are read.

    Attributes
    ----------
    shape
        Cells and genes.
    dtype
        Of the values, the one that holds those of all files.
    nnz
        Stored values; those of genes that not all files have are counted too.
    n_bytes
        What the values and their places take in the files, compressed as they are.
    names
        Of the genes.
    where, choices
        Where in the file it stands, and what other matrices there are, for messages.
    parts
        Each file and its first cell.
    """

    def __init__(
        self,
        *,
        pieces: tuple[_Piece, ...],
        columns: list[npt.NDArray[np.int64] | None],
        names: pd.Index,
        where: str,
        choices: str,
    ) -> None:
        self._pieces, self._columns = pieces, columns
        self._starts = np.concatenate([[0], np.cumsum([piece.n_obs for piece in pieces])])
        self.shape = (int(self._starts[-1]), len(names))
        self.dtype = np.result_type(*(piece.dtype for piece in pieces))
        self.nnz = sum(piece.nnz for piece in pieces)
        self.n_bytes = sum(piece.n_bytes for piece in pieces)
        self.names, self.where, self.choices = names, where, choices
        self.parts = tuple((piece.path, int(start)) for piece, start in zip(pieces, self._starts, strict=False))

    def blocks(self, block_size: int) -> Iterator[Block]:
        """Go through the cells in order, one block read ahead by a thread.

        Yields
        ------
        A block's first cell, and the block: CSR [≤ block_size, n_vars], all of one file.

        Raises
        ------
        InputError
            When a damaged part of a file is met; names it and the cells.
        """
        return ahead(self._blocks(block_size))

    def _blocks(self, block_size: int) -> Iterator[Block]:
        for piece, columns, first in zip(self._pieces, self._columns, self._starts, strict=False):
            with ExitStack() as stack:
                rows = piece.open(stack)
                for start in range(0, piece.n_obs, block_size):
                    block = guarded(rows, start, min(start + block_size, piece.n_obs), piece.path)
                    yield int(first) + start, _selected(block, columns, self.shape[1]).astype(self.dtype, copy=False)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read the cells from `start` to before `stop`, CSR [stop − start, n_vars]; raises as `blocks` does."""
        found = []
        for piece, columns, first in zip(self._pieces, self._columns, self._starts, strict=False):
            low, high = max(start - int(first), 0), min(stop - int(first), piece.n_obs)
            if low < high:
                with ExitStack() as stack:
                    block = guarded(piece.open(stack), low, high, piece.path)
                found.append(_selected(block, columns, self.shape[1]).astype(self.dtype, copy=False))
        return sparse.vstack(found, format="csr") if found else sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)


def open_atlas(paths: Sequence[str | os.PathLike[str]], *, scratch: Path | None = None) -> Atlas:
    """Open files as one atlas; matrices stay where they are.

    Genes are joined by name: those that all files have, in the order of the first. Annotation of cells is joined as
    `anndata.concat(join="outer")` does it.

    Parameters
    ----------
    paths
        `.h5ad` files and `.zarr` folders (format 2 or 3) with matrices as CSR, CSC or dense; 10x files and folders,
        which are loaded into memory; or folders that hold such files, taken in the order of their names.
    scratch
        Folder for a copy by rows of every matrix that is read and stored by columns (CSC); None: the system's folder
        for temporary files.

    Raises
    ------
    InputError
        If a file cannot be read, files have no gene in common, or a name is given to two cells.
    """
    files = [file for path in paths for file in _files_in(Path(path))]
    parts = [_open(file, scratch) for file in files]
    if len(parts) == 1:
        return Atlas(_bare(parts[0].adata), parts)
    _check_cells(parts)
    names, _ = _joined(files, [part.adata.var_names for part in parts])
    labels = _labels(files)
    for part in parts:
        if ORIGIN in part.adata.obs:
            raise InputError(
                f"`path` {str(part.path)!r} has a column '{ORIGIN}' in obs, which would be lost: the file that each "
                "cell is from goes there. Rename it."
            )
    annotation = [anndata.AnnData(obs=part.adata.obs) for part in parts]
    joined = anndata.concat(annotation, join="outer", label=ORIGIN, keys=labels)
    var = parts[0].adata.var.loc[names]
    for part, label in zip(parts, labels, strict=True):
        n_left = part.adata.n_vars - len(names)
        if n_left:
            log.info("%s of %s genes of '%s' are not in all files and are left out.", n_left, part.adata.n_vars, label)
    return Atlas(anndata.AnnData(obs=joined.obs, var=var), parts)


@dataclass(frozen=True, eq=False)
class _Piece:
    """One matrix of one file."""

    path: Path
    layer: str | None
    where: str
    names: pd.Index
    n_obs: int
    dtype: np.dtype[Any]
    nnz: int
    n_bytes: int
    held: Any = None  # the matrix, where that is in memory
    scratch: Path | None = None

    def open(self, stack: ExitStack) -> Rows:
        """Open the file until the stack closes."""
        if self.held is not None:
            return rows_in(self.held, None)
        return rows_in(element_in(open_root(self.path, stack), self.layer), self.path, self.scratch)


@dataclass(frozen=True, eq=False)
class _Part:
    """One file's cells."""

    path: Path
    adata: anndata.AnnData  # of a file that matrices stay in, the rest
    is_held: bool
    scratch: Path | None

    def choices(self) -> list[str]:
        """What `layer` can be."""
        with ExitStack() as stack:
            return choices_in(self.adata if self.is_held else open_root(self.path, stack))

    def find(self, layer: str | None) -> _Piece:
        """Look a matrix up."""
        with ExitStack() as stack:
            root = self.adata if self.is_held else open_root(self.path, stack)
            element = element_in(root, layer)
            rows = rows_in(element, None if self.is_held else self.path, self.scratch)
            where = "X" if layer is None else f"layers['{layer}']" if layer in self._layers(root) else "raw.X"
            return _Piece(
                self.path,
                layer,
                where,
                self._raw_names(root) if where == "raw.X" else self.adata.var_names,
                rows.n_obs,
                np.dtype(rows.dtype),
                rows.nnz,
                rows.n_bytes,
                element if self.is_held else None,
                self.scratch,
            )

    def _layers(self, root: Any) -> list[str]:
        return list(self.adata.layers) if self.is_held else list(root["layers"]) if "layers" in root else []

    def _raw_names(self, root: Any) -> pd.Index:
        return self.adata.raw.var_names if self.is_held else read_elem(root["raw/var"]).index


def _open(path: Path, scratch: Path | None) -> _Part:
    layout = layout_of(path)
    if layout in ("anndata", "zarr"):
        with ExitStack() as stack:
            root = open_root(path, stack)
            if "encoding-type" in root["obs"].attrs:
                with names_may_repeat():
                    try:
                        adata = anndata.AnnData(**{name: read_elem(root[name]) for name in _ANNOTATION if name in root})
                    except Exception as error:  # broken annotation fails in as many ways as there are types
                        raise damaged(path, first_line(error)) from error
                    notes = make_names_unique(adata)
                for note in notes:
                    warnings.warn(note, InputWarning, stacklevel=3)
                return _Part(path, adata, False, scratch)
    return _Part(path, read(path), True, scratch)  # 10x, and AnnData before 0.7


def _bare(adata: anndata.AnnData) -> anndata.AnnData:
    """The same without matrices."""
    return anndata.AnnData(**{name: getattr(adata, name) for name in _ANNOTATION})


def _files_in(path: Path) -> list[Path]:
    """The path itself, or what a folder of files holds."""
    if not path.is_dir() or is_zarr(path):
        return [path]
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in inside if is_zarr(entry) or (entry.is_file() and entry.suffix.lower() in HDF5_SUFFIXES)]
    return files or [path]  # a 10x folder, or nothing that can be read, as is then said


def _check_cells(parts: Sequence[_Part]) -> None:
    seen = pd.Index([])
    for i, part in enumerate(parts):
        names = part.adata.obs_names
        both = names.isin(seen)
        if both.any():
            name = names[both][0]
            other = next(earlier.path for earlier in parts[:i] if name in earlier.adata.obs_names)
            raise InputError(
                f"`path` must name files whose cells have names of their own, but {int(both.sum()):,} stand in two, "
                f"such as {name!r} in {str(other)!r} and {str(part.path)!r}. Leave out a file that is there twice, or "
                "put something before the names, such as adata.obs_names = 'lung_' + adata.obs_names."
            )
        seen = seen.append(names)


def _joined(paths: Sequence[Path], names: Sequence[pd.Index]) -> tuple[pd.Index, list[npt.NDArray[np.int64] | None]]:
    """Genes that all have; and where in them each file's are, −1 for others, or None where they are just these."""
    common = names[0]
    for path, more in zip(paths[1:], names[1:], strict=True):
        common = common[common.isin(more)]
        if not len(common):
            raise InputError(
                f"`path` must name files with genes in common, but {str(paths[0])!r} (with genes such as "
                f"{', '.join(names[0][:3])}) and {str(path)!r} ({', '.join(more[:3])}) share none with each other and "
                "those between. Bring them to one kind of name."
            )
    return common, [None if own.equals(common) else common.get_indexer(own) for own in names]


def _labels(files: Sequence[Path]) -> list[str]:
    """Short names for files: without ending, with their folder where that is not enough."""
    stems = [file.stem for file in files]
    return [
        stem if stems.count(stem) == 1 else f"{file.resolve().parent.name}/{stem}"
        for file, stem in zip(files, stems, strict=True)
    ]


def _selected(block: sparse.csr_matrix, columns: npt.NDArray[np.int64] | None, n_vars: int) -> sparse.csr_matrix:
    """Bring a file's genes to their places among those of all files."""
    if columns is None:
        return block
    places = columns[block.indices]
    kept = places >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    chosen = sparse.csr_matrix((block.data[kept], places[kept], before[block.indptr]), shape=(block.shape[0], n_vars))
    chosen.sort_indices()
    return chosen
