"""The cells × genes that most tests of this room use, and a look at what lies in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
TYPES = ["Gene Expression"] * 4 + ["Antibody Capture"]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
