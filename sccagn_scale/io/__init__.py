"""Files in and out: AnnData (.h5ad, .zarr), 10x, atlases on disk, the cell store, atomic write-back."""

from sccagn_scale.io._atlas import Atlas, open_atlas
from sccagn_scale.io._atomic import replacing, replacing_hdf5, temporary_folder
from sccagn_scale.io._blocks import iter_blocks
from sccagn_scale.io._free_keys import free_keys
from sccagn_scale.io._layers import find_matrix
from sccagn_scale.io._layout import file_facts
from sccagn_scale.io._matrix import StoredMatrix
from sccagn_scale.io._names import decoded
from sccagn_scale.io._parameters import as_path, checked_anndata
from sccagn_scale.io._read import read, read_parts
from sccagn_scale.io._results import add_results, write_copy
from sccagn_scale.io._room import Making, ending, free_room, output_size, shares_blocks
from sccagn_scale.io._store import CellStore, CellStoreWriter, PackedRows, check_replaceable, write_made_from
from sccagn_scale.io._stored import row_range
from sccagn_scale.io._transpose import Copies
from sccagn_scale.io._write import check_writable, write
from sccagn_scale.io._write_atlas import RowWriter, write_atlas

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
