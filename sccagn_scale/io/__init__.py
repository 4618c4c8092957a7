"""Files in and out: AnnData (.h5ad, .zarr), 10x, atlases on disk, the cell store, atomic write-back."""

from ._atlas import Atlas, StoredMatrix, open_atlas
from ._blocks import iter_blocks
from ._free_keys import free_keys
from ._read import read, read_parts
from ._results import add_results, write_copy
from ._store import CellStore, CellStoreWriter
from ._write import check_writable, write
from ._write_atlas import write_atlas

__all__ = [
    "Atlas",
    "CellStore",
    "CellStoreWriter",
    "StoredMatrix",
    "add_results",
    "check_writable",
    "free_keys",
    "iter_blocks",
    "open_atlas",
    "read",
    "read_parts",
    "write",
    "write_atlas",
    "write_copy",
]
