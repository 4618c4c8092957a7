"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

_LARGEST_KEPT = 2**20  # bytes


def scratch_folder(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder inside `folder`, hence on the same disk, from where a rename is one step."""
    return tempfile.TemporaryDirectory(dir=folder, prefix=".sccagn_scale-", ignore_cleanup_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; what is written there, file or folder, takes the place of `path` when the block ends.

    If the block raises, nothing is left of it and what was at `path` is as before. A file is replaced in one step. A
    folder is moved aside first, and back if the second step fails.
    """
    target = Path(os.path.realpath(path))  # through a link, rather than in its place
    with scratch_folder(target.parent) as scratch:
        fresh = Path(scratch) / target.name
        yield fresh
        _sync(fresh)
        if target.is_dir():
            aside = Path(tempfile.mkdtemp(dir=scratch)) / target.name
            os.rename(target, aside)
            try:
                os.rename(fresh, target)
            except BaseException:
                os.rename(aside, target)
                raise
        else:
            if target.exists():
                shutil.copymode(target, fresh)
            os.replace(fresh, target)
        _sync_one(target.parent)


@contextmanager
def replacing_hdf5(path: Path) -> Iterator[h5py.File]:
    """Give a new HDF5 file, which takes the place of `path` when the block ends.

    Raises
    ------
    OSError
        If the file could not be written, such as for a full disk; `path` is then as before.
    """
    with replacing(path) as fresh, _PatientFile(fresh, "w+") as raw:
        try:
            with h5py.File(raw, "w") as file:
                yield file
        except Exception:
            if raw.failure is None:
                raise
        if raw.failure is not None:  # rather than whatever HDF5 made of it
            raise raw.failure


class _PatientFile(io.FileIO):
    """A file that keeps the first failed write to itself, to be asked for later.

    HDF5 crashes the process when a write fails, as on a full disk. So it is told that all went well, and whoever owns
    the file looks at `failure` afterwards. Until then HDF5 must be able to read back its own book-keeping, or it
    crashes on that; what it writes after the failure is therefore kept in memory, but for large pieces, which are data.
    """

    failure: OSError | None = None

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self._kept: list[tuple[int, bytes]] = []  # offset and content, in the order of writing

    def write(self, buffer: Any, /) -> int:
        start = self.tell()
        whole = memoryview(buffer).cast("B")
        rest = whole
        while self.failure is None and len(rest):
            try:
                rest = rest[super().write(rest) :]  # the system may take a part
            except OSError as error:
                self.failure = error
        if self.failure is not None and len(whole) <= _LARGEST_KEPT:
            self._kept.append((start, bytes(whole)))
        return len(whole)

    def readinto(self, buffer: Any, /) -> int:
        start = self.tell()
        whole = memoryview(buffer).cast("B")
        n_read = super().readinto(whole) or 0
        if self.failure is None:
            return n_read
        whole[n_read:] = bytes(len(whole) - n_read)
        for kept_start, kept in self._kept:
            low, high = max(start, kept_start), min(start + len(whole), kept_start + len(kept))
            if low < high:
                whole[low - start : high - start] = kept[low - kept_start : high - kept_start]
        return len(whole)

    def truncate(self, size: int | None = None, /) -> int:
        if self.failure is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.failure = error
        return size or 0


def _sync(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync_one(Path(folder) / name)
            _sync_one(Path(folder))
    else:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
