"""How much memory there is, and arrays that need not stay in it."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike

from sccagn_scale._errors import InputError

_MEMINFO, _OWN_GROUPS, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes of memory that a process may still take without swapping; what a container or job has left, if less."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = _MEMINFO.read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass  # not Linux
    return min([free, *(max(0, limit - taken) for limit, taken in _limits())])


def limit() -> int | None:
    """Bytes of memory that a container or job may take; None if there is no limit below the machine's memory."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lowest = min((limit for limit, _ in _limits()), default=machine)
    return lowest if lowest < machine else None


def _limits() -> Iterator[tuple[int, int]]:
    """Limit of each control group that this process is in, directly or through others, and what is taken of it.

    Of version 1 too. A container may see its own group as the top, whatever the path says.
    """
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names, stat = _GROUPS, ("memory.max", "memory.current"), ("active_file", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = _GROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
            stat = ("total_active_file", "total_inactive_file")
        else:
            continue
        own = top / path.lstrip("/")
        for group in {own, *own.parents, top}:
            if not group.is_relative_to(top):
                continue
            try:
                limit, taken = (int((group / name).read_text()) for name in names)
                facts = dict(fact.split() for fact in (group / "memory.stat").read_text().splitlines())
                cached = sum(int(facts[name]) for name in stat)  # pages of files, which the system drops
            except (OSError, ValueError, KeyError):
                continue  # no limit ("max")
            yield limit, taken - cached


def is_in_memory(folder: Path) -> bool:
    """Whether what is written to a folder stays in memory, as in a tmpfs of Linux."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = Path("/proc/self/mountinfo")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        place, _, kind = line.partition(" - ")
        if place.split()[2] == number:
            return kind.split()[0] in ("tmpfs", "ramfs")
    return False


def in_words(n_bytes: float) -> str:
    """A number of bytes for people: `1,000 bytes`, `617 MB`, `1.23 GB`, `45.6 GB`."""
    if n_bytes < 1e6:
        return f"{n_bytes:,.0f} bytes"
    if n_bytes < 1e9:
        return f"{n_bytes / 1e6:,.0f} MB"
    return f"{n_bytes / 1e9:,.{1 if n_bytes >= 1e10 else 2}f} GB"


class Scratch:
    """Holds the large arrays of a run, in memory or in files that nobody else sees.

    A file has no name: its space is free again when the last array on it is dropped, however the process ends. The
    system may drop pages of such arrays from memory whenever it needs the room, so that they do not count as memory
    that a run needs.

    Parameters
    ----------
    folder
        Existing folder for the files; None: arrays are in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._maps: list[weakref.ref[mmap.mmap]] = []

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
        """Make an array to be filled.

        Raises
        ------
        InputError
            If the disk has no room for it.
        """
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if self.folder is None or n_bytes == 0:
            return np.empty(shape, dtype)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                _claim(file.fileno(), n_bytes)
                mapped = mmap.mmap(file.fileno(), n_bytes)
        except OSError as error:
            raise InputError(
                f"`store` needs {in_words(n_bytes)} more on the disk of '{self.folder}', which could not be reserved: "
                f"{error.strerror}. Make room, or name a folder on another disk."
            ) from error
        self._maps = [known for known in self._maps if known() is not None] + [weakref.ref(mapped)]
        return np.frombuffer(mapped, dtype).reshape(shape)

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Move an array to disk; the same array where all is in memory."""
        if self.folder is None:
            return array
        kept = self.empty(array.shape, array.dtype)
        kept[...] = array
        return kept

    def keep_csr(self, matrix: sp.csr_matrix) -> sp.csr_matrix:
        """Move a sparse matrix to disk; the same matrix where all is in memory."""
        if self.folder is None:
            return matrix
        kept = sp.csr_matrix(matrix.shape, dtype=matrix.dtype)
        kept.data, kept.indices, kept.indptr = map(self.keep, (matrix.data, matrix.indices, matrix.indptr))
        return kept

    def rest(self) -> None:
        """Drop the pages that are in memory; they come back from the page cache, or the disk, when touched."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for known in self._maps:
                if (mapped := known()) is not None:
                    mapped.madvise(mmap.MADV_DONTNEED)


IN_MEMORY = Scratch()


def _claim(descriptor: int, n_bytes: int) -> None:
    """Take the space now: a disk found full when a mapped page is written would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.truncate(descriptor, n_bytes)


def give_back() -> None:
    """Return memory freed by many small arrays to the system, where the C library keeps it (glibc)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
