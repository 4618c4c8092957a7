"""Files in and out: AnnData (.h5ad, .zarr), 10x, backed row blocks, the cell store, atomic write-back."""

from ._atlas import ORIGIN, Atlas, StoredMatrix, open_atlas
from ._blocks import iter_blocks
from ._read import read
from ._store import CellStore, CellStoreWriter
from ._write import check_writable, write

__all__ = [
    "ORIGIN",
    "Atlas",
    "CellStore",
    "CellStoreWriter",
    "StoredMatrix",
    "check_writable",
    "iter_blocks",
    "open_atlas",
    "read",
    "write",
]
