"""The cell store: cells × genes in few bytes, in memory or in plain files, read by rows in any order."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sccagn_scale._errors import InputError, first_line
from sccagn_scale.io._atomic import replacing
from sccagn_scale.io._check import indptr_fault
from sccagn_scale.io._write import check_writable

_HEADER = "store.json"
_FORMAT = "sccagn_scale cell store"
_VERSION = 1
_PARTS = ("indptr", "indices", "values", "large_at", "large")
_READ_FROM = 2**20  # bytes
_MAPPED = ("indptr", "large_at")  # looked up in places rather than read through


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Cells × genes in the smallest types that hold them: 3 bytes a count where there are at most 65,536 genes.

    Values are uint8; what that cannot hold, such as counts above 255, stands apart with its place. Where more than one
    value in eight would, all are float32. Either way every float32 comes back bit for bit, but for the sign of a zero.
    """

    indptr: npt.NDArray[np.signedinteger]  # [n_obs + 1]
    indices: npt.NDArray[np.unsignedinteger]  # [nnz], rising within a row
    values: npt.NDArray[np.uint8] | npt.NDArray[np.float32]  # [nnz]
    large_at: npt.NDArray[np.int64]  # [n_large], rising; places in `values`, which holds nothing of meaning there
    large: npt.NDArray[np.float32]  # [n_large]
    n_vars: int

    @classmethod
    def of(cls, block: sparse.csr_matrix, dtype: npt.DTypeLike | None = None) -> PackedRows:
        """Pack a canonical float32 block, sharing nothing with it.

        Parameters
        ----------
        block
            What to pack.
        dtype
            uint8 or float32 for `values`; None takes the smaller.
        """
        values, large_at = _packed_values(block.data, dtype)
        indices = block.indices.astype(_index_dtype(block.shape[1]))
        return PackedRows(block.indptr.copy(), indices, values, large_at, block.data[large_at], block.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return len(self.indptr) - 1, self.n_vars

    @property
    def nnz(self) -> int:
        """Stored values."""
        return len(self.values)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Take consecutive cells.

        Returns
        -------
        Cells `start` up to `stop` as CSR float32 [stop − start, n_vars], sorted; the caller's own.

        Raises
        ------
        InputError
            Unless 0 ≤ `start` ≤ `stop` ≤ n_obs.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise InputError(
                f"`start` and `stop` must lie in this order within 0 to {self.shape[0]}, but are {start} and {stop}."
            )
        return self._taken(np.array([start]), np.array([stop]), np.diff(self.indptr[start : stop + 1]))

    def rows(self, positions: npt.ArrayLike) -> sparse.csr_matrix:
        """Take any cells, in any order, also several times; a run of consecutive positions is one read.

        Returns
        -------
        The cells as CSR float32 [len(positions), n_vars], sorted; the caller's own.

        Raises
        ------
        InputError
            Unless `positions` are whole numbers from 0 to n_obs − 1 in one dimension.
        """
        wanted = np.asarray(positions)
        if wanted.ndim != 1 or (len(wanted) and wanted.dtype.kind not in "iu"):
            raise InputError(
                f"`positions` must be whole numbers in one dimension, but are {wanted.dtype} of shape {wanted.shape}."
            )
        wanted = wanted.astype(np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < self.shape[0]):
            raise InputError(
                f"`positions` must lie within 0 to {self.shape[0] - 1}, but go from {wanted.min()} to {wanted.max()}."
            )
        starts = wanted[np.diff(wanted, prepend=-2) != 1]
        stops = wanted[np.diff(wanted, append=-2) != 1] + 1
        return self._taken(starts, stops, self.indptr[wanted + 1] - self.indptr[wanted])

    def _taken(
        self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], lengths: npt.NDArray[np.signedinteger]
    ) -> sparse.csr_matrix:
        """Put together the runs of rows `starts` to `stops`, whose rows have so many values each."""
        low, high = self.indptr[starts], self.indptr[stops]
        from_large, to_large = np.searchsorted(self.large_at, low), np.searchsorted(self.large_at, high)
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        values, indices = np.empty(indptr[-1], np.float32), np.empty(indptr[-1], np.int32)
        end = 0
        for first, last, i, j in np.stack([low, high, from_large, to_large], axis=1).tolist():
            begin, end = end, end + last - first
            values[begin:end] = self.values[first:last]
            indices[begin:end] = self.indices[first:last]
            if j > i:
                values[self.large_at[i:j] + (begin - first)] = self.large[i:j]
        block = sparse.csr_matrix((values, indices, indptr), shape=(len(lengths), self.n_vars))
        block.has_sorted_indices = block.has_canonical_format = True  # or SciPy would look again
        return block


