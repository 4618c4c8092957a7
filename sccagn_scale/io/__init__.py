"""Files in and out: AnnData (.h5ad, .zarr), 10x, backed row blocks, atomic write-back."""

from ._atlas import write_atlas
from ._blocks import iter_blocks
from ._read import read
from ._results import add_results, write_copy
from ._write import check_writable, write

__all__ = ["add_results", "check_writable", "iter_blocks", "read", "write", "write_atlas", "write_copy"]
