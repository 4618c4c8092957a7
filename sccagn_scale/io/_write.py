"""AnnData back to disk, whole or not at all, and the question beforehand whether that can work."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import anndata
import h5py
from anndata.io import write_elem, write_zarr

from sccagn_scale._errors import InputError, first_line
from sccagn_scale.io._atomic import replacing, replacing_hdf5, scratch_folder
from sccagn_scale.io._layout import is_zarr
from sccagn_scale.io._names import has_pandas_strings, plain_strings
from sccagn_scale.io._parameters import as_path, checked_anndata

SUFFIXES = (".h5ad", ".zarr")
_STREAMS = re.compile("/dev/std|/dev/fd/|/proc/[^/]+/fd/")
_WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def write(adata: anndata.AnnData, path: str | os.PathLike[str]) -> None:
    """Write an AnnData so that `path` always holds something whole.

    The file is written under a temporary name in the same folder, flushed to disk, and renamed. After a failure the
    temporary file is gone and a previous file is as it was. As in AnnData's own writers, columns of strings in `obs`
    and `var` become categorical. Names of pandas' string type become ordinary strings.

    Parameters
    ----------
    adata
        What to write. If its `X` is backed by a file, it is copied without being read into memory.
    path
        A name that ends in `.h5ad` or `.zarr`; an existing file or store of that name is replaced.

    Raises
    ------
    InputError
        If `path` cannot be written, or the disk fills up on the way.
    """
    adata, path = checked_anndata(adata), as_path(path, "path")
    check_writable(path, "path")
    if adata.is_view and (adata.isbacked or has_pandas_strings(adata)):
        adata = adata.to_memory()  # a view has no X of its own in the file, nor strings that can be made plain
    plain_strings(adata)
    with writing(path):
        if path.suffix.lower() == ".h5ad":
            _write_h5ad(adata, path)
        else:
            _write_zarr(adata, path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what `path` could not be written for; and not of AnnData and zarr what the caller can do nothing about.

    Strings of pandas' own type in `uns` or in frames of `obsm`, which came with a file, are written as they are.
    """
    with warnings.catch_warnings(), anndata.settings.override(allow_write_nullable_strings=True):
        # the zarr format, and whether its chunks are put together in shards, are settings of AnnData
        warnings.filterwarnings("ignore", message="Writing zarr v2 data", category=UserWarning)
        warnings.filterwarnings("ignore", message="zarr v3 autosharding", category=UserWarning)
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=UserWarning)
        try:
            yield
        except OSError as error:
            raise InputError(f"`path` {str(path)!r} could not be written: {first_line(error)}.") from error
        except ValueError as error:
            if "embedded null" not in str(error).lower():  # the words of h5py and Cython
                raise
            raise InputError(
                f"`path` {str(path)!r} could not be written, as HDF5 stores no text or name with the character NUL: "
                f"{first_line(error)}. Remove it, or write to a .zarr folder."
            ) from error


def _write_h5ad(adata: anndata.AnnData, path: Path) -> None:
    with replacing_hdf5(path) as file:
        if adata.isbacked:
            _write_backed(adata, file)
        else:
            write_to_hdf5(adata, file)


def write_to_hdf5(adata: anndata.AnnData, file: h5py.File) -> None:
    """Write an AnnData into an empty file."""
    write_elem(file, "/", adata)
    if adata.raw is None and "raw" in file:
        del file["raw"]  # an explicit null, which AnnData before 0.12 cannot read


def _write_backed(adata: anndata.AnnData, file: h5py.File) -> None:
    """Write everything that is in memory, and copy the rest from file to file as it is compressed there."""
    write_to_hdf5(without_x(adata), file)
    if not adata.file.is_open:
        adata.file.open()
    source = adata.file._file
    for name in ("X",) if adata.raw is None else ("X", "raw"):
        if name in source:
            source.copy(name, file)


def without_x(adata: anndata.AnnData) -> anndata.AnnData:
    """An AnnData of the same parts but `X` and `raw`; nothing is copied."""
    fields = ("obs", "var", "uns", "obsm", "varm", "layers", "obsp", "varp")
    return anndata.AnnData(shape=adata.shape, **{name: getattr(adata, name) for name in fields})


def _write_zarr(adata: anndata.AnnData, path: Path) -> None:
    if adata.isbacked:
        adata = adata.to_memory()
    with replacing(path) as fresh:
        write_zarr(fresh, adata)


def check_writable(
    path: str | os.PathLike[str], name: str, *, kind: Literal["anndata", "file", "folder"] = "anndata"
) -> None:
    """Find out before the work whether its result can be written; leaves nothing behind.

    Parameters
    ----------
    path
        Where the result is to go.
    name
        The parameter that `path` came in, for the error.
    kind
        `"anndata"`: a `.h5ad` file or a `.zarr` folder. `"file"`: a file of any kind. `"folder"`: a folder, which may
        have to be made, with those above it.

    Raises
    ------
    InputError
        If the extension is wrong, something of another kind is in the way, it is write-protected, or its folder does
        not exist or takes no new files.
    """
    path = as_path(path, name)
    if kind == "anndata" and path.suffix.lower() not in SUFFIXES:
        raise InputError(f"`{name}` must end in .h5ad or .zarr, but is {str(path)!r}.")
    is_store = kind == "anndata" and path.suffix.lower() == ".zarr"
    try:
        target = Path(os.path.realpath(path))
        # what a stream goes to, be it a file, is not ours to replace
        if str(path) == "-" or _STREAMS.match(os.path.abspath(path)):
            raise InputError(f"`{name}` must name a file of its own, but {str(path)!r} is a stream.")
        _check_in_the_way(target, str(path), name, is_folder=is_store or kind == "folder")
        if is_store and target.is_dir() and any(target.iterdir()) and not is_zarr(target):
            raise InputError(f"`{name}` must not be a folder of other things, but {str(path)!r} is no zarr store.")
        if kind == "folder":
            _check_takes(_first_new(target), name)
        else:
            _check_takes(target, name)
    except OSError as error:
        raise InputError(f"`{name}` {str(path)!r} cannot be written: {first_line(error)}.") from error


def _check_in_the_way(target: Path, path: str, name: str, *, is_folder: bool) -> None:
    if not target.exists():
        return
    if target.is_dir() != is_folder or not (is_folder or target.is_file()):
        wanted = "folder" if is_folder else "file"
        found = "folder" if target.is_dir() else "file" if target.is_file() else "device or a pipe"
        raise InputError(f"`{name}` must name a {wanted}, but {path!r} is a {found}.")
    # asked of the mode too, as the system lets root write anything
    if not (target.stat().st_mode & _WRITE_BITS and os.access(target, os.W_OK)):
        raise InputError(f"`{name}` must not be write-protected, but {path!r} is; give another name.")


def _first_new(folder: Path) -> Path:
    """What would be made first on the way to a file in `folder`."""
    new = folder / "file"
    while not new.parent.exists():
        new = new.parent
    return new


def _check_takes(target: Path, name: str) -> None:
    """Only trying tells: root passes every check of permissions, and a read-only disk passes none."""
    folder = target.parent
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"`{name}` must lie in an existing folder, but {str(folder)!r} {found}.")
    try:
        with scratch_folder(folder) as scratch:
            (scratch / target.name).touch()  # a name may be too long for the disk
    except OSError as error:
        raise InputError(
            f"`{name}` must lie in a folder that takes new files, but {str(folder)!r} does not take "
            f"{target.name!r}: {error.strerror}."
        ) from error