def packed_size(values: npt.NDArray[np.float32], dtype: npt.DTypeLike | None = None) -> tuple[float, np.dtype[Any]]:
    """Bytes that `PackedRows.of` takes for each value beside its gene's, and the type of most of them."""
    packed, large_at = _packed_values(values, dtype)
    n_bytes = packed.nbytes + len(large_at) * (large_at.itemsize + values.itemsize)
    return n_bytes / len(values), packed.dtype


def _packed_values(
    values: npt.NDArray[np.float32], dtype: npt.DTypeLike | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Values in `dtype`, or in the smaller of uint8 and float32, as a copy; and the places of those that it cannot."""
    with np.errstate(invalid="ignore"):  # casts that overflow
        small = values.astype(np.uint8)
    is_large = small != values
    if dtype is None:
        dtype = np.float32 if 8 * np.count_nonzero(is_large) > len(values) else np.uint8
    if dtype == np.float32:
        return values.copy(), np.zeros(0, np.int64)
    return small, np.flatnonzero(is_large)


@dataclass(frozen=True, eq=False)
class CellStore(PackedRows):
    """Cells × genes in plain files: 3 bytes a count, and 8 a cell.

    A folder of a file for each array and a header, `store.json`, little-endian throughout. Any thread may read.

    Mapped files won `python -m benchmarks store`: from the page cache, batches come 20 to 270 times as fast as from
    zarr or HDF5, which decompress whole chunks for a few rows, and twice as fast as by `pread`. Arrow maps the same
    bytes, is slower there and faster with runs of cells from the disk, and needs a package. The price is size, 1.4 to
    2.4 times that of compressed chunks, and that a file which is cut short while it is open ends the process. Large
    stretches, as a pass over all cells takes them, are read rather than mapped, so that they do not stay in the
    process's memory.
    """

    made_from: dict[str, Any]
    """What its maker wrote down, as JSON gives it back."""

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> CellStore:
        """Open what a `CellStoreWriter` wrote.

        Its row offsets are checked; values and indices are not.

        Raises
        ------
        InputError
            If `folder` is no cell store, is one of another format version, or lacks a part.
        """
        folder = Path(folder)
        header = _read_header(folder)
        try:
            (n_obs, n_vars), nnz, n_large = header["shape"], header["nnz"], header["n_large"]
            dtypes, made_from = _dtypes(n_vars, np.dtype(header["values"])), dict(header["made_from"])
            lengths = dict(zip(_PARTS, (n_obs + 1, nnz, nnz, n_large, n_large), strict=True))
            parts: dict[str, Any] = {
                name: (_mapped if name in _MAPPED else _OnDisk)(folder / name, dtypes[name], lengths[name])
                for name in _PARTS
            }
            fault = indptr_fault(parts["indptr"], n_obs, nnz)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _incomplete(folder, f"in {_HEADER}, {first_line(error)}") from error
        except OSError as error:
            raise _incomplete(folder, first_line(error)) from error
        if fault is not None:
            raise _incomplete(folder, fault)
        return cls(n_vars=n_vars, made_from=made_from, **parts)

    @property
    def n_bytes(self) -> int:
        """Size of the arrays on disk."""
        return sum(getattr(self, name).nbytes for name in _PARTS)


class CellStoreWriter:
    """Writes a cell store block by block; a context manager.

    The folder appears, whole, when the context ends. If that ends with an exception, nothing is left and a store that
    was there before is as it was. The first block that holds values says whether they are kept as uint8 or float32:
    other blocks are as exact, but larger if they are of the other kind.

    Parameters
    ----------
    folder
        The store; one that is there is replaced.
    n_vars
        Number of genes.
    made_from
        What to know a store of the same content by; must be JSON.

    Raises
    ------
    InputError
        If `folder`, which the message calls `store`, cannot be written, holds other things, or the disk fills up.
    """

    def __init__(self, folder: str | os.PathLike[str], n_vars: int, made_from: dict[str, Any]) -> None:
        self._folder = Path(folder)
        check_replaceable(self._folder)
        self._n_vars = n_vars
        self._made_from = made_from
        self._n_obs = self._nnz = self._n_large = 0
        self._dtype: np.dtype[Any] | None = None  # of `values`
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> CellStoreWriter:
        with _failures(self._folder), ExitStack() as stack:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._fresh = stack.enter_context(replacing(self._folder))
            self._fresh.mkdir()
            self._files = {name: stack.enter_context(open(self._fresh / name, "wb")) for name in _PARTS}
            self._files["indptr"].write(bytes(8))
            self._stack = stack.pop_all()
        return self

    def append(self, block: sparse.csr_matrix) -> None:
        """Write cells below those already there.

        Parameters
        ----------
        block
            CSR float32 [n, n_vars], sorted, without duplicates or stored zeros.
        """
        if block.shape[1] != self._n_vars or block.dtype != np.float32 or not block.has_canonical_format:
            raise InputError(
                f"`block` must be float32 in canonical form with {self._n_vars} genes, but is {block.dtype} with "
                f"{block.shape[1]}{'' if block.has_canonical_format else ', unsorted or with duplicates'}."
            )
        packed = PackedRows.of(block, self._dtype)
        if packed.nnz:
            self._dtype = packed.values.dtype
        moved = {"indptr": packed.indptr[1:].astype(np.int64) + self._nnz, "large_at": packed.large_at + self._nnz}
        with _failures(self._folder):
            for name, dtype in _dtypes(self._n_vars, packed.values.dtype).items():
                self._files[name].write(moved.get(name, getattr(packed, name)).astype(dtype, copy=False))
        self._n_obs += block.shape[0]
        self._nnz += packed.nnz
        self._n_large += len(packed.large)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with _failures(self._folder):  # closing the files of a full disk fails again
                self._stack.__exit__(kind, error, trace)
            return
        with _failures(self._folder), self._stack:
            header = {
                "format": _FORMAT,
                "version": _VERSION,
                "shape": [self._n_obs, self._n_vars],
                "nnz": self._nnz,
                "n_large": self._n_large,
                "values": np.dtype(self._dtype or np.uint8).name,
                "made_from": self._made_from,
            }
            (self._fresh / _HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def write_made_from(folder: Path, made_from: dict[str, Any]) -> None:
    """Write down something else for a cell store to be known by; it is whole at every moment.

    Raises
    ------
    InputError
        If `folder` is no cell store, or cannot be written.
    """
    header = _read_header(folder) | {"made_from": made_from}
    with _failures(folder), replacing(folder / _HEADER) as fresh:
        fresh.write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def check_replaceable(folder: Path) -> None:
    """Find out whether a cell store can be written to `folder`.

    Raises
    ------
    InputError
        If it holds something else, or takes no new files.
    """
    check_writable(folder, "store", kind="folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _HEADER).is_file():
        raise InputError(
            f"`store` must not be a folder of other things, but {str(folder)!r} is no cell store; name a new folder."
        )


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"`store` {str(folder)!r} could not be written: {first_line(error)}.") from error


def _index_dtype(n_vars: int) -> np.dtype[Any]:
    return np.min_scalar_type(max(n_vars - 1, 0))


def _dtypes(n_vars: int, values: np.dtype[Any]) -> dict[str, np.dtype[Any]]:
    """The types in the files."""
    dtypes: list[npt.DTypeLike] = [np.int64, _index_dtype(n_vars), values, np.int64, np.float32]
    return {name: np.dtype(dtype).newbyteorder("<") for name, dtype in zip(_PARTS, dtypes, strict=True)}


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / _HEADER).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"`store` must name a cell store, but {str(folder)!r} has no {_HEADER}; have it made from the input."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"`store` {str(folder)!r} cannot be opened: {first_line(error)}.") from error
    try:
        header = json.loads(text)
        found, version = header["format"], header["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _incomplete(folder, f"{_HEADER} is no header") from error
    if (found, version) != (_FORMAT, _VERSION):
        raise InputError(
            f"`store` must be of format {_FORMAT!r}, version {_VERSION}, but {str(folder)!r} is of {found!r}, "
            f"version {version}; have it made from the input."
        )
    return header


class _OnDisk:
    """An array in a file, of which slices are had: small ones of the mapped file, large ones by reading."""

    def __init__(self, path: Path, dtype: np.dtype[Any], length: int) -> None:
        self._mapped = _mapped(path, dtype, length)
        self.dtype, self.nbytes = dtype, self._mapped.nbytes
        self._path, self._descriptor = path, os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return len(self._mapped)

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        start, stop, _ = part.indices(len(self))
        if (stop - start) * self.dtype.itemsize < _READ_FROM:
            return self._mapped[start:stop]
        content = np.empty(stop - start, self.dtype)
        rest, place = memoryview(content.data).cast("B"), start * self.dtype.itemsize
        while len(rest):  # the system gives 2 GiB at most
            n_read = os.preadv(self._descriptor, [rest], place)
            if not n_read:
                raise _incomplete(self._path.parent, f"{self._path.name} has become shorter")
            rest, place = rest[n_read:], place + n_read
        return content


def _mapped(path: Path, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    expected, found = length * dtype.itemsize, path.stat().st_size
    if found != expected:
        raise OSError(f"{path.name} has {found} bytes where {expected} belong")
    # an empty file cannot be mapped; and a plain view, as slices of a memmap are slow
    return np.asarray(np.memmap(path, dtype, "r")) if length else np.empty(0, dtype)


def _incomplete(folder: Path, reason: str) -> InputError:
    return InputError(f"`store` {str(folder)!r} is damaged or incomplete: {reason}; have it made from the input.")
