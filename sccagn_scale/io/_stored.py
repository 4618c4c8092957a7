"""One matrix in a file or in memory: what can be known without its values, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from sccagn_scale._errors import InputError
from sccagn_scale.io._check import as_signed, indices_fault, indptr_fault
from sccagn_scale.io._chunks import read_range
from sccagn_scale.io._layout import as_damaged, damaged, is_tenx, open_store

_STRETCHES = 16
"""Of the values that stand for all."""

ReadRows = Callable[[int, int], sparse.csr_matrix]


class Rows(Protocol):
    """What `StoredRows` and `CopiedRows` have in common."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    nnz: int
    n_bytes: int

    def reading(self) -> AbstractContextManager[ReadRows]:
        """Give the function that reads rows start to stop."""

    def some_values(self, most: int) -> npt.NDArray[Any]:
        """Up to about so many of the stored values, of text the first ones; none that are damaged."""


class HeldRows:
    """A matrix in memory, sparse or dense."""

    def __init__(self, matrix: Any) -> None:
        is_sparse = sparse.issparse(matrix)
        self._matrix = matrix.tocsr() if is_sparse else matrix
        self.shape: tuple[int, int] = matrix.shape
        _number(matrix.dtype)  # or it is refused

    @contextmanager
    def reading(self) -> Iterator[ReadRows]:
        """Give the function that reads rows start to stop."""
        if sparse.issparse(self._matrix):
            yield lambda start, stop: row_range(self._matrix, start, stop).copy()
        else:
            yield lambda start, stop: _as_csr(self._matrix[start:stop])


