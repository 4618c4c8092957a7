"""The room that an output takes on its disk, told before the work."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from sccagn_scale.io._atlas import Atlas
from sccagn_scale.io._layout import file_facts

Making = Literal["in place", "copy", "anew", "results"]
"""How an output comes about: in the input itself, as a copy of it, with X written block by block, without matrices."""

_VALUE = 2
"""Bytes that a value of X takes when it is written anew, at least (counts of real cells: 2.0 to 3.3)."""

_DENSE = 20
"""At least one of so many values of a dense matrix is no zero, and written."""

_CLONE = 0x40049409  # FICLONE of Linux, which fcntl has from Python 3.12 on


def ending(atlas: Atlas) -> str:
    """What a file ends in that an atlas's matrices can be copied to as they are stored."""
    return ".zarr" if atlas.files[0].is_dir() else ".h5ad"


def output_size(atlas: Atlas, making: Making) -> int:
    """Bytes that an output takes, without the results.

    Of X that is written anew it is a lower estimate: as much as the files take for it, but no more than 2 bytes a
    value, of which a dense matrix counts one in twenty. An `.h5ad` file to which results are added in place takes its
    room a second time until it is replaced.
    """
    if making == "results" or (making == "in place" and atlas.files[0].is_dir()):  # zarr links what stays
        return 0
    if making != "anew":
        return file_facts(atlas.files[0])["size"]
    matrix = atlas.matrix()
    n_entries = matrix.shape[0] * matrix.shape[1]
    n_values = matrix.nnz if matrix.nnz < n_entries else n_entries // _DENSE  # dense: zeros are stored too
    return min(matrix.n_bytes, _VALUE * n_values)


def free_room(path: Path) -> int:
    """Bytes that are free where `path` is or will be."""
    return shutil.disk_usage(path.resolve().parent).free


def shares_blocks(source: Path, path: Path) -> bool:
    """Whether a copy of `source` at `path` takes no room until one of them changes, as on Btrfs and XFS."""
    file = source if source.is_file() else next(filter(Path.is_file, source.rglob("*")))
    try:
        with open(file, "rb") as old, tempfile.TemporaryFile(dir=path.resolve().parent) as new:
            fcntl.ioctl(new.fileno(), _CLONE, old.fileno())
    except OSError:
        return False
    return True
