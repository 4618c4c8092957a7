"""The cells × genes that most tests of this room use, and a look at what lies in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy import sparse

import sccagn_scale
from sccagn_scale import io

COUNTS = np.array(
    [
        [0, 3, 0, 1, 0],
        [2, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 4, 0, 70_000],
    ],
    dtype=np.int32,
)
"""Cells × genes."""
CELLS = ["AAAC-1", "AAAG-1", "AAAT-1", "AACA-1"]
GENES = ["CD3E", "NA", 'HLA"A', "MS4A1", "CD3_TotalSeq"]
IDS = [f"ENSG{i:05d}" for i in range(5)]
NAMES = ["a.h5ad", "a.zarr"]
"""Of files to write."""
TYPES = ["Gene Expression"] * 4 + ["Antibody Capture"]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def read(path: Path) -> anndata.AnnData:
    """Read with AnnData's own reader."""
    return anndata.read_zarr(path) if path.is_dir() else anndata.read_h5ad(path)


def dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def in_child(script: str, *arguments: object, options: Sequence[str] = ()) -> str:
    """Run a script in a process of its own, which may crash or be limited, and give what it printed."""
    done = subprocess.run(
        [sys.executable, *options, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(sccagn_scale.__file__).parents[1])},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LIMITED = """
import resource, sys
import anndata, numpy as np
from scipy import sparse
from sccagn_scale import io
from sccagn_scale._errors import InputError

def limited(size, work, *arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        work(*arguments)
        print("written", *arguments)
    except InputError as error:
        print(error)
"""


def on_a_full_disk(script: str, *arguments: object) -> list[str]:
    """Run a script whose `limited(size, work, ...)` works where no file may be larger; lines of what it says of that.

    In a process of its own, which HDF5 by itself would crash.
    """
    return in_child(LIMITED + script, *arguments, options=["-W", "ignore"]).splitlines()


@contextmanager
def refused_by_anndata() -> Iterator[None]:
    """Expect AnnData's own error for an `object()`, which it has no writer for, and none of ours."""
    with pytest.raises(Exception, match="No method registered for writing <class 'object'>") as caught:
        yield
    assert type(caught.value).__name__ == "IORegistryError"


def x_of(path: Path) -> np.ndarray:
    """X of a file, dense."""
    return io.read(path).X.toarray()
