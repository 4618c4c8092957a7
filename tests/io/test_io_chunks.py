"""Stretches of compressed arrays: what HDF5 itself reads, whatever the filters, and the same complaints."""

from __future__ import annotations

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sccagn_scale.io import _chunks
from sccagn_scale.io._chunks import read_range

DTYPES = ["u1", "<i2", ">i4", "<f4", "<f8", "?"]


@pytest.fixture(autouse=True)
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(_chunks, "_PIECE", 64)


def inflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first values of the chunks that are taken apart here."""
    seen: list[int] = []
    chunk = _chunks._chunk

    def spy(array: h5py.Dataset, first: int, filters: list[int]) -> np.ndarray:
        values = chunk(array, first, filters)
        seen.append(first)
        return values

    monkeypatch.setattr(_chunks, "_chunk", spy)
    return seen


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.integers(1, 200),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from(["gzip", "lzf", None]),
    st.booleans(),
    st.data(),
)
def test_any_stretch_is_what_hdf5_reads(
    dtype: str, n: int, chunk: int, shuffle: bool, compression: str | None, checksum: bool, data: st.DataObject
) -> None:
    values = np.random.default_rng(n).integers(0, 100, n).astype(dtype)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    with h5py.File("in memory", "w", driver="core", backing_store=False) as file:
        options = {"compression": compression, "shuffle": shuffle, "fletcher32": checksum}
        array = file.create_dataset("a", data=values, chunks=(min(chunk, n),), **options)
        found = read_range(array, start, stop)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values[start:stop])


def test_deflated_chunks_are_taken_apart_here_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = inflated(monkeypatch)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = {"data": np.arange(100), "chunks": (10,)}
        for name in ("lzf", "gzip"):
            file.create_dataset(name, compression=name, shuffle=True, **options)
        file.create_dataset("checked", compression="gzip", fletcher32=True, **options)
        file["plain"] = np.arange(100)
        for name in ("lzf", "checked", "plain"):
            read_range(file[name], 15, 62)
        assert seen == []
        read_range(file["gzip"], 15, 20)  # of one chunk alone: nothing to share
        assert seen == []
        read_range(file["gzip"], 15, 62)
        assert sorted(seen) == [10, 20, 30, 40, 50, 60]
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        read_range(file["gzip"], 15, 62)
        assert len(seen) == 6


def test_chunks_that_were_never_written_or_not_compressed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("a", (40,), "<i4", chunks=(10,), compression="gzip", fillvalue=7)
        array[:10] = np.arange(10)
        array.id.write_direct_chunk((20,), np.arange(10, dtype="<i4").tobytes(), filter_mask=1)
        expected = np.r_[np.arange(10), [7] * 10, np.arange(10), [7] * 10]
        np.testing.assert_array_equal(read_range(array, 0, 40), expected)
        np.testing.assert_array_equal(read_range(array, 20, 40), expected[20:])


def test_filters_may_be_left_out_of_single_chunks(tmp_path: Path) -> None:
    values = np.arange(40, dtype="<i4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("a", data=values, chunks=(10,), compression="gzip", shuffle=True)
        array.id.write_direct_chunk((10,), zlib.compress(values[10:20].tobytes()), filter_mask=1)  # not shuffled
        shuffled = values[20:30].view("u1").reshape(10, 4).T.tobytes()
        array.id.write_direct_chunk((20,), shuffled, filter_mask=2)  # not deflated
        array.id.write_direct_chunk((30,), values[30:].tobytes(), filter_mask=3)
        np.testing.assert_array_equal(array[:], values)
        for stop in (20, 30, 40):
            np.testing.assert_array_equal(read_range(array, stop - 20, stop), values[stop - 20 : stop])


@pytest.mark.parametrize("shuffle", [False, True])
def test_damage_is_hdf5s_to_tell(tmp_path: Path, shuffle: bool) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("a", data=np.arange(40), chunks=(10,), compression="gzip", shuffle=shuffle)
        array.id.write_direct_chunk((10,), b"no deflated bytes")
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(read_range(file["a"], 20, 40), np.arange(20, 40))
        with pytest.raises(OSError, match="filter"):
            read_range(file["a"], 0, 40)
