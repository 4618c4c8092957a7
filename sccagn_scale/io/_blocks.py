"""Rows of a matrix block by block, from a file that need not fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from sccagn_scale._errors import InputError
from sccagn_scale._threads import ahead

from ._check import as_signed, indices_fault, indptr_fault
from ._layout import damaged, first_line, layout_of, open_hdf5, open_zarr
from ._turned import Turned

Block = tuple[int, sparse.csr_matrix]


@dataclass(frozen=True)
class Rows:
    """The rows of one matrix, wherever it is."""

    n_obs: int
    dtype: np.dtype[Any]
    nnz: int
    n_bytes: int  # on disk; of a matrix in memory there
    read: Callable[[int, int], sparse.csr_matrix]
    """Rows start to stop."""


def iter_blocks(
    source: str | os.PathLike[str] | AnnData, block_size: int = 4096, *, layer: str | None = None
) -> Iterator[Block]:
    """Go through the cells in blocks of consecutive rows.

    Of a file, two blocks at a time are in memory, one of them being read ahead by a thread, and of CSR its row offsets,
    8 bytes a cell. Everything but damage in the middle of the file is found by the call itself, before the first block.

    Parameters
    ----------
    source
        A `.h5ad` file, a `.zarr` folder or an AnnData, backed or in memory. A matrix that is stored by columns (CSC) is
        first copied by rows to a temporary file.
    block_size
        Cells in a block; the last may have fewer.
    layer
        None for `X`, `"raw"` for `.raw.X`, or a name in `layers`. A layer that is itself called `"raw"` goes first.

    Yields
    ------
    The block's first row, and the block as CSR [≤ block_size, n_vars]. Values keep the type they are stored in, except
    that float16, of which SciPy has no sparse matrices, becomes float32.

    Raises
    ------
    InputError
        If there is no such layer, or the file cannot be read or is damaged.
    """
    if isinstance(block_size, bool) or not isinstance(block_size, int | np.integer) or block_size < 1:
        raise InputError(f"`block_size` must be a whole number of at least 1, but is {block_size!r}.")
    if isinstance(source, AnnData):
        rows = rows_in(element_in(source, layer), None)
        if not source.isbacked:
            return _blocks(rows, int(block_size), None)
        return ahead(_blocks(rows, int(block_size), Path(source.filename)))
    path = Path(source)
    with ExitStack() as stack:  # raises now what would otherwise be raised at the first block
        rows_in(element_in(open_root(path, stack), layer), path)
    return ahead(_blocks_of_file(path, int(block_size), layer))


def _blocks_of_file(path: Path, block_size: int, layer: str | None) -> Iterator[Block]:
    with ExitStack() as stack:
        yield from _blocks(rows_in(element_in(open_root(path, stack), layer), path), block_size, path)


def _blocks(rows: Rows, block_size: int, path: Path | None) -> Iterator[Block]:
    for start in range(0, rows.n_obs, block_size):
        yield start, guarded(rows, start, min(start + block_size, rows.n_obs), path)


def guarded(rows: Rows, start: int, stop: int, path: Path | None) -> sparse.csr_matrix:
    """Read rows; whatever a damaged part of the file at `path` makes the reader do becomes an InputError."""
    try:
        return rows.read(start, stop)
    except MemoryError:
        raise
    except Exception as error:
        if path is None:
            raise
        raise damaged(path, f"cells {start} to {stop - 1}, {first_line(error)}") from error


def open_root(path: Path, stack: ExitStack) -> Any:
    """Open the root group of an AnnData on disk, until the stack closes."""
    layout = layout_of(path)
    if layout == "zarr":
        return open_zarr(path)
    if layout == "anndata":
        return stack.enter_context(open_hdf5(path))
    raise InputError(
        f"`source` must be a .h5ad file or a .zarr folder to be read in blocks, but {str(path)!r} is a 10x matrix; "
        "save it as .h5ad first."
    )


def element_in(root: Any, layer: str | None) -> Any:
    """Find a matrix in an AnnData or in the root group of one on disk.

    Parameters
    ----------
    layer
        None for `X`, `"raw"` for `.raw.X`, or a name in `layers`. A layer that is itself called `"raw"` goes first.

    Raises
    ------
    InputError
        If there is no such matrix.
    """
    if isinstance(root, AnnData):
        has_x, layers = root.X is not None, root.layers
        raw = None if root.raw is None else root.raw.X
    else:
        has_x, layers = _holds_matrix(root, "X"), root.get("layers", {})
        raw = next((root[name] for name in ("raw/X", "raw.X") if name in root), None)  # the second before AnnData 0.7
    if layer is None and has_x:
        return root.X if isinstance(root, AnnData) else root["X"]
    if layer in list(layers):
        return layers[layer]
    if layer == "raw" and raw is not None:
        return raw
    there = ", ".join(choices_in(root)) or "(there is no matrix)"
    raise InputError(f"`layer` must be one of {there}, but is {layer!r}.")


def choices_in(root: Any) -> list[str]:
    """What `layer` can be: for X, for raw and for every layer, as messages have it."""
    if isinstance(root, AnnData):
        has_x, has_raw, layers = root.X is not None, root.raw is not None, list(root.layers)
    else:
        has_x, layers = _holds_matrix(root, "X"), list(root["layers"]) if "layers" in root else []
        has_raw = any(name in root for name in ("raw/X", "raw.X"))
    return ["None (X)"] * has_x + ["'raw'"] * has_raw + [repr(name) for name in layers]


def _holds_matrix(root: Any, name: str) -> bool:
    return name in root and root[name].attrs.get("encoding-type") != "null"


def rows_in(matrix: Any, path: Path | None, scratch: Path | None = None) -> Rows:
    """Find out how rows are read from a matrix: in memory or on disk; dense, sparse, or a group in AnnData's encoding.

    Parameters
    ----------
    matrix
        What has the rows.
    path
        The file it is in; None for one that an AnnData has opened or loaded.
    scratch
        Folder for the copy by rows of a matrix that is stored by columns.
    """
    if isinstance(matrix, CSRDataset | CSCDataset):  # of a backed AnnData
        matrix = matrix.group
    if hasattr(matrix, "shape"):
        _check_numbers(matrix.dtype)
        held = matrix.tocsr() if sparse.issparse(matrix) else matrix
        nnz = held.nnz if sparse.issparse(held) else held.shape[0] * held.shape[1]
        n_bytes = _stored_bytes(held) or nnz * matrix.dtype.itemsize
        return Rows(held.shape[0], matrix.dtype, nnz, n_bytes, lambda start, stop: _as_csr(held[start:stop]))
    return _stored_rows(matrix, path or Path(matrix.file.filename), scratch)


def _as_csr(block: Any) -> sparse.csr_matrix:
    return sparse.csr_matrix(block if sparse.issparse(block) else _supported(np.asarray(block)))


def _stored_bytes(array: Any) -> int:
    """Bytes that an HDF5 or zarr array takes in its file, as far as that can be told."""
    if hasattr(array, "id") and hasattr(array.id, "get_storage_size"):
        return int(array.id.get_storage_size())
    return int(array.nbytes_stored()) if hasattr(array, "nbytes_stored") else 0


def _stored_rows(group: Any, path: Path, scratch: Path | None) -> Rows:
    attributes = dict(group.attrs)
    encoding = str(attributes.get("encoding-type", attributes.get("h5sparse_format", "")))  # second: before 0.7
    if not encoding.startswith(("csr", "csc")):
        raise damaged(path, f"{group.name} is no matrix")
    by_rows = encoding.startswith("csr")
    try:
        shape = tuple(int(n) for n in attributes["shape" if "shape" in attributes else "h5sparse_shape"])
        n_major, n_minor = shape if by_rows else shape[::-1]
        # int64 whatever the file's type: offsets pass 2³¹ in an atlas
        indptr = np.asarray(group["indptr"][:]).astype(np.int64)
        nnz, dtype = group["data"].shape[0], group["data"].dtype
        fault = indptr_fault(indptr, n_major, nnz)
    except Exception as error:
        raise damaged(path, f"in {group.name}, {first_line(error)}") from error
    if fault is not None:
        raise damaged(path, f"in {group.name}, {fault}")
    _check_numbers(dtype)
    n_bytes = sum(_stored_bytes(group[name]) for name in ("data", "indices", "indptr"))
    if by_rows:
        read = partial(_stored_block, group, n_vars=n_minor)
        return Rows(n_major, dtype, nnz, n_bytes, lambda start, stop: read(indptr[start : stop + 1]))
    turned = Turned(group, indptr, n_minor, scratch)
    return Rows(n_minor, dtype, nnz, n_bytes, turned.rows)


def _stored_block(group: Any, indptr: npt.NDArray[np.int64], n_vars: int) -> sparse.csr_matrix:
    """Read the rows between the offsets `indptr` [n + 1]."""
    low, high = int(indptr[0]), int(indptr[-1])
    indices = np.asarray(group["indices"][low:high])
    fault = indices_fault(indices, n_vars)
    if fault is not None:
        raise ValueError(fault)
    data = _supported(np.asarray(group["data"][low:high]))
    return sparse.csr_matrix((data, as_signed(indices), indptr - low), shape=(len(indptr) - 1, n_vars))


def _check_numbers(dtype: Any) -> None:
    if dtype.kind not in "buif":
        raise InputError(f"`layer` must hold numbers, but its values are of type {dtype}.")


def _supported(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float16 as float32, exactly: SciPy has no sparse float16."""
    return values.astype(np.float32) if values.dtype == np.float16 else values
