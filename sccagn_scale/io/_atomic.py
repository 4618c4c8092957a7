"""Files that appear whole or not at all."""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import h5py

from sccagn_scale._errors import InputError, first_line

_LARGEST_KEPT = 2**20  # bytes
_COPIED_AT_ONCE = 2**30  # bytes; not more, so that Ctrl-C is heard
_UNLOCKED = ".sccagn_scale."
_SCRATCH = f".sccagn_scale-{os.uname().nodename}-"  # locks may not reach from one machine to another on a shared disk
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside `folder`, hence on the same disk, from where a rename is one step.

    What a killed process of ours left there, told by its lock that is gone, is removed first.
    """
    for left in folder.glob(f"{_SCRATCH}*"):
        with _locked(left) as is_locked:
            if is_locked:
                shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=_UNLOCKED))
    with _locked(made):  # before it has the name that others look for
        scratch = made.rename(folder / made.name.replace(_UNLOCKED, _SCRATCH, 1))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def temporary_folder(parent: Path | None) -> Iterator[Path]:
    """Give a temporary folder in the one that the parameter `scratch` names; None: in the system's.

    Raises
    ------
    InputError
        If that takes no new files.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder(parent or Path(tempfile.gettempdir())))
        except OSError as error:
            raise InputError(f"`scratch` must be a folder that takes new files: {first_line(error)}.") from error
        yield folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; what is written there, file or folder, takes the place of `path` when the block ends.

    If the block raises, nothing is left of it and what was at `path` is as before. The replacement is one step, but
    for folders on a system that cannot exchange two names: there the old one is moved aside first, and back if the
    second step fails.
    """
    target = Path(os.path.realpath(path))  # through a link, rather than in its place
    with scratch_folder(target.parent) as scratch:
        fresh = scratch / target.name
        yield fresh
        _sync(fresh)
        if target.exists():
            _keep_owner(target, fresh)
            shutil.copymode(target, fresh)  # last, as a new owner may take bits away
        if target.is_dir():
            _replace_folder(target, fresh)
        else:
            os.replace(fresh, target)
        with suppress(PermissionError):  # a folder may take new files and not be opened; all is in place by now
            _sync_one(target.parent)


class Hdf5File(h5py.File):
    """An HDF5 file whose failed writes show when it is asked, or at the end, instead of crashing the process.

    So do interruptions that come while it writes.
    """

    def __init__(self, raw: _PatientFile, mode: str) -> None:
        self._raw = raw
        super().__init__(raw, mode)

    def check(self) -> None:
        """Raise what first ended the writing, if anything did: long work need not go on for nothing."""
        if self._raw.failure is not None:
            raise self._raw.failure


@contextmanager
def replacing_hdf5(path: Path, source: Path | None = None) -> Iterator[Hdf5File]:
    """Give an HDF5 file, new or a copy of `source`, which takes the place of `path` when the block ends.

    Raises
    ------
    OSError
        If the file could not be written, such as for a full disk; `path` is then as before. So it is after an
        interruption.
    """
    with replacing(path) as fresh:
        if source is not None:
            copy_file(source, fresh)
        with _PatientFile(fresh, "w+" if source is None else "r+") as raw, _signals_kept():
            try:
                with Hdf5File(raw, "w" if source is None else "r+") as file:
                    yield file
            except Exception:
                if raw.failure is None:
                    raise
            if raw.failure is not None:  # rather than whatever HDF5 made of it
                raise raw.failure


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, by the file system itself where it can: some share the blocks until one side changes."""
    with open(source, "rb", buffering=0) as old, open(target, "xb", buffering=0) as new:
        try:
            while os.copy_file_range(old.fileno(), new.fileno(), _COPIED_AT_ONCE):
                pass
        except (AttributeError, OSError):
            if new.tell():  # what the system cannot do it refuses at once, so this is another failure
                raise
        is_whole = new.tell() == os.fstat(old.fileno()).st_size
    if not is_whole:
        shutil.copyfile(source, target)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder for as long as this process lives; gives whether that could be done."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)


def _keep_owner(target: Path, fresh: Path) -> None:
    """Give a file or folder, and what is new in it, the group and the owner of another as far as the system lets us."""
    there = target.stat()
    for entry in (fresh, *fresh.rglob("*")):
        found = entry.lstat()
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            continue  # a file that the old folder has too
        if found.st_gid != there.st_gid:
            with suppress(OSError):
                os.chown(entry, -1, there.st_gid, follow_symlinks=False)
        if found.st_uid != there.st_uid:
            with suppress(OSError):
                os.chown(entry, there.st_uid, -1, follow_symlinks=False)


def _replace_folder(target: Path, fresh: Path) -> None:
    if _exchange(target, fresh):
        return
    # not into the temporary folder, which would be removed if this process were killed between the two steps
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-")) / target.name
    try:
        os.rename(target, aside)
        try:
            os.rename(fresh, target)
        except BaseException:
            os.rename(aside, target)
            raise
    finally:
        if target.exists():
            shutil.rmtree(aside.parent, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; gives whether the system could do that."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Have what SIGINT and SIGTERM raise wait as a file's failure, if they come while HDF5 calls the file's methods.

    An exception from these crashes the process, and cannot be caught within them: Python may raise it as they begin.
    """
    handlers: Mapping[int, Callable[[int, FrameType | None], Any]] = {}
    if threading.current_thread() is threading.main_thread():  # in others, signals raise nothing
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: handler for number, handler in found.items() if callable(handler)}

    def hear(number: int, frame: FrameType | None) -> None:
        try:
            handlers[number](number, frame)
        except BaseException as error:
            file = _called_by_hdf5(frame)
            if file is None:
                raise
            file.failure = file.failure or error

    try:
        for number in handlers:
            signal.signal(number, hear)
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is hear:  # and not what was set meanwhile
                signal.signal(number, handler)


def _called_by_hdf5(frame: FrameType | None) -> _PatientFile | None:
    """The file whose method is running."""
    methods = [method.__code__ for method in (_PatientFile.write, _PatientFile.readinto, _PatientFile.truncate)]
    while frame is not None and frame.f_code not in methods:
        frame = frame.f_back
    return None if frame is None else frame.f_locals["self"]


class _PatientFile(io.FileIO):
    """A file that keeps the first failed write, or interruption of one, to itself, to be asked for later.

    HDF5 crashes the process when a write fails, as on a full disk. So it is told that all went well, and whoever owns
    the file looks at `failure` afterwards. Until then HDF5 must be able to read back its own book-keeping, or it
    crashes on that; what it writes after the failure is therefore kept in memory, but for large pieces, which are data.
    """

    failure: BaseException | None = None

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
                self.failure = self.failure or error
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
                self.failure = self.failure or error
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
