"""Files that are measured on: simulated, brought to the disk, and taken out of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks._contest import run_fresh
from benchmarks._outcome import Outcome
from sccagn_scale._errors import InputError


def in_fresh_process(target: str, kwargs: dict[str, object]) -> None:
    """Run a target that prepares something, and fail where it fails."""
    # Not in this process: what it allocates stays allocated, and the memory belongs to those who are measured.
    outcome = run_fresh(target, kwargs)
    if "error" in outcome:
        raise InputError(outcome["error"].removeprefix("InputError: "))


def make_file(
    path: str,
    n_obs: int,
    n_vars: int | None,
    source: str | None = None,
    label: str | None = None,
    median_counts: float | None = None,
) -> Outcome:
    """Target: simulate the file on which jobs run."""
    from sccagn_scale.simulate import simulate

    simulate(path, n_obs, n_vars, source=source, label=label, median_counts=median_counts)
    return Outcome({}, dict)


def flush(path: Path) -> None:
    """Bring a file, or every file of a folder, to the disk."""
    for file in _descriptors(path):
        os.fsync(file)


def forget(path: Path) -> None:
    """Take a file, or every file of a folder, out of the page cache, so that it is read from the disk."""
    for file in _descriptors(path):
        os.fsync(file)  # what is not on the disk yet cannot be dropped
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _descriptors(path: Path) -> Iterator[int]:
    for one in [path] if path.is_file() else path.rglob("*"):
        if one.is_file():
            with one.open("rb") as file:
                yield file.fileno()
