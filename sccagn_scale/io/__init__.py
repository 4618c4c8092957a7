"""Files in and out: AnnData (.h5ad, .zarr), 10x, backed row blocks, atomic write-back."""

from ._blocks import iter_blocks
from ._read import read
from ._write import check_writable, write

__all__ = ["check_writable", "iter_blocks", "read", "write"]