class StoredRows:
    """A matrix in a `.h5ad` file, a `.zarr` folder or a 10x `.h5` file, which is open only while something is read.

    Attributes
    ----------
    layout
        Rows can be read of CSR and dense; CSC is copied by rows first.
    dtype
        Of the values as they are stored, but for the order of bytes, which is the machine's.
    nnz
        Values stored; of dense, all.
    n_bytes
        What the matrix takes on the disk, compressed as it is.
    indptr
        int64 whatever the file's type, as offsets pass 2³¹ in an atlas. Of dense there is none.

    Raises
    ------
    InputError
        If anything but the values and their indices is damaged, or the values are no numbers.
    """

    layout: Literal["csr", "csc", "dense"]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    nnz: int
    n_bytes: int

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._indptr: npt.NDArray[np.int64] | None = None
        self._lacks_indices = False
        with self.opened() as element:
            if hasattr(element, "shape"):
                self._describe_dense(element)
            else:
                self._describe_sparse(element)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_indptr": None}  # 8 bytes a cell, read again where they are needed

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Give the group or array."""
        with open_store(self.path) as root:
            yield root[self.name]

    @contextmanager
    def reading(self) -> Iterator[ReadRows]:
        """Give the function that reads rows start to stop; damage comes up from it as InputError."""
        with self.opened() as element:
            yield partial(self._read, element)

    def some_values(self, most: int) -> npt.NDArray[Any]:
        """Up to about so many of the stored values, from all over the matrix; none that are damaged."""
        with self.opened() as element:
            array, length = element, self.shape[0]
            if self.layout == "dense":
                most //= self.shape[1]
            else:
                array, length = element["data"], self.nnz
            try:
                found = [np.ravel(array[part]) for part in _stretches(length, most)]
            except Exception:  # in which cells, is told when they are read
                found = []
        return _in_supported(np.concatenate([np.zeros(0, self.dtype), *found]))

    def indptr(self, group: Any) -> npt.NDArray[np.int64]:
        """The offsets in the opened `group` of rows (CSR) or columns (CSC)."""
        if self._indptr is None:
            indptr = np.asarray(group["indptr"][:]).astype(np.int64)
            fault = indptr_fault(indptr, self.shape[1 if self.layout == "csc" else 0], self.nnz)
            if fault is not None:
                raise damaged(self.path, f"in /{self.name}, {fault}")
            self._indptr = indptr
        return self._indptr

    def fault_in(self, indices: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> str | None:
        """Say what is wrong with some of the stored indices, where `offsets` part the rows (CSR) or columns (CSC)."""
        minor, major = ("gene", "cell") if self.layout == "csr" else ("cell", "gene")
        fault = indices_fault(indices, self.shape[1 if self.layout == "csr" else 0])
        if fault is None and self._lacks_indices and _is_zero_repeated(indices, offsets):
            return f"the first {minor} comes more than once in a {major}; chunks are missing"
        return fault

    def _describe_dense(self, array: Any) -> None:
        if len(array.shape) != 2:
            raise damaged(self.path, f"/{self.name} has {len(array.shape)} dimensions where a matrix has 2")
        self.layout, self.shape, self.dtype = "dense", tuple(array.shape), _number(array.dtype)
        self.nnz, self.n_bytes = int(array.size), _n_bytes(self.path, array)

    def _describe_sparse(self, group: Any) -> None:
        attributes = dict(group.attrs)
        if is_tenx(group):  # genes × cells by columns, which is cells × genes by rows
            attributes = {"encoding-type": "csr_matrix", "shape": group["shape"][()][::-1]}
        encoding = str(attributes.get("encoding-type", attributes.get("h5sparse_format", "")))  # second: before 0.7
        if not encoding.startswith(("csr", "csc")):
            raise damaged(self.path, f"/{self.name} is no matrix")
        self.layout = "csr" if encoding.startswith("csr") else "csc"
        with as_damaged(self.path, f"in /{self.name}, "):
            n_obs, n_vars = (int(n) for n in attributes["shape" if "shape" in attributes else "h5sparse_shape"])
            arrays = [group[part] for part in ("data", "indices", "indptr")]
            n_values, n_indices = (int(array.shape[0]) for array in arrays[:2])
            self.shape, self.nnz, dtype = (n_obs, n_vars), n_values, arrays[0].dtype
            self.n_bytes = sum(_n_bytes(self.path, array) for array in arrays)
            # zarr takes a chunk that is missing for zeros, which a sparse matrix does not store as values
            n_missing = _n_missing(arrays[0])
            self._lacks_indices = _n_missing(arrays[1]) > 0
            self.indptr(group)
        if n_indices != n_values:
            raise damaged(self.path, f"/{self.name} has {n_values} values but {n_indices} indices")
        if n_missing > 0:
            raise damaged(self.path, f"{n_missing} of {arrays[0].nchunks} chunks of /{self.name}/data are missing")
        self.dtype = _number(dtype)

    def _read(self, element: Any, start: int, stop: int) -> sparse.csr_matrix:
        with as_damaged(self.path, f"cells {start} to {stop - 1}, "):
            if self.layout == "dense":
                return _as_csr(element[start:stop])
            return self._read_sparse(element, self.indptr(element)[start : stop + 1])

    def _read_sparse(self, group: Any, indptr: npt.NDArray[np.int64]) -> sparse.csr_matrix:
        """Read the rows between the offsets `indptr` [n + 1]."""
        low, high = int(indptr[0]), int(indptr[-1])
        indices = read_range(group["indices"], low, high)
        fault = self.fault_in(indices, indptr - low)
        if fault is not None:
            raise ValueError(fault)
        data = _in_supported(read_range(group["data"], low, high))
        return sparse.csr_matrix((data, as_signed(indices), indptr - low), shape=(len(indptr) - 1, self.shape[1]))


def supported(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """In the machine's own order of bytes, and float32 for float16, exactly: SciPy computes with no others."""
    dtype = dtype.newbyteorder("=")
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def row_range(matrix: sparse.csr_matrix, start: int, stop: int) -> sparse.csr_matrix:
    """Rows `start` to `stop` of CSR, sharing values and columns.

    SciPy's own slice copies the columns of the whole matrix where they are int32 and the row starts int64, as anndata
    reads them: for 100,000 cells, 0.26 s and a GB for every block.
    """
    first, last = matrix.indptr[start], matrix.indptr[stop]
    arrays = (matrix.data[first:last], matrix.indices[first:last], matrix.indptr[start : stop + 1] - first)
    return sparse.csr_matrix(arrays, shape=(stop - start, matrix.shape[1]))


def _stretches(length: int, most: int) -> list[slice]:
    """Some stretches evenly over a length, of at most about so many places in all."""
    step = max(1, -(-length // _STRETCHES))
    width = max(1, min(step, most // _STRETCHES))
    return [slice(start, min(start + width, length)) for start in range(0, length, step)]


def _as_csr(block: Any) -> sparse.csr_matrix:
    return sparse.csr_matrix(_in_supported(np.asarray(block)))


def _in_supported(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(supported(values.dtype), copy=False)


def _number(dtype: Any) -> np.dtype[Any]:
    if dtype.kind not in "buif":
        raise InputError(f"`layer` must hold numbers, but its values are of type {dtype}.")
    return np.dtype(dtype).newbyteorder("=")


def _n_bytes(path: Path, array: Any) -> int:
    if isinstance(array, h5py.Dataset):
        return array.id.get_storage_size()
    return sum(file.stat().st_size for file in (path / array.path).rglob("*") if file.is_file())


def _n_missing(array: Any) -> int:
    """Chunks of a zarr array that are not there."""
    return 0 if isinstance(array, h5py.Dataset) else array.nchunks - array.nchunks_initialized


def _is_zero_repeated(indices: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> bool:
    """Whether the index 0 comes twice between two offsets, as it would for a chunk that is missing."""
    within = np.searchsorted(offsets, np.flatnonzero(indices == 0), side="right")
    return bool((within[1:] == within[:-1]).any())
