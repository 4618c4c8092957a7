"""The cells × genes that most tests of this room use, and a look at what lies in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

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


@contextmanager
def refused_by_anndata() -> Iterator[None]:
    """Expect AnnData's own error for an `object()`, which it has no writer for, and none of ours."""
    with pytest.raises(Exception, match="No method registered for writing <class 'object'>") as caught:
        yield
    assert type(caught.value).__name__ == "IORegistryError"


def x_of(path: Path) -> np.ndarray:
    """X of a file, dense."""
    return io.read(path).X.toarray()
