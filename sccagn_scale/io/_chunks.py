"""Stretches of a compressed HDF5 array, taken apart by several threads."""

from __future__ import annotations

import zlib
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5z

from sccagn_scale._threads import mapped, n_threads

_MOST_THREADS = 16
_PIECE = 1 << 18  # bytes that a thread makes at a time, at least; a chunk may be as small as 10 kB


def read_range(array: Any, start: int, stop: int) -> npt.NDArray[Any]:
    """Read values `start` to `stop` of a one-dimensional array on disk, HDF5 or zarr.

    HDF5 decompresses on one thread, which then is what a pass over a file waits for. Chunks that are deflated (gzip),
    shuffled or not, are therefore read as they are and inflated here, by several threads. All others, and those with
    which anything is wrong, are left to the library.
    """
    filters = _filters(array) if n_threads() > 1 else None
    if filters is None or stop - start <= (chunk := array.chunks[0]):
        return np.asarray(array[start:stop])
    values = np.empty(stop - start, array.dtype)
    step = chunk * max(1, _PIECE // (chunk * array.dtype.itemsize))

    def fill(low: int) -> None:
        for first in range(low, min(low + step, stop), chunk):
            inside = slice(max(start - first, 0), stop - first)
            part = _chunk(array, first, filters)[inside]
            at = max(first - start, 0)
            values[at : at + len(part)] = part

    try:
        for _ in mapped(fill, range(start // chunk * chunk, stop, step), _MOST_THREADS):
            pass
    except (OSError, RuntimeError, ValueError, zlib.error):
        return np.asarray(array[start:stop])  # HDF5 fills in what was never written, and says what is damaged
    return values


def _filters(array: Any) -> list[int] | None:
    """The codes of an array's filters, in the order of writing; None if they are not just deflate and shuffle."""
    if not isinstance(array, h5py.Dataset) or array.chunks is None or len(array.chunks) != 1:
        return None
    made_with = array.id.get_create_plist()
    codes = [made_with.get_filter(i)[0] for i in range(made_with.get_nfilters())]
    if h5z.FILTER_DEFLATE not in codes or not set(codes) <= {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE}:
        return None
    return codes


def _chunk(array: h5py.Dataset, first: int, filters: list[int]) -> npt.NDArray[Any]:
    """Read the whole chunk that starts at value `first`."""
    skipped, stored = array.id.read_direct_chunk((first,))
    for i, code in reversed(list(enumerate(filters))):
        if skipped >> i & 1:
            continue
        if code == h5z.FILTER_DEFLATE:
            stored = zlib.decompress(stored, bufsize=array.chunks[0] * array.dtype.itemsize)
        else:
            stored = np.frombuffer(stored, np.uint8).reshape(array.dtype.itemsize, -1).T.tobytes()
    values = np.frombuffer(stored, array.dtype)
    if len(values) != array.chunks[0]:
        raise ValueError("a chunk of another size")
    return values
