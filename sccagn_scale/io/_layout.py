"""What a path holds, told by its content, and how it is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py

from sccagn_scale._errors import InputError, first_line

if TYPE_CHECKING:
    import zarr

Layout = Literal["anndata", "zarr", "tenx_hdf5", "tenx_mtx"]

HDF5_SUFFIXES = (".h5ad", ".h5", ".hdf5")
ZARR_MARKERS = ("zarr.json", ".zgroup", ".zattrs")
TENX_PARTS = {"data", "indices", "indptr", "shape", "barcodes"}
MTX_NAMES = ("matrix.mtx", "matrix.mtx.gz")


def damaged(path: Path, reason: str) -> InputError:
    """The error for a file that has the right kind and the wrong content."""
    return InputError(f"`path` {str(path)!r} is damaged, incomplete or stored in an unknown way: {reason}.")


@contextmanager
def as_damaged(path: Path, where: str = "") -> Iterator[None]:
    """Lay what fails in the block on the file, but for errors that do not come of its content.

    Those are our own, a lack of memory or of a package, and warnings that are raised as errors. `where` comes before
    the reason, such as `in /X, `.
    """
    try:
        yield
    except (InputError, MemoryError, ImportError, Warning):
        raise
    except Exception as error:
        raise damaged(path, f"{where}{first_line(error)}") from error


def layout_of(path: Path) -> Layout:
    """Tell what lies at `path`.

    Raises
    ------
    InputError
        If nothing is there, it cannot be opened, or it is nothing that can be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"`path` must name an existing file or folder, but {str(path)!r} does not exist.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"`path` {str(path)!r} cannot be opened: {first_line(error)}.") from error
    if stat.S_ISDIR(mode):
        return _layout_of_folder(path)
    if path.name.endswith(MTX_NAMES):
        return "tenx_mtx"
    if path.suffix.lower() not in HDF5_SUFFIXES:
        raise InputError(
            f"`path` must be a .h5ad file, a 10x .h5 file, a 10x matrix.mtx folder or a .zarr folder, "
            f"but {str(path)!r} is none of them; convert it to .h5ad."
        )
    with open_hdf5(path) as file:
        # AnnData before 0.7 wrote no encoding-type
        if file.attrs.get("encoding-type") == "anndata" or ("obs" in file and "var" in file):
            return "anndata"
        if tenx_groups(file):
            return "tenx_hdf5"
        found = ", ".join(list(file)[:8]) or "nothing"
    raise InputError(f"`path` must hold an AnnData or a 10x matrix, but {str(path)!r} holds {found}.")


def _layout_of_folder(path: Path) -> Layout:
    try:
        names = os.listdir(path)
    except OSError as error:
        raise InputError(f"`path` {str(path)!r} cannot be opened: {first_line(error)}.") from error
    if is_zarr(path):
        return "zarr"
    if any(name.endswith(MTX_NAMES) for name in names):
        return "tenx_mtx"
    raise InputError(
        f"`path` is a folder, so it must be a .zarr store or hold a 10x matrix.mtx or matrix.mtx.gz, "
        f"but {str(path)!r} holds {', '.join(sorted(names)[:8]) or 'nothing'}."
    )


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr store, of either format."""
    return any((folder / marker).is_file() for marker in ZARR_MARKERS)


def tenx_groups(file: h5py.File) -> list[str]:
    """The groups that hold a 10x matrix: `matrix` since Cell Ranger 3, one per genome before."""
    return [name for name, item in file.items() if is_tenx(item)]


def is_tenx(element: Any) -> bool:
    """Whether something in a file is a group that holds a 10x matrix."""
    return isinstance(element, h5py.Group) and set(element) >= TENX_PARTS


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read.

    Raises
    ------
    InputError
        If it is empty, not HDF5, truncated or locked, or the block comes upon a broken part of it.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if error.errno or isinstance(error, PermissionError | BlockingIOError | FileNotFoundError):  # of the system
            raise InputError(f"`path` {str(path)!r} cannot be opened: {first_line(error)}.") from error
        if h5py.is_hdf5(path):
            raise InputError(f"`path` {str(path)!r} is a truncated or damaged HDF5 file; copy it anew.") from error
        found = "is empty" if path.stat().st_size == 0 else "is something else or cut short"
        raise InputError(f"`path` must be an HDF5 file, but {str(path)!r} {found}.") from error
    with file:
        try:
            yield file
        except (OSError, RuntimeError, KeyError) as error:  # what h5py makes of HDF5's errors
            raise damaged(path, first_line(error)) from error


def open_zarr(path: Path) -> zarr.Group:
    """Open a zarr store to read.

    Raises
    ------
    InputError
        If the store's top is not a readable group.
    """
    import zarr

    with as_damaged(path):  # broken metadata fails in as many ways as there are fields
        return zarr.open_group(path, mode="r")


@contextmanager
def open_store(path: Path) -> Iterator[Any]:
    """Give the root group of an AnnData on disk, a `.h5ad` file or a `.zarr` folder, or of a 10x `.h5` file.

    Raises
    ------
    InputError
        If it cannot be opened, or the block comes upon a broken part of it.
    """
    with nullcontext(open_zarr(path)) if path.is_dir() else open_hdf5(path) as root, as_damaged(path):
        yield root


def file_facts(path: Path) -> dict[str, int]:
    """What changes when a file, or what is in a folder, is written anew or replaced: `size`, `mtime_ns`, `ctime_ns`.

    The last is set by the system alone: a copy may keep the size and the time of writing, as with cp -p. Not taken is
    the number of the inode, which some network disks give out anew at every mount. Links are followed; one that leads
    nowhere, as an editor's lock may, says nothing.
    """
    found = [path.stat()]
    for folder, below, names in os.walk(path, followlinks=True):
        for name in (*below, *names):
            with suppress(FileNotFoundError):
                found.append(os.stat(os.path.join(folder, name)))
    return {
        "size": sum(one.st_size for one in found),
        "mtime_ns": max(one.st_mtime_ns for one in found),
        "ctime_ns": max(one.st_ctime_ns for one in found),
    }
