"""Rows of a matrix block by block, from a file that need not fit in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from sccagn_scale._checks import whole
from sccagn_scale._errors import InputError
from sccagn_scale._threads import ahead
from sccagn_scale.io._atomic import scratch_folder
from sccagn_scale.io._columns import StoredColumns
from sccagn_scale.io._layers import choices, layers_in, layers_of
from sccagn_scale.io._layout import layout_of, open_store
from sccagn_scale.io._stored import HeldRows, Rows, StoredRows
from sccagn_scale.io._transpose import copied

Block = tuple[int, sparse.csr_matrix]


def iter_blocks(
    source: str | os.PathLike[str] | AnnData, block_size: int = 4096, *, layer: str | None = None
) -> Iterator[Block]:
    """Go through the cells in blocks of consecutive rows.

    Of a file, two blocks at a time are in memory, one of them being read ahead by a thread, and of CSR its row offsets,
    8 bytes a cell. CSC is first transposed into a temporary file. Everything but damage in the middle of the file is
    found by the call itself, before the first block.

    Parameters
    ----------
    source
        A `.h5ad` file, a `.zarr` folder or an AnnData, backed or in memory.
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
    block_size = whole(block_size, "block_size", 1)
    rows = _rows_of(source, layer) if isinstance(source, AnnData) else _rows_in(Path(source), layer)
    if isinstance(rows, HeldRows):
        return blocks_of(rows, block_size)
    return _stored_blocks(rows, block_size)


def blocks_of(rows: Rows | HeldRows, block_size: int) -> Iterator[Block]:
    """Go through rows in blocks, each with its first row."""
    n_obs = rows.shape[0]
    with rows.reading() as read:
        for start in range(0, n_obs, block_size):
            yield start, read(start, min(start + block_size, n_obs))


def _stored_blocks(rows: StoredRows, block_size: int) -> Iterator[Block]:
    with ExitStack() as stack:
        if rows.layout == "csc":
            rows = copied(StoredColumns(rows), stack.enter_context(scratch_folder(Path(tempfile.gettempdir()))))
        yield from ahead(blocks_of(rows, block_size))


def _rows_of(adata: AnnData, layer: str | None) -> HeldRows | StoredRows:
    matrices = layers_of(adata)
    if layer not in matrices:
        raise _no_layer(layer, matrices)
    matrix = matrices[layer]
    if isinstance(matrix, CSRDataset | CSCDataset):
        matrix = matrix.group
    if isinstance(matrix, h5py.Group | h5py.Dataset):
        return StoredRows(Path(matrix.file.filename), matrix.name.strip("/"))
    return HeldRows(matrix)


def _rows_in(path: Path, layer: str | None) -> StoredRows:
    if layout_of(path) not in ("anndata", "zarr"):
        raise InputError(
            f"`source` must be a .h5ad file or a .zarr folder, but {str(path)!r} is a 10x matrix; go through "
            "`open_atlas(source).matrix().blocks(block_size)`, which leaves out features that are not genes."
        )
    with open_store(path) as root:
        names = layers_in(root)
    if layer not in names:
        raise _no_layer(layer, names)
    return StoredRows(path, names[layer])


def _no_layer(layer: str | None, layers: dict[str | None, Any]) -> InputError:
    return InputError(f"`layer` must be one of {choices(layers)}, but is {layer!r}.")
