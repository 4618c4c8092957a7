"""The compared containers of cells × genes: how each is written, and how rows are read from it.

All but the loaders hold the same arrays, offsets, columns and values, and read rows by the same code, that of the cell
store: what is compared is the container alone. Packed ones hold values as uint8 and columns as uint16, the larger
values apart; the `.h5ad` float32 and int32, as such files do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from sccagn_scale.io import CellStore, CellStoreWriter
from sccagn_scale.io._store import PackedRows

BLOCK = 4096  # cells that are written or read at once
BATCH = 2048  # cells of a training batch
CHUNK = 2**16  # values that are compressed together
SHARD = 2**22  # values in a file, of zarr


@dataclass(frozen=True)
class Source:
    """Counts in three .npy files, memory-mapped: what is written into each container."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    n_vars: int

    @classmethod
    def open(cls, folder: Path) -> Source:
        """Open what `make` wrote."""
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr")]
        return cls(*arrays, n_vars=int(np.load(folder / "shape.npy")[1]))

    @property
    def n_obs(self) -> int:
        """Cells."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Stored values."""
        return len(self.data)

    def head(self, n_obs: int) -> Source:
        """The first cells."""
        indptr = self.indptr[: n_obs + 1]
        return Source(self.data[: indptr[-1]], self.indices[: indptr[-1]], indptr, self.n_vars)

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """Canonical blocks of 4,096 cells."""
        for start in range(0, self.n_obs, BLOCK):
            indptr = self.indptr[start : start + BLOCK + 1]
            part = slice(int(indptr[0]), int(indptr[-1]))
            arrays = (np.array(self.data[part]), np.array(self.indices[part]), indptr - indptr[0])
            block = sp.csr_matrix(arrays, shape=(len(indptr) - 1, self.n_vars))
            block.has_sorted_indices = block.has_canonical_format = True
            yield block


class Reader(Protocol):
    """Gives batches of rows: CSR float32."""

    n_fetched: int
    """Batches that are read at once."""

    def sequential(self) -> Iterator[sp.csr_matrix]:
        """All cells once, 4,096 at a time."""

    def shuffled(self, n_runs: int, generator: np.random.Generator) -> Iterator[sp.csr_matrix]:
        """Batches of 2,048 cells, or all, in `n_runs` runs of consecutive ones; without end."""


