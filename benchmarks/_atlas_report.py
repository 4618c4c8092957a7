"""Table of `atlas`: what was planned, and what came; and what larger atlases would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks._results import Row, write_atomically


def add_ratios(rows: Sequence[Row]) -> None:
    """Compare jobs with the plan, the pass with h5py's, and clusters on disk with those in memory; labels are dropped."""


def write(rows: Sequence[Row], *, beside: Path) -> None:
    """Write the table (.md) beside the result file."""
    write_atomically(beside.with_suffix(".md"), "")
