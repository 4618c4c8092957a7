"""Rows of a matrix block by block, from a file that need not fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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

Block = tuple[int, sparse.csr_matrix]


@dataclass(frozen=True)
class _Rows:
    """The rows of one matrix, wherever it is."""

    n_obs: int
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
        A `.h5ad` file, a `.zarr` folder or an AnnData, backed or in memory. In a file the matrix is CSR or dense.
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
        If there is no such layer, the file cannot be read or is damaged, or the matrix in it is CSC.
    """
    if isinstance(block_size, bool) or not isinstance(block_size, int | np.integer) or block_size < 1:
        raise InputError(f"`block_size` must be a whole number of at least 1, but is {block_size!r}.")
    if isinstance(source, AnnData):
        rows = _rows(_matrix_of(source, layer), None)
        if not source.isbacked:
            return _blocks(rows, int(block_size), None)
        return ahead(_blocks(rows, int(block_size), Path(source.filename)))
    path = Path(source)
    with ExitStack() as stack:  # raises now what would otherwise be raised at the first block
        _rows(_element_of(_open(path, stack), layer), path)
    return ahead(_blocks_of_file(path, int(block_size), layer))


def _blocks_of_file(path: Path, block_size: int, layer: str | None) -> Iterator[Block]:
    with ExitStack() as stack:
        yield from _blocks(_rows(_element_of(_open(path, stack), layer), path), block_size, path)


def _blocks(rows: _Rows, block_size: int, path: Path | None) -> Iterator[Block]:
    for start in range(0, rows.n_obs, block_size):
        stop = min(start + block_size, rows.n_obs)
        try:
            block = rows.read(start, stop)
        except MemoryError:
            raise
        except Exception as error:
            if path is None:
                raise
            raise damaged(path, f"cells {start} to {stop - 1}, {first_line(error)}") from error
        yield start, block


def _open(path: Path, stack: ExitStack) -> Any:
    """The root group of an AnnData on disk."""
    layout = layout_of(path)
    if layout == "zarr":
        return open_zarr(path)
    if layout == "anndata":
        return stack.enter_context(open_hdf5(path))
    raise InputError(
        f"`source` must be a .h5ad file or a .zarr folder to be read in blocks, but {str(path)!r} is a 10x matrix; "
        "save it as .h5ad first."
    )


def _matrix_of(adata: AnnData, layer: str | None) -> Any:
    if layer is None and adata.X is not None:
        return adata.X
    if layer in adata.layers:
        return adata.layers[layer]
    if layer == "raw" and adata.raw is not None:
        return adata.raw.X
    raise _no_layer(layer, adata.X is not None, adata.raw is not None, list(adata.layers))


def _element_of(root: Any, layer: str | None) -> Any:
    """The group or array of a matrix, as `_matrix_of` finds it in memory."""
    layers = list(root["layers"]) if "layers" in root else []
    raw = next((name for name in ("raw/X", "raw.X") if name in root), None)  # the second before AnnData 0.7
    if layer is None and "X" in root:
        return root["X"]
    if layer in layers:
        return root["layers"][layer]
    if layer == "raw" and raw is not None:
        return root[raw]
    raise _no_layer(layer, "X" in root, raw is not None, layers)


def _no_layer(layer: str | None, has_x: bool, has_raw: bool, layers: list[str]) -> InputError:
    there = ["None (X)"] * has_x + ["'raw'"] * has_raw + [repr(name) for name in layers]
    return InputError(f"`layer` must be one of {', '.join(there) or '(there is no matrix)'}, but is {layer!r}.")


def _rows(matrix: Any, path: Path | None) -> _Rows:
    """Find out how rows are read from a matrix: in memory or on disk; dense, sparse, or a group in AnnData's encoding.

    Parameters
    ----------
    matrix
        What has the rows.
    path
        The file it is in; None for one that an AnnData has opened or loaded.
    """
    if isinstance(matrix, CSRDataset | CSCDataset):  # of a backed AnnData
        matrix = matrix.group
    if hasattr(matrix, "shape"):
        _check_numbers(matrix.dtype)
        held = matrix.tocsr() if sparse.issparse(matrix) else matrix
        return _Rows(held.shape[0], lambda start, stop: _as_csr(held[start:stop]))
    return _stored_rows(matrix, path or Path(matrix.file.filename))


def _as_csr(block: Any) -> sparse.csr_matrix:
    return sparse.csr_matrix(block if sparse.issparse(block) else _supported(np.asarray(block)))


def _stored_rows(group: Any, path: Path) -> _Rows:
    attributes = dict(group.attrs)
    encoding = str(attributes.get("encoding-type", attributes.get("h5sparse_format", "")))  # second: before 0.7
    if encoding.startswith("csc"):
        raise InputError(
            f"`source` must store its matrix by rows (CSR) or dense to be read in blocks, but {group.name} is CSC; "
            "convert it once with adata.X = adata.X.tocsr() and write it anew."
        )
    if not encoding.startswith("csr"):
        raise damaged(path, f"{group.name} is no matrix")
    try:
        n_obs, n_vars = (int(n) for n in attributes["shape" if "shape" in attributes else "h5sparse_shape"])
        # int64 whatever the file's type: offsets pass 2³¹ in an atlas
        indptr = np.asarray(group["indptr"][:]).astype(np.int64)
        nnz, dtype = group["data"].shape[0], group["data"].dtype
        fault = indptr_fault(indptr, n_obs, nnz)
    except Exception as error:
        raise damaged(path, f"in {group.name}, {first_line(error)}") from error
    if fault is not None:
        raise damaged(path, f"in {group.name}, {fault}")
    _check_numbers(dtype)
    return _Rows(n_obs, lambda start, stop: _stored_block(group, indptr[start : stop + 1], n_vars))


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