class _Rows:
    """Batches of whatever is read by rows."""

    n_fetched = 1

    def __init__(self, rows: PackedRows) -> None:
        self._rows = rows

    def sequential(self) -> Iterator[sp.csr_matrix]:
        n_obs = self._rows.shape[0]
        return (self._rows.read(start, min(start + BLOCK, n_obs)) for start in range(0, n_obs, BLOCK))

    def shuffled(self, n_runs: int, generator: np.random.Generator) -> Iterator[sp.csr_matrix]:
        length = BATCH // n_runs
        while True:
            starts = length * np.sort(generator.choice(self._rows.shape[0] // length, n_runs, replace=False))
            yield self._taken((starts[:, None] + np.arange(length)).ravel(), n_runs)

    def _taken(self, positions: np.ndarray, n_runs: int) -> sp.csr_matrix:
        return self._rows.rows(positions)


@dataclass(frozen=True)
class Container:
    """Writes the source into a folder that does not exist yet; opens it, to be closed by the stack."""

    write: Callable[[Source, Path], None]
    open: Callable[[Path, ExitStack], Reader]
    package: str = "numpy"
    """What it needs."""


def _write_store(source: Source, folder: Path) -> None:
    with CellStoreWriter(folder, source.n_vars, {}) as writer:
        for block in source.blocks():
            writer.append(block)


class _Pread:
    """An array in a file, each slice of which is one `pread`."""

    def __init__(self, path: Path, dtype: Any, stack: ExitStack) -> None:
        self._file = os.open(path, os.O_RDONLY)
        stack.callback(os.close, self._file)
        self._dtype = dtype

    def __getitem__(self, part: slice) -> np.ndarray:
        taken = np.empty(part.stop - part.start, self._dtype)
        os.preadv(self._file, [taken], part.start * taken.itemsize)
        return taken


def _open_pread(folder: Path, stack: ExitStack) -> Reader:
    store = CellStore.open(folder)
    opened = {name: _Pread(folder / name, getattr(store, name).dtype, stack) for name in ("indices", "values")}
    return _Rows(PackedRows(store.indptr, large_at=store.large_at, large=store.large, n_vars=store.n_vars, **opened))


def _packed(source: Source, folder: Path) -> Iterator[PackedRows]:
    """Packed blocks; when they are through, row offsets and the larger values are saved beside what became of them."""
    large_at, large, before = [], [], 0
    for block in source.blocks():
        packed = PackedRows.of(block, np.uint8)
        large_at.append(packed.large_at + before)
        large.append(packed.large)
        before += packed.nnz
        yield packed
    rest = {"indptr": source.indptr, "large_at": np.concatenate(large_at), "large": np.concatenate(large)}
    np.savez(folder / "rest.npz", n_vars=source.n_vars, **rest)


def _with_rest(folder: Path, indices: Any, values: Any) -> PackedRows:
    with np.load(folder / "rest.npz") as rest:
        return PackedRows(rest["indptr"], indices, values, rest["large_at"], rest["large"], int(rest["n_vars"]))


class _Aligned:
    """Appends to a zarr array in whole shards: writing a part of one would read and write all of it."""

    def __init__(self, array: Any) -> None:
        self._array, self._end, self._held = array, 0, [np.empty(0, array.dtype)]

    def append(self, values: np.ndarray, *, last: bool = False) -> None:
        self._held.append(values)
        held = sum(map(len, self._held))
        if held >= SHARD or last:
            whole = np.concatenate(self._held)
            cut = held if last else held // SHARD * SHARD
            self._array[self._end : self._end + cut] = whole[:cut]
            self._end, self._held = self._end + cut, [whole[cut:]]


class _ZarrRows(_Rows):
    """A slice of zarr's costs half a millisecond, so that it is asked for all values at once where runs are many."""

    def _taken(self, positions: np.ndarray, n_runs: int) -> sp.csr_matrix:
        if n_runs < 100:
            return super()._taken(positions, n_runs)
        held = self._rows
        start, length = held.indptr[positions], held.indptr[positions + 1] - held.indptr[positions]
        indptr = np.concatenate([[0], np.cumsum(length)])
        at = np.repeat(start - indptr[:-1], length) + np.arange(indptr[-1])
        values, indices = (array.get_coordinate_selection(at) for array in (held.values, held.indices))
        values = values.astype(np.float32)
        place = np.searchsorted(at, held.large_at)
        is_here = at[np.minimum(place, len(at) - 1)] == held.large_at
        values[place[is_here]] = held.large[is_here]
        return sp.csr_matrix((values, indices.astype(np.int32), indptr), shape=(len(positions), held.n_vars))


def _zarr(compressors: Callable[[], Any]) -> Container:
    def write(source: Source, folder: Path) -> None:
        import zarr

        group = zarr.open_group(folder, mode="w", zarr_format=3)
        made = {"shape": (source.nnz,), "chunks": (CHUNK,), "shards": (SHARD,), "compressors": compressors()}
        values = _Aligned(group.create_array("values", dtype=np.uint8, **made))
        indices = _Aligned(group.create_array("indices", dtype=np.uint16, **made))
        for block in _packed(source, folder):
            values.append(block.values)
            indices.append(block.indices.astype(np.uint16))
        for array in (values, indices):
            array.append(np.empty(0, np.uint8), last=True)

    def open_group(folder: Path, stack: ExitStack) -> Reader:
        import zarr

        group = zarr.open_group(folder, mode="r")
        return _ZarrRows(_with_rest(folder, group["indices"], group["values"]))

    return Container(write, open_group, "zarr")


def _lz4() -> Any:
    from zarr.codecs import BloscCodec

    return [BloscCodec(cname="lz4")]


class _Chunks:
    """An array in consecutive pieces."""

    def __init__(self, pieces: list[np.ndarray]) -> None:
        self._pieces = pieces
        self._ends = np.cumsum([len(piece) for piece in pieces])

    def __getitem__(self, part: slice) -> np.ndarray:
        first, last = np.searchsorted(self._ends, (part.start, max(part.stop - 1, part.start)), side="right").tolist()
        cut = []
        for piece, end in zip(self._pieces[first : last + 1], self._ends[first : last + 1].tolist(), strict=True):
            before = end - len(piece)
            cut.append(piece[max(part.start - before, 0) : part.stop - before])
        return cut[0] if len(cut) == 1 else np.concatenate(cut)


def _write_arrow(source: Source, folder: Path) -> None:
    import pyarrow as pa

    folder.mkdir()
    schema = pa.schema([("indices", pa.list_(pa.uint16())), ("values", pa.list_(pa.uint8()))])
    with pa.OSFile(str(folder / "cells.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for block in _packed(source, folder):
            offsets = pa.array(block.indptr.astype(np.int32))
            lists = [
                pa.ListArray.from_arrays(offsets, pa.array(part))
                for part in (block.indices.astype(np.uint16), block.values)
            ]
            writer.write_batch(pa.record_batch(lists, schema=schema))


def _open_arrow(folder: Path, stack: ExitStack) -> Reader:
    import pyarrow as pa

    file = pa.ipc.open_file(stack.enter_context(pa.memory_map(str(folder / "cells.arrow"))))
    batches = [file.get_batch(i) for i in range(file.num_record_batches)]
    columns = [_Chunks([batch.column(i).flatten().to_numpy() for batch in batches]) for i in range(2)]
    return _Rows(_with_rest(folder, *columns))


def _h5ad(compression: str, *, shuffle: bool) -> Container:
    def write(source: Source, folder: Path) -> None:
        import h5py
        from anndata import AnnData
        from anndata.io import write_elem

        folder.mkdir()
        with h5py.File(folder / "cells.h5ad", "w") as file:
            write_elem(file, "/", AnnData(shape=(source.n_obs, source.n_vars)))
            if "X" in file:
                del file["X"]  # an explicit null
            group = file.create_group("X")
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
            group.attrs["shape"] = np.array([source.n_obs, source.n_vars])
            group["indptr"] = source.indptr
            made = {
                "shape": (source.nnz,),
                "chunks": (min(CHUNK, source.nnz),),
                "compression": compression,
                "shuffle": shuffle,
            }
            data = group.create_dataset("data", dtype=np.float32, **made)
            indices = group.create_dataset("indices", dtype=np.int32, **made)
            end = 0
            for block in source.blocks():
                begin, end = end, end + block.nnz
                data[begin:end], indices[begin:end] = block.data, block.indices

    def open_file(folder: Path, stack: ExitStack) -> Reader:
        import h5py

        group = stack.enter_context(h5py.File(folder / "cells.h5ad", "r"))["X"]
        nothing = np.empty(0, np.int64)
        n_vars = int(group.attrs["shape"][1])
        return _Rows(PackedRows(group["indptr"][:], group["indices"], group["data"], nothing, nothing, n_vars))

    return Container(write, open_file, "h5py")


class _ScDataset:
    """Batches as scDataset makes them of a backed AnnData."""

    n_fetched = 16  # its default

    def __init__(self, path: Path, stack: ExitStack) -> None:
        from anndata import read_h5ad

        self._adata = read_h5ad(path, backed="r")
        stack.callback(self._adata.file.close)

    def sequential(self) -> Iterator[sp.csr_matrix]:
        from scdataset import Streaming

        return iter(self._dataset(Streaming(), BLOCK))

    def shuffled(self, n_runs: int, generator: np.random.Generator) -> Iterator[sp.csr_matrix]:
        from scdataset import BlockShuffling

        while True:
            yield from self._dataset(BlockShuffling(BATCH // n_runs), BATCH, int(generator.integers(2**31)))

    def _dataset(self, strategy: Any, batch_size: int, seed: int = 0) -> Any:
        from scdataset import scDataset

        return scDataset(
            self._adata, strategy, batch_size, fetch_transform=lambda cells: cells.X, drop_last=False, seed=seed
        )


def _write_annbatch(source: Source, folder: Path) -> None:
    """As annbatch stores cells; it takes them whole."""
    import zarr
    from annbatch import write_sharded
    from anndata import AnnData

    shape = (source.n_obs, source.n_vars)
    whole = sp.csr_matrix((source.data, source.indices, source.indptr), shape=shape)
    write_sharded(zarr.open_group(folder, mode="w", zarr_format=3), AnnData(whole))


class _Annbatch:
    """Batches as annbatch makes them."""

    n_fetched = 8  # 16,384 cells, its default

    def __init__(self, folder: Path) -> None:
        import zarr
        from anndata.io import sparse_dataset

        self._cells = sparse_dataset(zarr.open_group(folder, mode="r")["X"])

    def sequential(self) -> Iterator[sp.csr_matrix]:
        return self._batches(BLOCK, 1)

    def shuffled(self, n_runs: int, generator: np.random.Generator) -> Iterator[sp.csr_matrix]:
        while True:
            yield from self._batches(BATCH, n_runs, shuffle=True, rng=generator)

    def _batches(self, batch_size: int, n_runs: int, **options: Any) -> Iterator[sp.csr_matrix]:
        from annbatch import Loader

        run, n_preloaded = batch_size // n_runs, self.n_fetched * n_runs
        loader = Loader(
            batch_size=batch_size, chunk_size=run, preload_nchunks=n_preloaded, preload_to_gpu=False, **options
        )
        return (batch["X"] for batch in loader.add_datasets([self._cells]))


CONTAINERS: dict[str, Container] = {
    "mapped": Container(_write_store, lambda folder, stack: _Rows(CellStore.open(folder))),
    "pread": Container(_write_store, _open_pread),
    "arrow": Container(_write_arrow, _open_arrow, "pyarrow"),
    "zarr_raw": _zarr(lambda: None),
    "zarr_lz4": _zarr(_lz4),
    "zarr_zstd": _zarr(lambda: "auto"),
    "h5ad_lzf": _h5ad("lzf", shuffle=True),
    "h5ad_gzip": _h5ad("gzip", shuffle=False),
    "scdataset": Container(
        _h5ad("lzf", shuffle=True).write, lambda folder, stack: _ScDataset(folder / "cells.h5ad", stack), "scdataset"
    ),
    "annbatch": Container(_write_annbatch, lambda folder, stack: _Annbatch(folder), "annbatch"),
}
