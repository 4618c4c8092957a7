"""Results beside matrices that stay as they are on disk, and are never read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import h5py
from anndata.io import write_elem

from sccagn_scale._errors import InputError, InputWarning, first_line
from sccagn_scale.io._atomic import copy_file, replacing, replacing_hdf5
from sccagn_scale.io._layout import damaged, layout_of, open_hdf5, open_zarr
from sccagn_scale.io._names import plain_strings
from sccagn_scale.io._read import FRAME, read
from sccagn_scale.io._write import check_writable, write, writing

if TYPE_CHECKING:
    import zarr


def write_copy(
    adata: anndata.AnnData,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    parts: Collection[str] = FRAME,
) -> None:
    """Write a copy of `source` in which all but the matrices comes from `adata`.

    `X`, `layers`, `raw` and whatever else is in `source` are its own, copied as stored by the file system, which may
    share the room until one side changes. `obs`, `var`, `uns`, `obsm`, `varm`, `obsp` and `varp` are replaced as a
    whole. `path` always holds something whole, and columns of strings become categorical, as with `write`. What an
    HDF5 file loses makes room for what replaces it, but for names and other strings: each time, some 32 bytes a cell
    stay behind. A file from before AnnData 0.7 is loaded and written anew, in the encoding of today.

    Parameters
    ----------
    adata
        The same cells and genes as in `source`, in the same order; its own matrices are not looked at.
    source
        A `.h5ad` file or a `.zarr` folder.
    path
        A name with the same ending; a file or store of that name is replaced.
    parts
        Those that come from `adata`, if not all; the others are copied too.

    Raises
    ------
    InputError
        If `source` cannot be read or is of another shape or kind, `path` cannot be written, or the disk fills up on
        the way.
    """
    if _is_old(Path(source)):
        _rewrite(adata, Path(source), Path(path), parts)
    else:
        _change(adata, Path(source), Path(path), name="source", parts=parts, carry=copy_file)


def add_results(adata: anndata.AnnData, path: str | os.PathLike[str], *, parts: Collection[str] = FRAME) -> None:
    """Replace all but the matrices of a file by what `adata` has, as `write_copy` does, in the file itself.

    At every moment `path` holds the old or the new, whole and flushed to the disk, so a crash does no harm. A `.h5ad`
    file is copied for that by the file system, which takes its room a second time where blocks cannot be shared, and
    the copy takes its place. In a `.zarr` folder the files of the matrices are kept rather than copied, unless the
    system forbids hard links.

    Parameters
    ----------
    adata
        The same cells and genes as in the file, in the same order; its own matrices are not looked at.
    path
        A `.h5ad` file or a `.zarr` folder, of a name that says so. A link to it is followed, and its permissions are
        kept.
    parts
        Those that are replaced, if not all.

    Raises
    ------
    InputError
        If `path` cannot be read or written or is of another shape, or the disk fills up on the way.
    """
    _change(adata, Path(path), Path(path), name="path", parts=parts, carry=_link)


def _is_old(source: Path) -> bool:
    """Whether a file is from before AnnData 0.7, which wrote no encodings."""
    if layout_of(source) != "anndata":
        return False
    with open_hdf5(source) as file:
        return "encoding-type" not in file.attrs and "encoding-type" not in file["obs"].attrs


def _rewrite(adata: anndata.AnnData, source: Path, path: Path, parts: Collection[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # heard when the cells were read
        whole = read(source)
    for name in parts:
        setattr(whole, name, getattr(adata, name))
    write(whole, path)


def _change(
    adata: anndata.AnnData,
    source: Path,
    path: Path,
    *,
    name: str,
    parts: Collection[str],
    carry: Callable[[Path, Path], object],
) -> None:
    """Put a changed copy of `source`, which came in the parameter `name`, in the place of `path`.

    If that is a folder, `carry` gives the copy the files of its matrices.
    """
    is_zarr = _is_zarr(source, name)
    check_writable(path, "path")
    if is_zarr != (path.suffix.lower() == ".zarr"):
        raise InputError(
            f"`path` must end in {'.zarr' if is_zarr else '.h5ad'}, as matrices stay as they are stored in "
            f"{str(source)!r}, but is {str(path)!r}; give it that ending."
        )
    plain_strings(adata)
    if is_zarr:
        stored = open_zarr(source)
        _check_shape(adata, stored, source, name)
        with writing(path), replacing(path) as fresh:
            _change_zarr(adata, stored, source, fresh, parts=parts, carry=carry)
    else:
        with open_hdf5(source) as file:
            _check_shape(adata, file, source, name)
        with writing(path), replacing_hdf5(path, source) as file:
            _replace(adata, file, parts)


def _is_zarr(source: Path, name: str) -> bool:
    layout = layout_of(source)
    if layout not in ("anndata", "zarr"):
        raise InputError(
            f"`{name}` must be a .h5ad file or a .zarr folder for results to go beside its matrix, but {str(source)!r} "
            "is a 10x matrix; write to a new .h5ad file."
        )
    return layout == "zarr"


def _change_zarr(
    adata: anndata.AnnData,
    stored: zarr.Group,
    source: Path,
    fresh: Path,
    *,
    parts: Collection[str],
    carry: Callable[[Path, Path], object],
) -> None:
    import zarr

    for folder, below, names in os.walk(source, onerror=_raise, followlinks=True):
        is_top = Path(folder) == source
        if is_top:
            below[:] = [name for name in below if name not in parts]
        new = fresh / Path(folder).relative_to(source)
        new.mkdir()
        for name in names:
            # the metadata at the top will be changed, and must not be in the original
            (copy_file if is_top else carry)(Path(folder) / name, new / name)
    root = zarr.open_group(fresh, mode="r+", use_consolidated=False)
    _replace(adata, root, parts)
    if stored.metadata.consolidated_metadata is not None:
        zarr.consolidate_metadata(root.store, zarr_format=root.metadata.zarr_format)


def _raise(error: OSError) -> None:
    raise error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # such as to files of another user
        copy_file(source, target)


def _replace(adata: anndata.AnnData, root: h5py.Group | zarr.Group, parts: Collection[str]) -> None:
    for name in parts:
        value = getattr(adata, name)
        write_elem(root, name, value if name in ("obs", "var") else dict(value))


def _check_shape(adata: anndata.AnnData, root: h5py.Group | zarr.Group, source: Path, name: str) -> None:
    try:
        shape = (_length(root["obs"]), _length(root["var"]))
    except (KeyError, AttributeError, TypeError) as error:
        raise damaged(source, first_line(error)) from error
    if shape != adata.shape:
        raise InputError(
            f"`adata` must have the cells and genes of `{name}`, but is {adata.n_obs} × {adata.n_vars} where "
            f"{str(source)!r} is {shape[0]} × {shape[1]}."
        )


def _length(frame: Any) -> int:
    """The number of rows of a stored data frame, which before AnnData 0.7 was one dataset."""
    names = frame[frame.attrs["_index"]] if hasattr(frame, "keys") else frame
    return int((names["values"] if hasattr(names, "keys") else names).shape[0])  # nullable strings have a mask too
