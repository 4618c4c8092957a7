"""Files in and out: AnnData (.h5ad, .zarr), 10x, atlases on disk, the cell store, atomic write-back."""

from ._atlas import Atlas, open_atlas
from ._atomic import replacing, replacing_hdf5, temporary_folder
from ._blocks import iter_blocks
from ._free_keys import free_keys
from ._layers import find_matrix
from ._layout import file_facts
from ._matrix import StoredMatrix
from ._names import decoded
from ._parameters import as_path, checked_anndata
from ._read import read, read_parts
from ._results import add_results, write_copy
from ._room import Making, ending, free_room, output_size, shares_blocks
from ._store import CellStore, CellStoreWriter, PackedRows, check_replaceable, write_made_from
from ._stored import row_range
from ._transpose import Copies
from ._write import check_writable, write
from ._write_atlas import RowWriter, write_atlas

__all__ = [
    "Atlas",
    "CellStore",
    "CellStoreWriter",
    "Copies",
    "Making",
    "PackedRows",
    "RowWriter",
    "StoredMatrix",
    "add_results",
    "as_path",
    "check_replaceable",
    "check_writable",
    "checked_anndata",
    "decoded",
    "ending",
    "file_facts",
    "find_matrix",
    "free_keys",
    "free_room",
    "iter_blocks",
    "open_atlas",
    "output_size",
    "read",
    "read_parts",
    "replacing",
    "replacing_hdf5",
    "row_range",
    "shares_blocks",
    "temporary_folder",
    "write",
    "write_atlas",
    "write_copy",
    "write_made_from",
]
